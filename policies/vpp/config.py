"""Sizes and training settings of the video policy (`vpp`): the flow policy's, and those of its video predictor.

Only numbers and their checks; no network.  `tiny` and `small` train their own predictor on the demonstrations, `paper`
loads one by name: the authors' Stable Video Diffusion, tuned on CALVIN's videos (Hu et al., arXiv 2412.14803).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from policies.api import PolicyError
from policies.config import FlowPolicyConfig, TrainingConfig, checked_fields

PREDICTOR_FOLDER = "predictor"
"""Within the policy's."""

GROUPS = 32
"""Groups of diffusers' group normalisation: channels come in multiples of it."""


@dataclass(frozen=True)
class VideoPolicyConfig(FlowPolicyConfig):
    """Architecture and training of the video policy.

    Of the flow policy's settings these speak of the video predictor here:

    * ``width``, ``blocks``: channels of its first level (each level doubles them) and residual blocks a level;
    * ``stem_stride``: pixels a side of one of its latents;
    * ``cell``: pixels a side that one feature stands for: maps of all levels are resized to that grid;
    * ``keypoints``: features of each predicted frame whose places are one more token.

    Attributes:
        frames: F, future frames that are predicted.
        stride: steps of the robot between two of them.
        levels: resolutions of the predictor.
        queries: learned queries of the Video Former for each predicted frame.
        former_layers: its layers, each a spatial and a temporal attention.
        noise_level: standard deviation of the noise (of data: 1) at which features are taken; so high that nothing of
            the future shines through, in training either.  SVD's scheduler begins at 700.
        at_noise_level: share of the predictor's training samples at that level; the others are spread as SVD's are.
        fps: frame rate that the predictor is told; VPP: 4.
        motion_buckets: its "motion bucket" for the anchor and the wrist view, which tells a predictor trained here
            which camera it looks through.  VPP gives both the same.
        text_tokens: vectors that a sentence's embedding consists of, side by side.
        up_blocks: how many up-sampling blocks the features are taken from, from the coarsest; None: all.  VPP: 2.
        weights: Hugging Face id or folder of a Stable Video Diffusion pipeline whose UNet and autoencoder are used, or
            None to train a predictor on the demonstrations.
        predictor: training settings of the predictor.
    """

    kind: ClassVar[str] = "vpp"

    frames: int = 4
    stride: int = 5
    levels: int = 3
    queries: int = 14
    former_layers: int = 3
    noise_level: float = 700.0
    at_noise_level: float = 0.5
    fps: int = 6
    motion_buckets: tuple[int, int] = (0, 127)
    text_tokens: int = 1
    up_blocks: int | None = None
    weights: str | None = None
    predictor: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse impossible architectures, naming the values that clash."""
        object.__setattr__(self, "motion_buckets", tuple(self.motion_buckets))
        if isinstance(self.predictor, Mapping):
            object.__setattr__(self, "predictor", TrainingConfig(**checked_fields(TrainingConfig, self.predictor)))
        super().__post_init__()
        for name in ("frames", "stride", "levels", "queries", "former_layers", "fps", "text_tokens"):
            if getattr(self, name) < 1:
                raise PolicyError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.head != "flow":
            raise PolicyError(f"head: the video policy has 'flow' only, got {self.head!r}")
        if self.text_dim % self.text_tokens:
            raise PolicyError(f"text_dim {self.text_dim} must be a multiple of text_tokens ({self.text_tokens})")
        if self.noise_level <= 1:
            raise PolicyError(f"noise_level: expected more than the data's own deviation, 1, got {self.noise_level}")
        if not 0 <= self.at_noise_level <= 1:
            raise PolicyError(f"at_noise_level: expected a share in 0..1, got {self.at_noise_level}")
        if self.up_blocks is not None and self.up_blocks < 1:
            raise PolicyError(f"up_blocks: expected at least 1, or None for all, got {self.up_blocks}")

    def _check_encoder(self) -> None:
        size = self.anchor_size
        if self.wrist_size != size:
            raise PolicyError(f"anchor_size {size} must be wrist_size ({self.wrist_size}): one predictor reads both")
        smallest = self.stem_stride * 2 ** (self.levels - 1)
        if self.weights is None and size % smallest:
            raise PolicyError(f"anchor_size {size} must be a multiple of stem_stride × 2^(levels − 1), {smallest}")
        if self.cell < 1 or size % self.cell:
            raise PolicyError(f"anchor_size {size} must be a multiple of cell ({self.cell})")
        if self.weights is None and self.width % GROUPS:
            raise PolicyError(f"width {self.width} must be a multiple of {GROUPS}")

    @property
    def label(self) -> str:
        """Name of the policy in tables."""
        return self.name

    @property
    def grid(self) -> int:
        """Features a side of a view."""
        return self.anchor_size // self.cell

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """A predictor of 2M parameters: tests, and a look at the mechanism on two CPU cores."""
        flow = FlowPolicyConfig.tiny()
        predictor = TrainingConfig(
            steps=300, batch=16, learning_rate=1e-3, warmup=30, ema=0.99, jitter=0.0, checkpoint_every=50, log_every=10
        )
        values: dict[str, Any] = {
            "name": "vpp-tiny", "anchor_size": 64, "wrist_size": 64, "width": 32, "blocks": 1, "stem_stride": 8,
            "cell": 8, "dim": flow.dim, "layers": flow.layers, "heads": flow.heads, "frames": 3, "levels": 2,
            "queries": 8, "former_layers": 2, "training": flow.training, "predictor": predictor,
        }  # fmt: skip
        return cls(**(values | changes))

    @classmethod
    def small(cls, **changes: Any) -> Self:
        """A predictor of 33M parameters, trained in minutes on one GPU."""
        predictor = TrainingConfig(steps=4000, batch=256, learning_rate=5e-4, warmup=300, ema=0.995)
        values: dict[str, Any] = {
            "name": "vpp-small", "anchor_size": 128, "wrist_size": 128, "width": 64, "blocks": 1, "stem_stride": 8,
            "cell": 8, "training": TrainingConfig(steps=4000, batch=256), "predictor": predictor,
        }  # fmt: skip
        return cls(**(values | changes))

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The released VPP's sizes: ``policy_conf/VPP_Calvinabc_train.yaml`` and ``diffusion_extract.py`` there."""
        values: dict[str, Any] = {
            "name": "vpp-paper", "weights": "yjguo/svd-robot-calvin-ft", "anchor_size": 256, "wrist_size": 256,
            "width": 320, "blocks": 2, "levels": 4, "stem_stride": 8, "cell": 16, "frames": 16, "stride": 1,
            "dim": 384, "layers": 8, "queries": 14, "former_layers": 6, "up_blocks": 2, "fps": 4,
            "motion_buckets": (127, 127), "text": "clip", "text_dim": 20 * 512, "text_tokens": 20,
            "training": TrainingConfig(steps=50_000, batch=112, learning_rate=1e-4, betas=(0.9, 0.9)),
        }  # fmt: skip
        return cls(**(values | changes))

    @classmethod
    def presets(cls) -> Mapping[str, Callable[..., Self]]:
        """Return the presets by name."""
        return {"tiny": cls.tiny, "small": cls.small, "paper": cls.paper}

    def stages(self) -> Mapping[str, int]:
        """Return the steps of each training by its folder within the policy's, in order."""
        own = super().stages()
        return own if self.weights else {PREDICTOR_FOLDER: self.predictor.steps, **own}

    def predictor_json(self) -> dict[str, Any]:
        """Return what the predictor's training depends on, as plain JSON data."""
        heads = ("name", "training", "dim", "layers", "heads", "chunk", "execute", "head", "euler_steps", "use_proprio")
        own = ("queries", "former_layers", "cell", "up_blocks")
        return {name: value for name, value in self.to_json().items() if name not in heads + own}

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON data."""
        data = super().to_json()
        data["predictor"]["betas"] = list(self.predictor.betas)
        data["motion_buckets"] = list(self.motion_buckets)
        return data
