"""The transformer block of VGGT and its two-dimensional rotary position embedding.

Not here: how blocks are arranged (``aggregator.py``).  Attribute names are those of the published weights.
Rotary embedding: Su et al., RoFormer (2021), applied to the row with one half of each head and to the column with
the other, base frequency 100.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 100.0

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each (N, head width)."""


def rotary_table(rows: Tensor, columns: Tensor, head_width: int) -> Rotary:
    """Return the cosines and sines (N, head_width) for N tokens at these grid positions (N,).

    Args:
        rows: row of each token.
        columns: column of each token.
        head_width: channels of one attention head, a multiple of 4.
    """
    half = head_width // 2
    frequency = ROTARY_BASE ** -(torch.arange(0, half, 2, device=rows.device).float() / half)  # (half / 2,)
    angles = [position.float()[:, None] * frequency for position in (rows, columns)]
    table = torch.cat([angles[0], angles[0], angles[1], angles[1]], dim=-1)  # (N, head_width)
    return table.cos(), table.sin()


def grid_rotary(height: int, width: int, special: int, head_width: int, device: torch.device) -> Rotary:
    """Return the table of a view: ``special`` tokens at position (0, 0), then a grid that starts at (1, 1)."""
    rows, columns = torch.meshgrid(
        torch.arange(1, height + 1, device=device), torch.arange(1, width + 1, device=device), indexing="ij"
    )
    nothing = rows.new_zeros(special)
    return rotary_table(torch.cat([nothing, rows.flatten()]), torch.cat([nothing, columns.flatten()]), head_width)


def _rotate(x: Tensor, rotary: Rotary) -> Tensor:
    a, b, c, d = x.chunk(4, dim=-1)
    turned = torch.cat([-b, a, -d, c], dim=-1)
    return x * rotary[0].to(x.dtype) + turned * rotary[1].to(x.dtype)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, out: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out or width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., out)."""
        hidden = F.dropout(F.gelu(self.fc1(x)), self.dropout, self.training)
        return F.dropout(self.fc2(hidden), self.dropout, self.training)


class Attention(nn.Module):
    """Self-attention with optional normalised queries and keys and optional rotary positions."""

    def __init__(self, width: int, heads: int, normalise: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm: nn.Module = nn.LayerNorm(width // heads) if normalise else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(width // heads) if normalise else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C)."""
        B, N, C = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)  # (B, heads, N, D)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = _rotate(q, rotary), _rotate(k, rotary)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(B, N, C))


class LayerScale(nn.Module):
    """A learned factor for every channel of a residual branch."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., C)."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block with layer scale."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        layer_scale: float = 0.01,
        normalise: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, normalise)
        self.ls1 = LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.ls2 = LayerScale(width, layer_scale)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C)."""
        x = x + self.ls1(self.attn(self.norm1(x), rotary))
        return x + self.ls2(self.mlp(self.norm2(x)))
