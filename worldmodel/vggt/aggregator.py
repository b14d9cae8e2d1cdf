"""VGGT's aggregator: tokens of all views, mixed alternately within a view and across views.

Not here: what the tokens are read out for (the heads).  Parameter names are those of the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.vggt.config import VggtConfig
from worldmodel.vggt.layers import Block, grid_rotary
from worldmodel.vggt.stem import ConvStem, DinoStem

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Alternating frame and global attention over camera, register and patch tokens."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.head_width = config.width // config.heads
        self.special = 1 + config.registers
        self.wanted = frozenset(config.dense_layers) | {config.depth - 1}
        self.patch_embed: nn.Module = DinoStem(config) if config.stem == "dino" else ConvStem(config)

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(
                    config.width,
                    config.heads,
                    mlp_ratio=config.mlp_ratio,
                    layer_scale=config.layer_scale,
                    normalise=True,
                )
                for _ in range(config.depth)
            )

        self.frame_blocks, self.global_blocks = blocks(), blocks()
        # Index 0 is for the first view, whose camera frame is the world, index 1 for all others.
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, config.width) * 1e-6)
        self.register_token = nn.Parameter(torch.randn(1, 2, config.registers, config.width) * 1e-6)
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN).view(1, 1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGE_STD).view(1, 1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Mix the tokens of all views.

        Args:
            images: (B, V, 3, H, W) in [0, 1]; H and W multiples of the patch size.

        Returns:
            For each layer that a head reads, and for the last: (B, V, N, 2 C), the frame block's output beside the
            global block's; N counts one camera token, the registers, then the patches row by row.
        """
        B, V, _, H, W = images.shape
        patches = self.patch_embed(((images - self.image_mean) / self.image_std).flatten(0, 1))  # (B V, P, C)
        special = torch.cat([self.camera_token, self.register_token], dim=2)  # (1, 2, S, C)
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, V - 1, -1, -1)], dim=1)
        special = special.expand(B, -1, -1, -1).flatten(0, 1).to(patches.dtype)  # (B V, S, C)
        x = torch.cat([special, patches], dim=1)  # (B V, N, C)
        N, C = x.shape[1:]
        rotary = grid_rotary(H // self.patch_size, W // self.patch_size, self.special, self.head_width, x.device)
        rotary_all = rotary[0].repeat(V, 1), rotary[1].repeat(V, 1)

        layers: dict[int, Tensor] = {}
        for index, (within, across) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            x = within(x.view(B * V, N, C), rotary)
            frame = x.view(B, V, N, C)
            x = across(x.view(B, V * N, C), rotary_all)
            if index in self.wanted:
                layers[index] = torch.cat([frame, x.view(B, V, N, C)], dim=-1)  # (B, V, N, 2 C)
        return layers
