"""Random changes of training images on the device where they lie: shifts, tints, and strong recolouring.

Each draw is made for every view alike, whether an arm shows it or not, so that the arms of a comparison read the same
random numbers.  Validation and tests see images as they are; nothing here is used then.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RECOLOURED = 0.8
"""Share of the images that recolouring changes; the others stay what a camera gives."""
MIX, CONTRAST, SMOOTH, GRAIN = 0.25, 0.2, 30.0, 12.0
"""At strength 1: spread of the channels' mixture, of the contrast's logarithm, and of two patterns in grey levels."""
SMOOTH_CELLS, GRAIN_PIXELS = 6, 4
"""The smooth pattern has 6 × 6 random values an image, the grain one for 4 × 4 pixels."""


def draw_shift(B: int, share: float, side: int, generator: torch.Generator) -> Tensor | None:
    """Return whole pixels (B, 2) within ±``share`` of the side, or None for none.

    The share that is drawn does not depend on the side, so arms stay paired.
    """
    if share == 0:
        return None
    largest = max(1, round(share * side))
    drawn = torch.rand(B, 2, device=generator.device, generator=generator)
    return (drawn * (2 * largest + 1)).long().clamp_max(2 * largest) - largest


def shifted(images: Tensor, frame: Tensor, shift: Tensor | None) -> Tensor:
    """Gather frames, each moved by its shift (dy, dx); what comes in at the border repeats the border."""
    if shift is None:
        return images[frame]
    H, W = images.shape[1:3]
    rows = (torch.arange(H, device=images.device) + shift[:, :1]).clamp_(0, H - 1)  # (B, H)
    columns = (torch.arange(W, device=images.device) + shift[:, 1:]).clamp_(0, W - 1)  # (B, W)
    return images[frame[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)


def draw_tint(B: int, jitter: float, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Return a gain for each channel (B, 3) and an offset in grey levels (B, 1), or None for none."""
    if jitter == 0:
        return None
    share = torch.rand(B, 4, device=generator.device, generator=generator) * 2 - 1
    return 1 + jitter * share[:, :3], 255 * jitter * share[:, 3:]


def tinted(images: Tensor, tint: tuple[Tensor, Tensor] | None) -> Tensor:
    """Scale each colour channel of uint8 (B, H, W, 3), add to all of them, and clip to what a camera can give."""
    if tint is None:
        return images
    gain, offset = (part[:, None, None] for part in tint)  # (B, 1, 1, 3) and (B, 1, 1, 1)
    return (images * gain + offset).clamp_(0, 255).to(torch.uint8)


def recoloured(images: Tensor, strength: float, seed: int) -> Tensor:
    """Mix the channels of uint8 (B, H, W, 3) at random, change contrast, lay a smooth pattern and a grain over.

    Args:
        images: the images.
        strength: 0..1; 0 returns them as they are.
        seed: decides everything random.  Each view is given its own, so that an arm that shows one view draws for it
            what an arm that shows both draws.
    """
    if strength == 0:
        return images
    B, H, W, _ = images.shape
    device = images.device
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return strength * torch.randn(*shape, device=device, generator=generator)

    mixture = torch.eye(3, device=device) + MIX * normal(B, 3, 3)
    gain = torch.exp(CONTRAST * normal(B, 1, 1, 1))
    x = torch.einsum("bhwc,bcd->bhwd", (images.float() - 127.5) * gain, mixture) + 127.5
    for spread, rows, columns in (
        (SMOOTH, SMOOTH_CELLS, SMOOTH_CELLS),
        (GRAIN, -(-H // GRAIN_PIXELS), -(-W // GRAIN_PIXELS)),
    ):
        pattern = F.interpolate(spread * normal(B, 3, rows, columns), size=(H, W), mode="bilinear", align_corners=False)
        x = x + pattern.permute(0, 2, 3, 1)
    chosen = torch.rand(B, 1, 1, 1, device=device, generator=generator) < RECOLOURED
    return torch.where(chosen, x.clamp(0, 255).to(torch.uint8), images)
