"""Video codecs: frames to the latents that the video model denoises, and back.

Two codecs behind one interface.  ``LinearCodec`` is for small scales, where a learned autoencoder would cost more than
the model that uses it: a principal-component basis over square pixel patches, fitted in seconds, exactly affine.
``WanCodec`` is the autoencoder of Wan2.1 (diffusers ``AutoencoderKLWan``), which also compresses time.

Not here: reading files, the video model.  Frames are RGB in [-1, 1], (B, T, 3, H, W); latents are (B, C, T', h, w).
"""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.api import WorldModelError


class VideoCodec(Protocol):
    """Encodes frames to latents of about unit scale and decodes them."""

    channels: int
    spatial: int

    def encode(self, frames: Tensor) -> Tensor:
        """Map frames (B, T, 3, H, W) in [-1, 1] to latents (B, C, T', H/spatial, W/spatial)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Map latents (B, C, T', h, w) to frames (B, T, 3, H, W); values may lie a little outside [-1, 1]."""
        ...


def frames_to_tensor(frames: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Resize uint8 frames (..., H, W, 3) to ``size`` (height, width) and return float (..., 3, h, w) in [-1, 1]."""
    lead, pixels = frames.shape[:-3], frames.shape[-3:]
    flat = torch.from_numpy(np.ascontiguousarray(frames)).reshape(-1, *pixels).permute(0, 3, 1, 2)  # (N, 3, H, W)
    scaled = flat.float() / 127.5 - 1.0
    if scaled.shape[-2:] != size:
        scaled = F.interpolate(scaled, size=size, mode="bilinear", antialias=True, align_corners=False)
    return scaled.reshape(*lead, 3, *size)  # (..., 3, h, w)


def tensor_to_frames(frames: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Invert ``frames_to_tensor``: float (..., 3, h, w) to uint8 (..., H, W, 3), resized to ``size`` and clipped."""
    lead = frames.shape[:-3]
    flat = frames.reshape(-1, *frames.shape[-3:]).float()  # (N, 3, h, w)
    if flat.shape[-2:] != size:
        flat = F.interpolate(flat, size=size, mode="bilinear", antialias=True, align_corners=False)
    levels = ((flat.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = levels.permute(0, 2, 3, 1).reshape(*lead, *size, 3)  # (..., H, W, 3)
    return cast(NDArray[np.uint8], pixels.cpu().numpy())


class LinearCodec(nn.Module):
    """Principal components of pixel patches around the mean image: affine, one latent frame per frame.

    The mean depends on the position in the image, so zero latents decode to the mean image; one scale for all
    channels keeps the energy of each component, so squared error in latents is squared error in pixels (up to what
    the dropped components held).
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, size: tuple[int, int], patch: int, channels: int) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise WorldModelError(f"codec: size {size} is not a multiple of the patch, {patch}")
        if not 1 <= channels <= 3 * patch * patch:
            raise WorldModelError(f"codec: expected 1..{3 * patch * patch} channels for patch {patch}, got {channels}")
        self.size, self.spatial, self.channels = size, patch, channels
        self.register_buffer("mean", torch.zeros(3, *size))
        self.register_buffer("basis", torch.eye(3 * patch * patch)[:channels])  # (C, 3pp), orthonormal rows
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, wrist: Tensor, condition: Tensor | None = None) -> LinearCodec:
        """Fit mean, basis and scale; the scale gives the wrist latents unit variance over all channels together.

        Args:
            wrist: (N, 3, H, W) wrist frames in [-1, 1].
            condition: (N, 3, H, W) condition maps, which share the basis, or None.
        """
        if len(wrist) < 1:
            raise WorldModelError("codec: needs at least one wrist frame to fit")
        self.mean.copy_(wrist.mean(0))
        samples = wrist if condition is None else torch.cat([wrist, condition])
        patches = F.pixel_unshuffle(samples - self.mean, self.spatial).permute(0, 2, 3, 1)
        patches = patches.reshape(-1, patches.shape[-1]).double()  # (N*h*w, 3pp)
        eigenvectors = torch.linalg.eigh(patches.T @ patches / len(patches)).eigenvectors
        basis = eigenvectors.flip(1).T[: self.channels]
        # An eigenvector's sign is arbitrary: fix it, or two machines would store different latents.
        signs = torch.sign(basis.gather(1, basis.abs().argmax(1, keepdim=True)))
        self.basis.copy_(basis * signs)
        self.scale.fill_(1.0)
        spread = self.encode(wrist[:, None]).pow(2).mean().sqrt()
        self.scale.copy_(spread.clamp(min=1e-3))
        return self

    def encode(self, frames: Tensor) -> Tensor:
        """Project every patch on the basis; see ``VideoCodec.encode``."""
        B, T = frames.shape[:2]
        if tuple(frames.shape[-2:]) != self.size:
            raise WorldModelError(f"codec: fitted for frames of {self.size}, got {tuple(frames.shape[-2:])}")
        patches = F.pixel_unshuffle(frames.flatten(0, 1) - self.mean, self.spatial)  # (BT, 3pp, h, w)
        latents = torch.einsum("cp,nphw->nchw", self.basis, patches) / self.scale
        return latents.unflatten(0, (B, T)).transpose(1, 2)  # (B, C, T, h, w)

    def decode(self, latents: Tensor) -> Tensor:
        """Sum the components up; see ``VideoCodec.decode``."""
        B, _, T = latents.shape[:3]
        flat = latents.transpose(1, 2).flatten(0, 1) * self.scale  # (BT, C, h, w)
        patches = torch.einsum("cp,nchw->nphw", self.basis, flat)
        return (F.pixel_shuffle(patches, self.spatial) + self.mean).unflatten(0, (B, T))  # (B, T, 3, H, W)


class WanCodec(nn.Module):
    """The frozen Wan2.1 autoencoder: 8 × smaller in space, 4 × in time (T = 4n + 1), latents of unit scale."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, source: str, subfolder: str | None = None, dtype: torch.dtype = torch.float32) -> None:
        """Load the autoencoder.

        Args:
            source: Hugging Face id or local folder.
            subfolder: where the autoencoder lies in it, as ``"vae"`` in a pipeline's repository.
            dtype: of the weights; the release runs it in float32.
        """
        super().__init__()
        from diffusers import AutoencoderKLWan

        try:
            self.autoencoder = AutoencoderKLWan.from_pretrained(source, subfolder=subfolder, torch_dtype=dtype)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise WorldModelError(
                f"autoencoder {source!r}: expected a Hugging Face id or folder of an AutoencoderKLWan: {reason}"
            ) from error
        self.autoencoder.requires_grad_(False).eval()
        settings = self.autoencoder.config
        self.channels, self.spatial = int(settings.z_dim), int(settings.scale_factor_spatial)
        self.temporal = int(settings.scale_factor_temporal)
        self.register_buffer("latents_mean", torch.tensor(settings.latents_mean).view(1, -1, 1, 1, 1))
        self.register_buffer("latents_std", torch.tensor(settings.latents_std).view(1, -1, 1, 1, 1))

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode to the mode of the posterior; see ``VideoCodec.encode``."""
        video = frames.transpose(1, 2).to(self.autoencoder.dtype)  # (B, 3, T, H, W)
        latents = self.autoencoder.encode(video).latent_dist.mode().float()
        return (latents - self.latents_mean) / self.latents_std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode; see ``VideoCodec.decode``."""
        video = latents * self.latents_std + self.latents_mean
        frames: Tensor = self.autoencoder.decode(video.to(self.autoencoder.dtype)).sample
        return frames.float().transpose(1, 2)  # (B, T, 3, H, W)
