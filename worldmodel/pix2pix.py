"""A baseline without a generative model: a small U-Net that regresses the wrist view from condition map and anchor.

After Pix2Pix (Isola et al. 2017, arXiv 1611.07004) without its discriminator: an L1 loss on a U-Net with skip
connections.  Frame by frame, so nothing flickers less or more than its input.  Not here: generators built on it
(``baselines``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1),
        nn.GroupNorm(4, after),
        nn.SiLU(),
        nn.Conv2d(after, after, 3, 1, 1),
        nn.GroupNorm(4, after),
        nn.SiLU(),
    )


class UNet(nn.Module):
    """Condition map and anchor in, wrist frame out."""

    def __init__(self, width: int = 12, levels: int = 4) -> None:
        """Build it.

        Args:
            width: channels at full resolution; doubled at each level.
            levels: how often the resolution is halved.
        """
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.first = _block(6, widths[0])
        self.down = nn.ModuleList(_block(widths[n], widths[n + 1], stride=2) for n in range(levels))
        self.up = nn.ModuleList(_block(widths[n + 1] + widths[n], widths[n]) for n in reversed(range(levels)))
        self.last = nn.Conv2d(widths[0], 3, 1)

    def forward(self, condition: Tensor, anchor: Tensor) -> Tensor:
        """Return wrist frames (N, 3, H, W) of condition maps (N, 3, H, W) and anchors (N, 3, S, S), all in [-1, 1]."""
        anchor = F.interpolate(anchor, size=condition.shape[-2:], mode="bilinear", align_corners=False)
        state = self.first(torch.cat([condition, anchor], dim=1))
        skipped = []
        for down in self.down:
            skipped.append(state)
            state = down(state)
        for up in self.up:
            skip = skipped.pop()
            larger = F.interpolate(state, size=skip.shape[-2:], mode="nearest")
            state = up(torch.cat([larger, skip], dim=1))
        frames: Tensor = self.last(state)
        return frames
