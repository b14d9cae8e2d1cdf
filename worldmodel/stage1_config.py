"""How stage 1 is trained: a scale is a value of this dataclass, the code is the same.

Not here: the network's sizes (``vggt/config.py``), which a scale contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from worldmodel.api import WorldModelError
from worldmodel.vggt.config import VggtConfig

SCALES = ("tiny", "small", "paper")
TRACKERS = ("simulator", "vggt")


@dataclass(frozen=True)
class Stage1Config:
    """Everything that decides what stage 1 becomes; the defaults are those of the paper.

    Attributes:
        scale: its name.
        vggt: sizes of the network.
        pretrained: local folder or Hugging Face id of VGGT's weights, or "" to train from scratch.
        tracks: ``"vggt"`` (the pretrained track head) or ``"simulator"`` (recorded depth and cameras).
        tracks_grid: queries along each side of the wrist image.
        tracks_per_frame: pairs of a frame that a step uses, drawn anew each time.
        tracks_tolerance_m: see :class:`worldmodel.tracks.SimulatorTracker`.
        tracks_noise_px: see :class:`worldmodel.tracks.SimulatorTracker`.
        tracks_confidence: pairs below are not used (the paper: 0.2 for DROID and CALVIN, 0.1 for its own robot).
        geometry_steps: steps of learning depth from the anchors' own depth images before any wrist is asked for;
            0 where a pretrained depth or point head makes that needless.
        steps: steps of learning the wrist's pose.
        batch: frames of a step.
        learning_rate: peak, after ``warm_up`` of the steps; falls to 0 as a cosine.
        camera_learning_rate: peak of the anchor camera head.
        weight_decay: of AdamW, on matrices only.
        warm_up: share of the steps.
        clip: norm to which the gradient of each head is clipped.
        train_aggregator: whether the aggregator and dense heads learn too (frozen in the paper; needed from scratch).
        geometry_every: while the wrist is learnt, every so many steps depth is rehearsed; 0 for never.
        spc_weight: weight of the SPC loss.
        behind_weight: see :func:`worldmodel.spc.spc_loss`.
        robust: see :func:`worldmodel.spc.spc_loss`; None is the paper's formula.
        ray_share: share of the second phase in which :func:`worldmodel.spc.ray_loss` gives way to the SPC loss; 0 (the
            paper) for SPC alone.
        ray_weight: its weight, relative to ``spc_weight``.
        fov_weight: weight of the L1 loss on the wrist's field of view.
        camera_weight: weight of the L1 loss on the anchors' poses and fields of view.
        iteration_decay: weight of a refinement round in those two losses over that of the next.
        pose_supervision: learn from true wrist poses (an ablation; the method never does).
        recorded_points: the points of all pairs come from the anchors' recorded depth, instead of from the network as
            it is after the first phase (the paper: the frozen point head).
        start_pose: start the wrist head at a pose that the pairs alone give (``start_pose.py``), instead of at zero.
        jitter: strength of the random brightness and contrast changes of training images.
        max_frames: frames kept in memory, evenly spaced over all clips.
        disc: radius of the points in a condition map, as a share of the map's width (the paper: 2 of 518 pixels).
    """

    scale: str = "paper"
    vggt: VggtConfig = field(default_factory=VggtConfig)
    pretrained: str = "facebook/VGGT-1B"
    tracks: str = "vggt"
    tracks_grid: int = 32
    tracks_per_frame: int = 1024
    tracks_tolerance_m: float = 0.06
    tracks_noise_px: float = 0.0
    tracks_confidence: float = 0.2
    geometry_steps: int = 0
    steps: int = 80_000
    batch: int = 24
    learning_rate: float = 2e-5
    camera_learning_rate: float = 5e-6
    weight_decay: float = 0.05
    warm_up: float = 0.05
    clip: float = 1.0
    train_aggregator: bool = False
    geometry_every: int = 0
    spc_weight: float = 1.0
    behind_weight: float = 1.0
    robust: float | None = None
    ray_share: float = 0.0
    ray_weight: float = 3.0
    fov_weight: float = 10.0
    camera_weight: float = 5.0
    iteration_decay: float = 0.6
    pose_supervision: bool = False
    recorded_points: bool = False
    start_pose: bool = False
    jitter: float = 0.5
    max_frames: int = 20_000
    disc: float = 2 / 518

    def __post_init__(self) -> None:
        """Refuse a configuration from which nothing could be learnt."""
        if self.tracks not in TRACKERS:
            raise WorldModelError(f"tracks must be one of {TRACKERS}, got {self.tracks!r}")
        if self.tracks == "vggt" and not self.vggt.track_head:
            raise WorldModelError("tracks 'vggt' needs vggt.track_head=True; or use tracks='simulator'")
        if self.spc_weight <= 0 and not self.pose_supervision:
            raise WorldModelError(
                "spc_weight 0 leaves the wrist pose without any supervision: set pose_supervision=True "
                "(and give clips with wrist camera poses), or a positive spc_weight"
            )
        if not self.pretrained and self.geometry_steps == 0:
            raise WorldModelError("without pretrained weights depth must be learnt: set geometry_steps above 0")
        if min(self.steps, self.batch, self.tracks_per_frame, self.max_frames) < 1 or self.geometry_steps < 0:
            raise WorldModelError(f"steps, batch, tracks_per_frame and max_frames must be positive: {self}")

    @classmethod
    def tiny(cls) -> Stage1Config:
        """From scratch in about a minute of one CPU core: shows that everything works."""
        size = VggtConfig(
            image_size=64, patch_size=8, width=48, depth=2, heads=2, mlp_ratio=2.0, registers=1, stem="conv",
            stem_depth=0, layer_scale=0.5, dense_features=16, dense_channels=(16, 16, 16, 16),
            dense_layers=(0, 0, 1, 1), depth_activation="linear", pose_depth=1, pose_heads=4, iterations=2,
            wrist_layers=2, wrist_heads=4, wrist_dropout=0.0, points_from="depth", point_head=False, track_head=False,
        )  # fmt: skip
        return cls(
            scale="tiny", vggt=size, pretrained="", tracks="simulator", tracks_grid=20, tracks_per_frame=64,
            geometry_steps=80, steps=600, batch=16, learning_rate=8e-4, camera_learning_rate=8e-4,
            weight_decay=0.01, train_aggregator=True, geometry_every=8, robust=0.1, recorded_points=True,
            start_pose=True, warm_up=0.1, jitter=0.1, ray_share=0.6, max_frames=4000, disc=2 / 84,
        )  # fmt: skip

    @classmethod
    def small(cls) -> Stage1Config:
        """From scratch in minutes on one GPU."""
        size = VggtConfig(
            image_size=160, patch_size=8, width=192, depth=4, heads=6, mlp_ratio=4.0, registers=4, stem="conv",
            stem_depth=0, layer_scale=0.2, dense_features=64, dense_channels=(64, 64, 64, 64),
            dense_layers=(0, 1, 2, 3), depth_activation="linear", pose_depth=2, pose_heads=6, iterations=4,
            wrist_layers=3, wrist_heads=6, wrist_dropout=0.0, points_from="depth", point_head=False, track_head=False,
        )  # fmt: skip
        return cls(
            scale="small", vggt=size, pretrained="", tracks="simulator", tracks_per_frame=256, geometry_steps=1500,
            steps=8000, batch=64, learning_rate=5e-4, camera_learning_rate=5e-4, weight_decay=0.02,
            train_aggregator=True, geometry_every=8, robust=0.1, recorded_points=True,
            jitter=0.2, ray_share=0.4, max_frames=60_000, disc=2 / 84,
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Stage1Config:
        """VGGT-1B with its published weights, trained as in WristWorld."""
        return cls()

    @classmethod
    def named(cls, scale: str, **changes: Any) -> Stage1Config:
        """Return the configuration of a scale by name, with some fields changed.

        Raises:
            WorldModelError: there is no such scale.
        """
        if scale not in SCALES:
            raise WorldModelError(f"unknown scale {scale!r}: expected one of {', '.join(SCALES)}")
        made: Stage1Config = getattr(cls, scale)()
        return replace(made, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; :meth:`from_json` reads it back."""
        data = asdict(self)
        for name in ("dense_channels", "dense_layers"):
            data["vggt"][name] = list(data["vggt"][name])
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stage1Config:
        """Build a configuration from :meth:`to_json`'s data.

        Raises:
            WorldModelError: there are fields that this release does not know.
        """
        values = dict(data)
        try:
            size = dict(values.pop("vggt"))
            for name in ("dense_channels", "dense_layers"):
                size[name] = tuple(size[name])
            return cls(vggt=VggtConfig(**size), **values)
        except (KeyError, TypeError) as error:
            raise WorldModelError(
                f"not a stage 1 configuration ({error}): it was written by another release"
            ) from error
