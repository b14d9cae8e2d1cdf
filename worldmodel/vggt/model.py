"""The whole network of stage 1: VGGT's aggregator and heads, and the wrist head.

Not here: units and scene frames (``stage1.py`` turns what comes out here into metres), training, loading.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.vggt.aggregator import Aggregator
from worldmodel.vggt.config import VggtConfig
from worldmodel.vggt.dense_head import DenseHead, signed_exponential
from worldmodel.vggt.pose_head import CameraHead
from worldmodel.vggt.track_head import TrackHead
from worldmodel.wrist_head import WristHead


@dataclass(frozen=True)
class VggtOutput:
    """What the network says about B samples of V anchors.

    Attributes:
        depth: (B, V, H, W) in scene units (``"exp"``: always positive), or None where it was not asked for.
        points: (B, V, H, W, 3) of the point head in scene units, or None.
        cameras: one (B, V, 9) for each refinement round.
        wrist: one (B, 9) for each refinement round.
    """

    depth: Tensor | None
    points: Tensor | None
    cameras: list[Tensor]
    wrist: list[Tensor]


class Vggt(nn.Module):
    """VGGT with a wrist head; a size is a :class:`VggtConfig`."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = DenseHead(config, out=1)
        self.point_head = DenseHead(config, out=3) if config.point_head else None
        self.track_head = TrackHead(config) if config.track_head else None
        self.wrist_head = WristHead(config)

    def forward(self, images: Tensor, *, dense: bool = True, frozen: bool = False) -> VggtOutput:
        """Look at B samples of V anchors.

        Args:
            images: (B, V, 3, H, W) in [0, 1].
            dense: whether depth and points are wanted.
            frozen: whether the aggregator and the dense heads are left out of the gradient.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            layers = self.aggregator(images)
            depth, points = self.dense(layers, images) if dense else (None, None)
        last = layers[self.config.depth - 1]
        return VggtOutput(depth=depth, points=points, cameras=self.camera_head(last), wrist=self.wrist_head(last))

    def dense(self, layers: dict[int, Tensor], images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return depth (B, V, H, W) and, if there is such a head, points (B, V, H, W, 3)."""
        size = (images.shape[-2], images.shape[-1])
        raw, _ = self.depth_head(layers, size)
        depth = raw[..., 0].exp() if self.config.depth_activation == "exp" else raw[..., 0]
        points = None
        if self.point_head is not None and self.config.points_from == "point":
            points = signed_exponential(self.point_head(layers, size)[0])
        return depth, points

    def image_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width to which an image is resized: whole patches, the image's aspect."""
        patch, size = self.config.patch_size, self.config.image_size
        return max(patch, round(size * height / width / patch) * patch), size
