"""How large a VGGT is: every size is a value of this dataclass, the code is the same.

Not here: training (``worldmodel/stage1_config.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.api import WorldModelError

STEMS = ("dino", "conv")
DEPTH_ACTIVATIONS = ("exp", "linear")


@dataclass(frozen=True)
class VggtConfig:
    """Sizes of the network; the defaults are those of VGGT-1B.

    Attributes:
        image_size: width in pixels to which every anchor is resized; the height follows the image's aspect.
        patch_size: pixels of one token's side.
        width: C, channels of the aggregator; what it gives to the heads has 2 C.
        depth: frame-attention blocks, and as many global-attention blocks.
        heads: attention heads of the aggregator.
        mlp_ratio: hidden channels of an MLP over its width, in the aggregator and the pose heads' trunks.
        registers: register tokens of each view.
        stem: what makes patch tokens of an image: ``"dino"`` (a DINOv2 transformer, as in VGGT) or ``"conv"`` (strided
            convolutions, which learn from few images).
        stem_depth: blocks of the DINOv2 stem.
        layer_scale: initial factor of the residual branches.
        dense_features: channels of the fused maps in the dense heads.
        dense_channels: channels of the four levels before fusion.
        dense_layers: the four aggregator layers that the dense heads read.
        depth_activation: ``"exp"`` (depth in VGGT's own unit) or ``"linear"`` (depth in scene units, any sign).
        pose_depth: blocks of a pose head's trunk.
        pose_heads: attention heads of those blocks.
        iterations: refinements of a pose.
        wrist_layers: transformer layers in which the wrist query reads all tokens.
        wrist_heads: attention heads of those layers.
        wrist_dropout: dropout in those layers.
        points_from: ``"point"`` (the point head's map, as in WristWorld) or ``"depth"`` (the depth head's map,
            unprojected).
        point_head: whether there is a point head.
        track_head: whether there is a track head.
    """

    image_size: int = 518
    patch_size: int = 14
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    registers: int = 4
    stem: str = "dino"
    stem_depth: int = 24
    layer_scale: float = 0.01
    dense_features: int = 256
    dense_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    dense_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    depth_activation: str = "exp"
    pose_depth: int = 4
    pose_heads: int = 16
    iterations: int = 4
    wrist_layers: int = 3
    wrist_heads: int = 8
    wrist_dropout: float = 0.1
    points_from: str = "point"
    point_head: bool = True
    track_head: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other, naming both."""
        if self.image_size % self.patch_size:
            raise WorldModelError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise WorldModelError(f"width {self.width} / heads {self.heads} must be a multiple of 4 (two-axis rotary)")
        if 2 * self.width % self.pose_heads or 2 * self.width % self.wrist_heads:
            raise WorldModelError(f"2 x width {self.width} must be a multiple of pose_heads and wrist_heads")
        if self.stem not in STEMS or self.depth_activation not in DEPTH_ACTIVATIONS:
            raise WorldModelError(f"stem must be one of {STEMS}, depth_activation one of {DEPTH_ACTIVATIONS}: {self}")
        if max(self.dense_layers) >= self.depth or min(self.dense_layers) < 0:
            raise WorldModelError(f"dense_layers {self.dense_layers} must lie in 0..depth - 1 = {self.depth - 1}")
        if self.points_from not in ("point", "depth") or (self.points_from == "point" and not self.point_head):
            raise WorldModelError(f"points_from {self.points_from!r} needs that head; use 'depth' or point_head=True")
        if self.stem == "conv" and self.patch_size & (self.patch_size - 1):
            raise WorldModelError(f"the conv stem halves the image: patch_size {self.patch_size} must be a power of 2")
