"""The action transformer: K noisy actions attend to those before them and to the observation's tokens.

A diffusion transformer with AdaLN-Zero (Peebles & Xie, arXiv 2212.09748) and cross-attention.  It knows tokens, a
conditioning vector and a chunk; what they mean and how the flow is integrated is in :mod:`policies.network`.

Attention over the chunk is causal.  Demonstrations end within the chunk of their last frames (often the very moments of
contact), so what stands past their end must not matter to what stands before it, in training and at test alike; hiding
it in training only would show the network something new at test.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_FEATURES = 128
TIME_SCALE = 1000.0
MLP_RATIO = 4
POSITION_SCALE = 0.5
"""As large as an embedded action.  At the customary 0.02 the K queries begin all but equal, and a network that must
give K different actions needs several times as many steps before its loss begins to fall."""


class TimeEmbedding(nn.Module):
    """Flow time t in 0..1 to a vector, by sines and cosines of many periods."""

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = TIME_FEATURES // 2
        exponents = torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", torch.exp(-math.log(10_000.0) * exponents), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, D)."""
        angles = TIME_SCALE * t[:, None] * self.frequencies  # (B, F / 2)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be computed once and used for several queries."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> keys and values, each (B, heads, N, D / heads)."""
        B, N, _ = tokens.shape
        keys, values = self.key_value(tokens).view(B, N, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return keys, values

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """(B, K, D) attends to N keys; ``mask`` is bool, true where a key counts: (B, 1, 1, N) or (K, N)."""
        B, K, D = x.shape
        keys, values = keys_values
        queries = self.query(x).view(B, K, self.heads, -1).transpose(1, 2)  # (B, heads, K, D / heads)
        # Written out: flash kernels are made for thousands of queries; with ten they took a sixth of a training step.
        scores = queries @ keys.transpose(-2, -1) * (D // self.heads) ** -0.5  # (B, heads, K, N)
        shares = scores.float().masked_fill(~mask, -torch.inf).softmax(-1)
        y = shares.to(values.dtype) @ values  # (B, heads, K, D / heads)
        return self.out(y.transpose(1, 2).reshape(B, K, D))


class Block(nn.Module):
    """Self-attention over the chunk, cross-attention to the tokens, feed-forward; each gated from zero."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(3))
        self.own = Attention(dim, heads)
        self.cross = Attention(dim, heads)
        self.mlp = nn.Sequential(
            nn.Linear(dim, MLP_RATIO * dim), nn.GELU(approximate="tanh"), nn.Linear(MLP_RATIO * dim, dim)
        )
        self.modulation = nn.Linear(dim, 9 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        context: tuple[Tensor, Tensor],
        context_mask: Tensor,
        causal: Tensor,
    ) -> Tensor:
        """(B, K, D) -> (B, K, D); ``condition`` is (B, D), ``context`` the cross-attention's keys and values."""
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = (
            self.modulation(condition).unsqueeze(1).chunk(9, dim=-1)  # nine of (B, 1, D)
        )
        y = self.norms[0](x) * (1 + scale1) + shift1
        x = x + gate1 * self.own(y, self.own.keys_values(y), causal)
        y = self.norms[1](x) * (1 + scale2) + shift2
        x = x + gate2 * self.cross(y, context, context_mask)
        y = self.norms[2](x) * (1 + scale3) + shift3
        return x + gate3 * self.mlp(y)


class ActionTransformer(nn.Module):
    """K noisy actions, flow time, sentence and tokens to K vectors of the action's dimension."""

    def __init__(self, *, dim: int, layers: int, heads: int, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.embed = nn.Linear(action_dim, dim)
        self.position = nn.Parameter(torch.randn(chunk, dim) * POSITION_SCALE)
        self.time = TimeEmbedding(dim)
        self.context_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, action_dim)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def context(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every block for tokens (B, N, D): computed once, used in every integration step."""
        tokens = self.context_norm(tokens)
        return [block.cross.keys_values(tokens) for block in self.blocks]  # type: ignore[union-attr, operator]

    def forward(
        self,
        actions: Tensor,
        t: Tensor,
        sentence: Tensor,
        context: list[tuple[Tensor, Tensor]],
        context_mask: Tensor,
    ) -> Tensor:
        """Return (B, K, A).

        Args:
            actions: noisy, scaled actions (B, K, A).
            t: flow time (B,), 0 is noise and 1 is data.
            sentence: (B, D).
            context: from :meth:`context`.
            context_mask: bool (B, N), true where a token counts.
        """
        x = self.embed(actions) + self.position  # (B, K, D)
        condition = F.silu(self.time(t) + sentence)  # (B, D)
        keys = context_mask[:, None, None, :]  # (B, 1, 1, N)
        K = x.shape[1]
        causal = torch.ones(K, K, dtype=torch.bool, device=x.device).tril()
        for block, keys_values in zip(self.blocks, context, strict=True):
            x = block(x, condition, keys_values, keys, causal)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        return self.out(self.norm(x) * (1 + scale) + shift)
