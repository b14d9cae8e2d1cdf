"""VGGT's track head: follows query pixels of the first view into all others.

Not here: which pixels are asked for (:class:`VggtTracker` asks a grid on the wrist image).  It is CoTracker's idea
(Karaev et al., 2023): correlate each track's feature with a pyramid of every view's feature map around the present
guess, let a transformer over views and tracks correct the guess, repeat.  Parameter names, among them a misspelt one,
and numerics are those of the published weights under ``track_head``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.vggt.config import VggtConfig
from worldmodel.vggt.dense_head import DenseHead
from worldmodel.vggt.layers import Mlp

FEATURES = 128
HIDDEN = 384
LEVELS = 7
RADIUS = 4
STRIDE = 2
ROUNDS = 4
MAX_SCALE = 518.0
VIRTUAL = 64
TOKEN = 3 * FEATURES + 4


class TrackBlock(nn.Module):
    """Self-attention; as published, the shortcut starts behind the first normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        x = self.norm1(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class CrossTrackBlock(nn.Module):
    """Attention from one set of tokens to another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm_context, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map (B, N, C) and its context (B, M, C) to (B, N, C)."""
        x, context = self.norm1(x), self.norm_context(context)
        x = x + self.cross_attn(x, context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class UpdateFormer(nn.Module):
    """Alternates between the views of a track and, through a few virtual tracks, the tracks of a view."""

    def __init__(self, depth: int = 6, heads: int = 8) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(TOKEN)
        self.input_transform = nn.Linear(TOKEN, HIDDEN)
        self.output_norm = nn.LayerNorm(HIDDEN)
        self.flow_head = nn.Linear(HIDDEN, FEATURES + 2)
        self.virual_tracks = nn.Parameter(torch.randn(1, VIRTUAL, 1, HIDDEN))
        self.time_blocks = nn.ModuleList(TrackBlock(HIDDEN, heads) for _ in range(depth))
        self.space_virtual_blocks = nn.ModuleList(TrackBlock(HIDDEN, heads) for _ in range(depth))
        self.space_point2virtual_blocks = nn.ModuleList(CrossTrackBlock(HIDDEN, heads) for _ in range(depth))
        self.space_virtual2point_blocks = nn.ModuleList(CrossTrackBlock(HIDDEN, heads) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Q, V, TOKEN) to corrections (B, Q, V, 2 + FEATURES)."""
        B, Q, V, _ = x.shape
        start = self.input_transform(self.input_norm(x))
        x = torch.cat([start, self.virual_tracks.expand(B, -1, V, -1)], dim=1)  # (B, Q + M, V, H)
        spatial = (self.space_virtual2point_blocks, self.space_virtual_blocks, self.space_point2virtual_blocks)
        for over_views, gather, mix, spread in zip(self.time_blocks, *spatial, strict=True):
            x = over_views(x.flatten(0, 1)).unflatten(0, (B, -1))
            tracks = x.transpose(1, 2).flatten(0, 1)  # (B V, Q + M, H)
            points, virtual = tracks[:, :Q], tracks[:, Q:]
            virtual = mix(gather(virtual, points))
            points = spread(points, virtual)
            x = torch.cat([points, virtual], dim=1).unflatten(0, (B, V)).transpose(1, 2)
        return self.flow_head(self.output_norm(x[:, :Q] + start))


class TrackPredictor(nn.Module):
    """Refines track positions from feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.corr_mlp = Mlp(LEVELS * (2 * RADIUS + 1) ** 2, HIDDEN, FEATURES)
        self.query_ref_token = nn.Parameter(torch.randn(1, 2, TOKEN))
        self.updateformer = UpdateFormer()
        self.fmap_norm = nn.LayerNorm(FEATURES)
        self.ffeat_norm = nn.GroupNorm(1, FEATURES)
        self.ffeat_updater = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(FEATURES, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(FEATURES, 1))

    def forward(self, queries: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Follow queries.

        Args:
            queries: (B, Q, 2) x, y in pixels of the first view, the first pixel's centre at (0, 0).
            maps: (B, V, F, h, w) features at half the resolution.

        Returns:
            positions (B, V, Q, 2) in the same pixels, visibility and confidence (B, V, Q) in [0, 1].
        """
        B, V, _, height, width = maps.shape
        Q = queries.shape[1]
        maps = self.fmap_norm(maps.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)
        first = queries / STRIDE
        positions = first[:, None].expand(B, V, Q, 2)
        features = _sample(maps[:, 0], first)[:, None].expand(B, V, Q, FEATURES)
        place = _sample(_sine_map(TOKEN, height, width, maps.device).expand(B, -1, -1, -1), first)  # (B, Q, TOKEN)
        roles = torch.cat([self.query_ref_token[:, :1], self.query_ref_token[:, 1:].expand(-1, V - 1, -1)], dim=1)
        pyramid = [maps]
        for _ in range(LEVELS - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1].flatten(0, 1), 2).unflatten(0, (B, V)))
        for _ in range(ROUNDS):
            nearby = self.corr_mlp(_correlate(pyramid, features, positions))  # (B, V, Q, F)
            moved = positions - positions[:, :1]
            motion = torch.cat([_motion_code(moved, FEATURES // 2), moved / MAX_SCALE, moved / MAX_SCALE], dim=-1)
            tokens = torch.cat([motion, nearby, features], dim=-1).transpose(1, 2)  # (B, Q, V, TOKEN)
            change = self.updateformer(tokens + place[:, :, None] + roles[:, None]).transpose(1, 2)
            flat = self.ffeat_norm(change[..., 2:].reshape(-1, FEATURES))
            features = features + self.ffeat_updater(flat).view(B, V, Q, FEATURES)
            positions = positions + change[..., :2]
            positions = torch.cat([first[:, None], positions[:, 1:]], dim=1)
        visibility, confidence = self.vis_predictor(features)[..., 0], self.conf_predictor(features)[..., 0]
        return positions * STRIDE, visibility.sigmoid(), confidence.sigmoid()


class TrackHead(nn.Module):
    """Feature maps from the aggregator's tokens, and the predictor on them."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.feature_extractor = DenseHead(config, out=None, features=FEATURES)
        self.tracker = TrackPredictor()

    def forward(
        self, layers: dict[int, Tensor], size: tuple[int, int], queries: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`TrackPredictor.forward`; ``size`` is the height and width of the images."""
        return self.tracker(queries, self.feature_extractor.features(layers, size))


def _sample(maps: Tensor, positions: Tensor) -> Tensor:
    """Sample (B, C, h, w) at (B, Q, 2), whose (0, 0) is the first cell's centre; returns (B, Q, C)."""
    scale = torch.tensor([2 / max(maps.shape[3] - 1, 1), 2 / max(maps.shape[2] - 1, 1)], device=maps.device)
    grid = (positions * scale - 1)[:, :, None]
    return F.grid_sample(maps, grid, align_corners=True, padding_mode="border")[..., 0].transpose(1, 2)


def _correlate(pyramid: list[Tensor], features: Tensor, positions: Tensor) -> Tensor:
    """Return (B, V, Q, LEVELS * (2 RADIUS + 1)²): each track's feature against the map around its position."""
    B, V, Q, _ = positions.shape
    reach = torch.arange(-RADIUS, RADIUS + 1, device=positions.device, dtype=positions.dtype)
    # As published: the first axis of the window is the column, so the window is read transposed.
    window = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1)
    found = []
    for level, maps in enumerate(pyramid):
        height, width = maps.shape[3:]
        match = torch.einsum("bvqc,bvchw->bvqhw", features, maps) / math.sqrt(features.shape[-1])
        at = positions.reshape(-1, 1, 1, 2) / 2**level + window
        scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], device=at.device, dtype=at.dtype)
        seen = F.grid_sample(match.view(-1, 1, height, width), at * scale - 1, align_corners=True)
        found.append(seen.view(B, V, Q, -1))
    return torch.cat(found, dim=-1)


def _motion_code(moved: Tensor, channels: int) -> Tensor:
    """Return (..., 2 channels): interleaved sines and cosines of x, then of y."""
    frequency = torch.arange(0, channels, 2, device=moved.device, dtype=torch.float32) * (1000.0 / channels)
    angles = moved[..., None] * frequency  # (..., 2, channels / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def _sine_map(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return (1, channels, height, width): sines and cosines of x in the first half, of y in the second."""
    quarter = channels // 4
    frequency = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64, device=device) / quarter)
    x = torch.arange(width, dtype=torch.float64, device=device)[None, :, None] * frequency
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None, None] * frequency
    shape = (height, width, quarter)
    parts = [x.sin().expand(shape), x.cos().expand(shape), y.sin().expand(shape), y.cos().expand(shape)]
    return torch.cat(parts, dim=-1).permute(2, 0, 1)[None].float()
