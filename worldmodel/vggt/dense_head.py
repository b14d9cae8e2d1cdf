"""The dense heads of VGGT: a depth or a point for every pixel, with a confidence.

Not here: what is learned from them (``stage1.py``).  Dense prediction transformer: Ranftl et al. (2021); parameter
names and numerics are those of the published weights under ``depth_head``, ``point_head`` and
``track_head.feature_extractor``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.vggt.config import VggtConfig

POSITION_BASE = 100.0
POSITION_SHARE = 0.1


def position_map(channels: int, height: int, width: int, aspect: float, device: torch.device) -> Tensor:
    """Return (channels, height, width): sines and cosines of the position on the image plane.

    Args:
        channels: a multiple of 4.
        height: of the map.
        width: of the map.
        aspect: width over height of the image; its half diagonal measures 1.
        device: where the map is made.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    x = torch.linspace(-1, 1, width, device=device, dtype=torch.float64) * (aspect / diagonal) * (width - 1) / width
    y = torch.linspace(-1, 1, height, device=device, dtype=torch.float64) * (1 / diagonal) * (height - 1) / height
    quarter = channels // 4
    frequency = POSITION_BASE ** -(torch.arange(quarter, device=device, dtype=torch.float64) / quarter)
    across, down = frequency[:, None] * x, frequency[:, None] * y  # (quarter, W), (quarter, H)
    shape = (quarter, height, width)
    parts = [wave(across)[:, None, :].expand(shape) for wave in (torch.sin, torch.cos)]
    parts += [wave(down)[:, :, None].expand(shape) for wave in (torch.sin, torch.cos)]
    return torch.cat(parts).float()


def _with_positions(x: Tensor, aspect: float) -> Tensor:
    positions = position_map(x.shape[1], x.shape[2], x.shape[3], aspect, x.device)
    return x + POSITION_SHARE * positions.to(x.dtype)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """Two convolutions around a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        # The published network rectifies in place, so its shortcut carries the rectified map too.
        x = F.relu(x)
        return self.conv2(F.relu(self.conv1(x))) + x


class Fusion(nn.Module):
    """Adds a finer map to a coarser one and resizes the sum."""

    def __init__(self, channels: int, joins: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        if joins:
            self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Map (B, C, h, w) and an optional finer map of that size to (B, C, *size)."""
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        return self.out_conv(_resize(self.resConfUnit2(x), size))


class DenseHead(nn.Module):
    """Reads four layers of tokens as images, fuses them from coarse to fine and predicts for every pixel."""

    def __init__(self, config: VggtConfig, out: int | None, features: int | None = None) -> None:
        """Build the head.

        Args:
            config: the network's sizes.
            out: channels predicted beside the confidence; None gives features at half the resolution instead, and
                leaves out the position maps, as the track head wants it.
            features: channels of the fused maps; None takes the configuration's.
        """
        super().__init__()
        width, channels = 2 * config.width, config.dense_channels
        features = features or config.dense_features
        self.patch_size, self.layers, self.out = config.patch_size, config.dense_layers, out
        self.special = 1 + config.registers
        self.norm = nn.LayerNorm(width)
        self.projects = nn.ModuleList(nn.Conv2d(width, count, 1) for count in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = nn.Module()
        for level, count in enumerate(channels, start=1):
            self.scratch.add_module(f"layer{level}_rn", nn.Conv2d(count, features, 3, padding=1, bias=False))
            self.scratch.add_module(f"refinenet{level}", Fusion(features, joins=level < 4))
        narrow = features if out is None else features // 2
        self.scratch.output_conv1 = nn.Conv2d(features, narrow, 3, padding=1)
        if out is not None:
            last = min(32, features)
            self.scratch.output_conv2 = nn.Sequential(
                nn.Conv2d(narrow, last, 3, padding=1), nn.ReLU(), nn.Conv2d(last, out + 1, 1)
            )

    def forward(self, layers: dict[int, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Predict for every pixel.

        Args:
            layers: what the aggregator gives, (B, V, N, 2 C) each.
            size: height and width of the images.

        Returns:
            Raw predictions (B, V, H, W, out) and confidence (B, V, H, W), at least 1.
        """
        B, V = layers[self.layers[0]].shape[:2]
        fused = _resize(self._fuse(layers, size), size)
        x = self.scratch.output_conv2(_with_positions(fused, size[1] / size[0]))  # type: ignore[operator]
        x = x.unflatten(0, (B, V)).permute(0, 1, 3, 4, 2)  # (B, V, H, W, out + 1)
        return x[..., :-1], 1 + x[..., -1].exp()

    def features(self, layers: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Return feature maps (B, V, F, H / 2, W / 2) for tracking."""
        B, V = layers[self.layers[0]].shape[:2]
        fused = _resize(self._fuse(layers, size), (size[0] // 2, size[1] // 2))
        return fused.unflatten(0, (B, V))

    def _fuse(self, layers: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        rows, columns = size[0] // self.patch_size, size[1] // self.patch_size
        maps = []
        for level, layer in enumerate(self.layers):
            tokens = self.norm(layers[layer][:, :, self.special :].flatten(0, 1))  # (B V, P, 2 C)
            x = self.projects[level](tokens.transpose(1, 2).unflatten(2, (rows, columns)))
            if self.out is not None:
                x = _with_positions(x, size[1] / size[0])
            x = self.resize_layers[level](x)
            maps.append(self.scratch.get_submodule(f"layer{level + 1}_rn")(x))
        x = maps[3]
        for level in (3, 2, 1, 0):
            finest = (2 * maps[0].shape[2], 2 * maps[0].shape[3])
            target = finest if level == 0 else (maps[level - 1].shape[2], maps[level - 1].shape[3])
            join = None if level == 3 else maps[level]
            x = self.scratch.get_submodule(f"refinenet{level + 1}")(x, join, target)
        return self.scratch.output_conv1(x)  # type: ignore[operator]


def signed_exponential(x: Tensor) -> Tensor:
    """Return sign(x) (e^|x| - 1): VGGT's activation for points, linear near 0 and wide far away."""
    return x.sign() * torch.expm1(x.abs())
