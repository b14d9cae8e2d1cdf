"""The Video Former: learned queries that gather what matters from the features of every predicted frame.

Each layer lets the queries of a frame attend to that frame's features (spatial), then to the same query in the other
frames (temporal), then to nothing (feed-forward): VPP, arXiv 2412.14803, section 4.2.  What is not VPP's: the sentence
scales and shifts the features (FiLM, as in :mod:`policies.encoders`), because which of three blocks is meant must be
known before few queries stand for all that is seen.  Not here: the predictor that the features come from, or the action
head that reads the queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policies.dit import MLP_RATIO, Attention
from policies.encoders import POSITION_SCALE, Keypoints, film_layer, grid_positions

VIEWS = 2
QUERY_SCALE = 0.5


class FormerLayer(nn.Module):
    """Spatial attention, temporal attention, feed-forward; each adds to the queries."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.spatial = Attention(dim, heads)
        self.temporal = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, MLP_RATIO * dim), nn.GELU(), nn.Linear(MLP_RATIO * dim, dim))

    def forward(self, queries: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """Return queries (B, F, Q, D).

        Args:
            queries: (B, F, Q, D).
            features: (B, F, N, D).
            mask: bool (B, N), true where a feature counts.
        """
        B, F, Q, D = queries.shape
        N = features.shape[2]
        seen = mask[:, None].expand(B, F, N).reshape(B * F, 1, 1, N)
        x = queries.reshape(B * F, Q, D)
        x = x + self.spatial(self.norms[0](x), self.spatial.keys_values(features.reshape(B * F, N, D)), seen)
        x = x.view(B, F, Q, D).transpose(1, 2).reshape(B * Q, F, D)
        y = self.norms[1](x)
        everyone = torch.ones(1, 1, 1, F, dtype=torch.bool, device=x.device)
        x = x + self.temporal(y, self.temporal.keys_values(y), everyone)
        x = x + self.mlp(self.norms[2](x))
        return x.view(B, Q, F, D).transpose(1, 2)  # (B, F, Q, D)


class VideoFormer(nn.Module):
    """Features of the predicted frames of one or two views to F × Q tokens.

    An absent view is one learned token in each frame, as in :class:`policies.encoders.ViewEncoder`: a policy without a
    wrist view is the same network.
    """

    def __init__(
        self,
        channels: int,
        *,
        sentence_dim: int,
        grid: int,
        keypoints: int,
        frames: int,
        queries: int,
        dim: int,
        layers: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.project = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )
        self.position = nn.Parameter(grid_positions(grid, dim) * POSITION_SCALE)
        self.keypoints = Keypoints(channels, keypoints, dim) if keypoints else None
        self.camera = nn.Parameter(torch.randn(VIEWS, dim) * 0.02)
        self.frame = nn.Parameter(torch.randn(frames, 1, dim) * 0.02)
        self.absent = nn.Parameter(torch.randn(VIEWS, dim) * 0.02)
        self.queries = nn.Parameter(torch.randn(frames, queries, dim) * QUERY_SCALE)
        self.layers = nn.ModuleList(FormerLayer(dim, heads) for _ in range(layers))
        self.feature_norm = nn.LayerNorm(dim)
        self.film = film_layer(sentence_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, views: list[Tensor | None], present: list[Tensor], sentence: Tensor) -> Tensor:
        """Return tokens (B, F × Q, D).

        Args:
            views: for each view its features (B, F, N, C), or None if no sample of the batch has it.
            present: for each view whether each sample has it, bool (B,).
            sentence: float (B, sentence_dim), components of about 1.
        """
        B, F = len(present[0]), len(self.queries)
        parts, masks = [], []
        for number, (features, here) in enumerate(zip(views, present, strict=True)):
            absent = self.absent[number].expand(B, F, 1, -1)
            if features is not None:
                x = self.project(features) + self.position  # (B, F, N, D)
                if self.keypoints is not None:
                    maps = features.flatten(0, 1).transpose(1, 2).unflatten(2, (self.grid, self.grid))
                    x = torch.cat([x, self.keypoints(maps).to(x.dtype).unflatten(0, (B, F))], dim=2)
                x = x + self.camera[number]
                parts.append(x)  # (B, F, N + 1, D)
                masks.append(here[:, None].expand(B, x.shape[2]))
                absent = absent.to(x.dtype)
            parts.append(absent)
            masks.append(~here[:, None])
        features = self.feature_norm(torch.cat(parts, dim=2) + self.frame)  # (B, F, N + …, D)
        scale, moved = self.film(sentence)[:, None, None].chunk(2, dim=-1)  # (B, 1, 1, D) each
        features = features * (1 + scale) + moved
        mask = torch.cat(masks, dim=1)
        x = self.queries.expand(B, -1, -1, -1).to(features.dtype)
        for layer in self.layers:
            x = layer(x, features, mask)
        return self.norm(x).flatten(1, 2)  # (B, F × Q, D)
