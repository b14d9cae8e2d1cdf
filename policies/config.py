"""Sizes and training settings of the flow policy: `tiny` for two CPU cores, `small` and `base` for one GPU.

Only numbers and their checks; no network.  One code path serves all three: a preset is a value, not a fork.
The presets follow the usual recipe of language-conditioned chunked flow matching (FLOWER, pi0, MDT) at sizes that
train in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

from policies.api import PolicyError

HEADS = ("flow", "regression")
ENCODER_STAGES = 4


def checked_fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``data`` as keyword arguments of ``kind``; an unknown name is refused."""
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise PolicyError(f"{kind.__name__} has no setting {unknown}; known: {sorted(known)}")
    return dict(data)


@dataclass(frozen=True)
class TrainingConfig:
    """How a policy is trained; all arms of a comparison share one value.

    Attributes:
        steps: optimiser steps.
        batch: samples a step.
        learning_rate: peak of the schedule (linear warm-up, cosine to 0).
        warmup: steps of the warm-up; at most a tenth of ``steps`` is used.
        betas: AdamW's moment decays.
        weight_decay: for matrices and kernels only; biases, norms, and embeddings are not decayed.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, reached gradually so that short runs do not keep their first weights.
        shift: random shift of each image, as a share of its side (HULC, MDT, FLOWER: 10 of 224 px anchor, 4 of 84 px
            wrist).
        jitter: largest change of each colour channel and of the brightness of a training image, as a share of white:
            scenes that were not trained on have other woods and light.
        recolour: strength of random recolouring of four fifths of the training images, 0 for none: channels mixed,
            contrast changed, smooth patterns laid over; for scenes whose woods and colours were never seen.
        proprio_dropout: share of training samples whose proprioception is hidden (only if it is used).
        checkpoint_every: steps between the states from which a killed run continues.
        validate_every: steps between validations; 0 validates at the end only.
        log_every: steps between rows of ``history.jsonl``.
        compile: use ``torch.compile`` for the training step; None: on a GPU, where it pays.
    """

    steps: int = 8000
    batch: int = 512
    learning_rate: float = 1e-3
    warmup: int = 300
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    shift: float = 0.045
    jitter: float = 0.1
    recolour: float = 0.0
    proprio_dropout: float = 0.5
    checkpoint_every: int = 500
    validate_every: int = 0
    log_every: int = 20
    compile: bool | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot train, by name."""
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("steps", "batch", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise PolicyError(f"training.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("warmup", "validate_every", "weight_decay"):
            if getattr(self, name) < 0:
                raise PolicyError(f"training.{name}: expected 0 or more, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise PolicyError(f"training.{name}: expected more than 0, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise PolicyError(f"training.ema: expected 0 <= ema < 1, got {self.ema}")
        if not 0 <= self.shift < 0.5:
            raise PolicyError(f"training.shift: expected a share of the image side in 0..0.5, got {self.shift}")
        if not 0 <= self.jitter < 1:
            raise PolicyError(f"training.jitter: expected a share in 0..1, got {self.jitter}")
        if not 0 <= self.recolour <= 1:
            raise PolicyError(f"training.recolour: expected a strength in 0..1, got {self.recolour}")
        if not 0 <= self.proprio_dropout <= 1:
            raise PolicyError(f"training.proprio_dropout: expected 0..1, got {self.proprio_dropout}")


@dataclass(frozen=True)
class FlowPolicyConfig:
    """Architecture of the policy, and how it is trained.

    Attributes:
        name: preset name, for tables.
        anchor_size, wrist_size: side in pixels to which each view is resized inside the policy.
        width: channels of the encoder's first stage; each of the four stages doubles them.
        blocks: residual blocks a stage.
        stem_stride: pixels a side that the first convolution takes as one (2 or 4).
        cell: pixels a side that one token stands for; later stages halve the map only until it is reached.
        keypoints: features of each view whose places are one more token (spatial softmax); 0: none.
        dim, layers, heads: the action transformer.
        chunk: K, actions predicted at a time.
        execute: how many of them are carried out before asking again.
        head: ``"flow"`` (flow matching) or ``"regression"`` (the same trunk, one pass, L1 loss: the ablation).
        euler_steps: integration steps of the flow at test time.
        text: sentence encoder, see :mod:`policies.text`.
        text_dim: length of its vectors.
        use_proprio: add a token for the robot's own state; off by default because policies then tend to read the
            pose instead of the scene (HULC, arXiv 2204.06252: 2.64 falls to 2.20 with it).
        training: see :class:`TrainingConfig`.
    """

    kind: ClassVar[str] = "flow"

    name: str = "small"
    anchor_size: int = 160
    wrist_size: int = 84
    width: int = 32
    blocks: int = 2
    stem_stride: int = 4
    cell: int = 16
    keypoints: int = 32
    dim: int = 256
    layers: int = 4
    heads: int = 8
    chunk: int = 10
    execute: int = 10
    head: str = "flow"
    euler_steps: int = 4
    text: str = "hash-384"
    text_dim: int = 384
    use_proprio: bool = False
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse impossible architectures, naming the values that clash."""
        if isinstance(self.training, Mapping):
            object.__setattr__(self, "training", TrainingConfig(**checked_fields(TrainingConfig, self.training)))
        for name in ("width", "blocks", "layers", "heads", "euler_steps", "text_dim"):
            if getattr(self, name) < 1:
                raise PolicyError(f"{name}: expected at least 1, got {getattr(self, name)}")
        self._check_encoder()
        if self.dim % (2 * self.heads):
            raise PolicyError(f"dim {self.dim} must be a multiple of twice heads ({self.heads})")
        if not 1 <= self.execute <= self.chunk:
            raise PolicyError(f"execute {self.execute} must lie in 1..chunk ({self.chunk})")
        if self.head not in HEADS:
            raise PolicyError(f"head: expected one of {list(HEADS)}, got {self.head!r}")

    def _check_encoder(self) -> None:
        if self.keypoints < 0:
            raise PolicyError(f"keypoints: expected 0 or more, got {self.keypoints}")
        if self.stem_stride not in (2, 4):
            raise PolicyError(f"stem_stride: expected 2 or 4, got {self.stem_stride}")
        cells = [self.stem_stride * 2**halvings for halvings in range(ENCODER_STAGES)]
        if self.cell not in cells:
            raise PolicyError(f"cell: expected one of {cells} at stem_stride {self.stem_stride}, got {self.cell}")
        for name in ("anchor_size", "wrist_size"):
            size = getattr(self, name)
            if size < self.cell or size % self.stem_stride:
                raise PolicyError(
                    f"{name}: expected at least a cell of {self.cell} px and a multiple of stem_stride "
                    f"({self.stem_stride}), got {size}"
                )

    @property
    def label(self) -> str:
        """Name of the policy in tables."""
        return f"{self.head}-{self.name}"

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the encoder's stages."""
        return tuple(2 if stage and self.stem_stride * 2**stage <= self.cell else 1 for stage in range(ENCODER_STAGES))

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """About 2.5M parameters: tests and the demo on two CPU cores."""
        training = TrainingConfig(
            steps=400,
            batch=32,
            warmup=40,
            ema=0.99,
            jitter=0.0,
            checkpoint_every=100,
            log_every=10,
        )
        values: dict[str, Any] = {
            "name": "tiny", "anchor_size": 64, "wrist_size": 64, "width": 16, "blocks": 1, "stem_stride": 2,
            "dim": 128, "layers": 3, "heads": 4, "training": training,
        }  # fmt: skip
        return cls(**(values | changes))

    @classmethod
    def small(cls, **changes: Any) -> Self:
        """About 14M parameters: the default on one GPU."""
        return cls(**changes)

    @classmethod
    def base(cls, **changes: Any) -> Self:
        """About 49M parameters."""
        training = TrainingConfig(batch=256, learning_rate=5e-4)
        values: dict[str, Any] = {
            "name": "base", "anchor_size": 128, "wrist_size": 84, "width": 64, "cell": 32,
            "dim": 384, "layers": 6, "training": training,
        }  # fmt: skip
        return cls(**(values | changes))

    @classmethod
    def presets(cls) -> Mapping[str, Callable[..., Self]]:
        """Return the presets by name."""
        return {"tiny": cls.tiny, "small": cls.small, "base": cls.base}

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return the preset called ``name``; ``PolicyError`` names those that exist."""
        presets = cls.presets()
        if name not in presets:
            raise PolicyError(f"unknown {cls.kind} policy preset {name!r}; choose one of {sorted(presets)}")
        return presets[name](**changes)

    def stages(self) -> Mapping[str, int]:
        """Return the steps of each training by its folder within the policy's, in order."""
        return {".": self.training.steps}

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON data."""
        data = asdict(self)
        data["training"]["betas"] = list(self.training.betas)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build a configuration from :meth:`to_json`'s data."""
        return cls(**checked_fields(cls, data))
