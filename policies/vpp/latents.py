"""What a video predictor predicts: images as grids of latents.

``PatchLatents`` has no weights: each square of pixels is one latent, nothing is lost.  ``VaeLatents`` is Stable Video
Diffusion's autoencoder.  Not here: noise, time, or the network.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def _planes(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in −1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


class PatchLatents(nn.Module):
    """Squares of pixels, side by side as channels.

    Args:
        patch: pixels a side.
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.channels = 3 * patch * patch
        self.scale = 1.0

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 (B, H, W, 3) to (B, C, h, w)."""
        return F.pixel_unshuffle(_planes(images), self.patch)


class VaeLatents(nn.Module):
    """The most likely latents of diffusers' ``AutoencoderKLTemporalDecoder``.

    They are not scaled, as Stable Video Diffusion wants the image that it starts from; ``scale`` times them is what it
    adds noise to.
    """

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.channels = int(autoencoder.config.latent_channels)
        self.scale = float(autoencoder.config.scaling_factor)

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 (B, H, W, 3) to (B, C, h, w)."""
        latents: Tensor = self.autoencoder.encode(_planes(images).to(self.autoencoder.dtype)).latent_dist.mode()
        return latents
