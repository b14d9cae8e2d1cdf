"""The wrist head: where is the wrist camera, seen from the anchors alone?

Not here: the loss that teaches it (``spc.py``).  WristWorld (arXiv 2510.07313; published code
``vggt/heads/wrist_head.py``): one learned query joins all tokens of all anchor views through a few post-norm
transformer layers; what it has gathered is refined into a pose like VGGT refines its cameras.  Each moment stands
alone: there is no memory of the moment before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.vggt.config import VggtConfig
from worldmodel.vggt.layers import Mlp
from worldmodel.vggt.pose_head import PoseRefiner


class GatherLayer(nn.Module):
    """A post-norm transformer layer over the query and all tokens."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), dropout=dropout)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, x: Tensor, keep: int) -> Tensor:
        """Map tokens (B, N, C) to the first ``keep`` of them, (B, keep, C), each having read all N."""
        read, _ = self.attention(x[:, :keep], x, x, need_weights=False)
        y = self.norm1(x[:, :keep] + F.dropout(read, self.dropout, self.training))
        return self.norm2(y + F.dropout(self.mlp(y), self.dropout, self.training))


class WristHead(PoseRefiner):
    """One query over all tokens of all anchors, refined into the wrist camera's pose and field of view."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__(config)
        width = 2 * config.width
        self.token_query = nn.Parameter(torch.randn(1, 1, width) * 1e-6)
        self.token_aggregation_layers = nn.ModuleList(
            GatherLayer(width, config.wrist_heads, config.mlp_ratio, config.wrist_dropout)
            for _ in range(config.wrist_layers)
        )

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Map aggregator tokens (B, V, N, 2 C) to wrist encodings (B, 9), one tensor for each round.

        The pose maps points of the first anchor's scene frame into the wrist camera's frame.
        """
        x = torch.cat([self.token_query.expand(len(tokens), -1, -1), tokens.flatten(1, 2)], dim=1)  # (B, 1 + V N, 2 C)
        last = len(self.token_aggregation_layers) - 1
        for index, layer in enumerate(self.token_aggregation_layers):
            # Only the query is read out, so the last layer need not compute the other tokens.
            x = layer(x, keep=1 if index == last else x.shape[1])
        return [pose[:, 0] for pose in self.refine(x[:, :1])]
