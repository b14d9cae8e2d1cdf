"""From an image to patch tokens: DINOv2's vision transformer, or strided convolutions for training from scratch.

Not here: attention between views (``aggregator.py``).  DINOv2: Oquab et al. (2023), with registers (Darcet et al.,
2023); parameter names are those of the published weights under ``aggregator.patch_embed``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.vggt.config import VggtConfig
from worldmodel.vggt.layers import Block


class PatchProjection(nn.Module):
    """One convolution from patches to tokens."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to tokens (B, N, C), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class DinoStem(nn.Module):
    """DINOv2's encoder; returns its normalised patch tokens."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        side = config.image_size // config.patch_size
        self.registers = config.registers
        self.patch_size = config.patch_size
        self.patch_embed = PatchProjection(config.patch_size, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, config.width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, config.width))
        self.mask_token = nn.Parameter(torch.zeros(1, config.width), requires_grad=False)
        # DINOv2 starts its layer scale at 1, whatever the aggregator does.
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, mlp_ratio=config.mlp_ratio, layer_scale=1.0, eps=1e-6)
            for _ in range(config.stem_depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.register_tokens, std=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to tokens (B, N, C), row by row."""
        B, _, H, W = images.shape
        patches = self.patch_embed(images) + self._positions(H // self.patch_size, W // self.patch_size)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(B, -1, -1)
        x = torch.cat([first, self.register_tokens.expand(B, -1, -1), patches], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1 + self.registers :]

    def _positions(self, rows: int, columns: int) -> Tensor:
        grid = self.pos_embed[:, 1:]
        side = math.isqrt(grid.shape[1])
        if (rows, columns) == (side, side):
            return grid
        grid = grid.transpose(1, 2).unflatten(2, (side, side)).float()  # (1, C, side, side)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True)
        return grid.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)


class ConvStem(nn.Module):
    """Strided 3x3 convolutions that halve the image until one pixel is one patch, and the place of every patch.

    Rotary positions are relative, so where in the image something lies has to be in the tokens themselves, as
    DINOv2's position embedding puts it there.
    """

    octaves = 5

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        halvings = int(math.log2(config.patch_size))
        widths = [max(16, config.width >> (halvings - 1 - level)) for level in range(halvings)]
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.GELU()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.proj = nn.Conv2d(before, config.width, 1)
        self.place = nn.Conv2d(4 * self.octaves, config.width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to tokens (B, N, C), row by row."""
        x = self.proj(self.layers(images))
        return (x + self.place(self._waves(x.shape[2], x.shape[3], x.device))).flatten(2).transpose(1, 2)

    def _waves(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return (1, 4 octaves, rows, columns): sines and cosines of the patch's place, half a wave and finer."""
        frequency = math.pi * 2.0 ** torch.arange(self.octaves, device=device)
        y = frequency[:, None] * ((torch.arange(rows, device=device) + 0.5) / rows)
        x = frequency[:, None] * ((torch.arange(columns, device=device) + 0.5) / columns)
        down = torch.cat([y.sin(), y.cos()])[:, :, None].expand(-1, -1, columns)
        across = torch.cat([x.sin(), x.cos()])[:, None, :].expand(-1, rows, -1)
        return torch.cat([down, across])[None]
