"""Iterative pose refinement, and VGGT's camera head that refines the pose of every anchor.

Not here: the wrist head (``worldmodel/wrist_head.py``), which refines with the same trunk.  Each round embeds the
last pose (a learned empty one at first), lets it shift, scale and gate the token (AdaLN, Peebles and Xie 2023) and
adds a correction.  Parameter names are those of the published weights under ``camera_head``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.geometry import ENCODING_DIM
from worldmodel.vggt.config import VggtConfig
from worldmodel.vggt.layers import Block, Mlp


class PoseRefiner(nn.Module):
    """The trunk that turns one token per camera into a pose encoding ``absT_quaR_FoV``.

    Attributes:
        base_pose: (9,) what the corrections are added to.  Zero, as in VGGT, unless a training from scratch has put
            a better start there.
    """

    base_pose: Tensor

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        width = 2 * config.width
        self.iterations = config.iterations
        self.trunk = nn.Sequential(
            *(
                Block(width, config.pose_heads, mlp_ratio=config.mlp_ratio, layer_scale=config.layer_scale)
                for _ in range(config.pose_depth)
            )
        )
        self.token_norm = nn.LayerNorm(width)
        self.trunk_norm = nn.LayerNorm(width)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING_DIM))
        self.embed_pose = nn.Linear(ENCODING_DIM, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.adaln_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(width, width // 2, ENCODING_DIM)
        self.register_buffer("base_pose", torch.zeros(ENCODING_DIM))

    def start_from(self, pose: Tensor) -> None:
        """Make an untrained head predict this pose (9,), so that it has only the rest to learn."""
        self.base_pose.copy_(pose)
        nn.init.normal_(self.pose_branch.fc2.weight, std=1e-3)
        nn.init.zeros_(self.pose_branch.fc2.bias)

    def refine(self, tokens: Tensor) -> list[Tensor]:
        """Return the pose encodings after every round.

        Args:
            tokens: (B, V, 2 C), one token for each camera; cameras of one sample may exchange what they know.

        Returns:
            One (B, V, 9) for each round; no gradient flows from one round into the one before.
        """
        tokens = self.token_norm(tokens)
        modulated = self.adaln_norm(tokens)
        pose = None
        poses = []
        for _ in range(self.iterations):
            known = self.empty_pose_tokens.expand(*tokens.shape[:2], -1) if pose is None else pose.detach()
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, dim=-1)
            x = self.trunk(gate * (modulated * (1 + scale) + shift) + tokens)
            change = self.pose_branch(self.trunk_norm(x))
            pose = self.base_pose + change if pose is None else pose.detach() + change
            poses.append(torch.cat([pose[..., :7], F.relu(pose[..., 7:])], dim=-1))
        return poses


class CameraHead(PoseRefiner):
    """Poses and fields of view of the anchors, in the frame of the first."""

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Map aggregator tokens (B, V, N, 2 C) to pose encodings (B, V, 9), one tensor for each round."""
        return self.refine(tokens[:, :, 0])
