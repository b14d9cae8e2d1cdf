"""Settings of stage 2: one frozen dataclass per part, and the three scales.

Not here: the parts themselves.  A scale is a configuration of one code path, never a fork of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from worldmodel.api import WorldModelError


@dataclass(frozen=True)
class CodecConfig:
    """Which codec: a fitted linear one, or Wan's autoencoder from an id or folder.

    Attributes:
        kind: ``"linear"`` or ``"wan"``.
        patch: pixels along a patch's side (linear).
        channels: latent channels (linear).
        source: Hugging Face id or local folder (wan).
        subfolder: where the autoencoder lies in it (wan).
    """

    kind: Literal["linear", "wan"] = "linear"
    patch: int = 7
    channels: int = 16
    source: str = ""
    subfolder: str | None = None

    def __post_init__(self) -> None:
        """Refuse a Wan codec without a source and an unknown kind."""
        if self.kind not in ("linear", "wan"):
            raise WorldModelError(f"codec kind: expected 'linear' or 'wan', got {self.kind!r}")
        if self.kind == "wan" and not self.source:
            raise WorldModelError("codec kind 'wan' needs a source: a Hugging Face id or a local folder")


@dataclass(frozen=True)
class AnchorConfig:
    """How the anchor frames become context tokens.

    Attributes:
        source: Hugging Face id or folder of a ``CLIPVisionModel``, which stays frozen; empty for a small one of the
            same class that is trained along.
        subfolder: where the encoder lies in ``source``.
        image_size: pixels along the side of the (square) image given to the encoder.
        patch: pixels along the side of the encoder's patches.
        width: channels of the encoder.
        layers: blocks of the encoder.
        heads: attention heads of the encoder.
        tokens: ``"cls"``: one token per frame and view, as the paper; ``"patches"``: all patch tokens.
        hidden: channels of the MLP's hidden layer.
        max_frames: rows of the temporal embedding.
        max_views: rows of the view embedding.
    """

    source: str = ""
    subfolder: str | None = None
    image_size: int = 64
    patch: int = 8
    width: int = 64
    layers: int = 2
    heads: int = 2
    tokens: Literal["cls", "patches"] = "cls"
    hidden: int = 128
    max_frames: int = 200
    max_views: int = 2


@dataclass(frozen=True)
class TransformerConfig:
    """The video transformer, diffusers' ``WanTransformer3DModel``.

    Attributes:
        source: Hugging Face id or folder of a trained one, whose shape then replaces the numbers below.
        subfolder: where the transformer lies in ``source``.
        layers: blocks.
        heads: attention heads.
        head_dim: channels per head; the width is heads × head_dim.
        ffn_dim: channels of the feed-forward layers.
        freq_dim: channels of the sinusoidal time embedding.
        token_dim: channels of the context tokens.
        patch: latent pixels (time, height, width) per token.
        text_tokens: learned context tokens standing where the text would (the context's length, if longer than the
            anchor tokens).
    """

    source: str = ""
    subfolder: str | None = None
    layers: int = 4
    heads: int = 4
    head_dim: int = 24
    ffn_dim: int = 384
    freq_dim: int = 64
    token_dim: int = 96
    patch: tuple[int, int, int] = (1, 2, 2)
    text_tokens: int = 1

    def __post_init__(self) -> None:
        """Refuse what the rotary embedding cannot split over time, height and width."""
        if self.head_dim < 6 or self.head_dim % 2:
            raise WorldModelError(f"head_dim: expected an even number of at least 6, got {self.head_dim}")


@dataclass(frozen=True)
class FlowConfig:
    """Flow matching: x_σ = (1 − σ) x0 + σ noise, the model predicts noise − x0.

    Attributes:
        shift: σ = shift u / (1 + (shift − 1) u) for training (u uniform) and for sampling (u evenly spaced).
        sampling_shift: another shift for sampling alone; None for the same.
        steps: Euler steps of the sampler.
        guidance: scale of classifier-free guidance; 1 turns it off, and its second forward pass with it.
        anchor_dropout: share of training clips whose anchor tokens are replaced, which guidance needs.
        weighting: ``"uniform"``, or ``"bell"``: a Gaussian bump over the steps, as in the released code's scheduler.
        precondition: add the best linear guess of the velocity from x_σ to the network's output, which a short
            training from scratch would otherwise spend most of its steps on; off where the base model is trained.
    """

    shift: float = 5.0
    sampling_shift: float | None = None
    steps: int = 8
    guidance: float = 1.0
    anchor_dropout: float = 0.0
    weighting: Literal["uniform", "bell"] = "uniform"
    precondition: bool = True

    def __post_init__(self) -> None:
        """Refuse guidance without dropout, and numbers out of range."""
        if self.steps < 1 or min(self.shift, self.sampling_shift or 1.0) <= 0 or not 0 <= self.anchor_dropout < 1:
            raise WorldModelError(
                f"flow: expected steps >= 1, shift > 0, 0 <= anchor_dropout < 1; got {self.steps}, {self.shift}, "
                f"{self.anchor_dropout}"
            )
        if self.guidance != 1.0 and self.anchor_dropout == 0.0:
            raise WorldModelError(f"guidance {self.guidance} needs anchor_dropout > 0: the model never saw it dropped")


@dataclass(frozen=True)
class TrainingConfig:
    """The training run.

    Attributes:
        steps: optimizer steps.
        batch_size: clips per step.
        learning_rate: peak of the schedule (linear warm-up over the first 5 %, cosine to zero).
        weight_decay: AdamW's.
        gradient_clip: largest gradient norm.
        ema_decay: of the weights that are sampled with; 0 turns the average off.
        save_every_s: seconds between two resumable states.
        mixed_precision: run the transformer in bfloat16 (CUDA only).
    """

    steps: int = 600
    batch_size: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.995
    save_every_s: float = 30.0
    mixed_precision: bool = False


@dataclass(frozen=True)
class Stage2Config:
    """Stage 2 as a whole.

    Attributes:
        scale: name of the scale, for records.
        size: (height, width) that is generated; the pipeline resizes it to the wrist camera's.
        frames: T of one generated window.
        codec: frames ↔ latents.
        anchor: anchor frames → context tokens.
        transformer: the denoiser.
        flow: noise schedule and sampler.
        training: the run.
    """

    scale: str = "tiny"
    size: tuple[int, int] = (84, 84)
    frames: int = 4
    codec: CodecConfig = field(default_factory=CodecConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse a size that the codec and the patches do not divide."""
        if self.frames < 1 or self.frames > self.anchor.max_frames:
            raise WorldModelError(f"frames: expected 1..{self.anchor.max_frames}, got {self.frames}")
        unit = (self.codec.patch if self.codec.kind == "linear" else 8) * self.transformer.patch[1]
        if self.size[0] % unit or self.size[1] % unit:
            raise WorldModelError(f"size {self.size}: expected multiples of {unit} (codec patch × transformer patch)")
        if self.codec.kind == "wan" and self.frames % 4 != 1:
            raise WorldModelError(f"frames: Wan's autoencoder takes 4n + 1 frames, got {self.frames}")

    @classmethod
    def tiny(cls) -> Stage2Config:
        """Return the scale that trains in about 100 s on two CPU cores.

        So short a training does not learn to remove the last noise.  The large shift of the sampler keeps it at high
        noise levels: samples come out smooth, near the mean of what is possible (1.5 dB of PSNR on CALVIN's debug
        frames, against the shift of the training).
        """
        return cls(flow=FlowConfig(shift=5.0, sampling_shift=40.0, steps=6))

    @classmethod
    def small(cls) -> Stage2Config:
        """Return the scale that trains from scratch in minutes on one GPU (about 20 M parameters)."""
        return cls(
            scale="small",
            size=(96, 96),
            frames=8,
            codec=CodecConfig(patch=4, channels=24),
            anchor=AnchorConfig(
                image_size=192, patch=16, width=256, layers=4, heads=4, tokens="patches", hidden=512, max_views=4
            ),
            transformer=TransformerConfig(layers=8, heads=6, head_dim=64, ffn_dim=1536, freq_dim=256, token_dim=384),
            flow=FlowConfig(shift=3.0, steps=16, guidance=1.5, anchor_dropout=0.1),
            training=TrainingConfig(
                steps=20_000, batch_size=32, learning_rate=3e-4, ema_decay=0.999, mixed_precision=True
            ),
        )

    @classmethod
    def paper(cls) -> Stage2Config:
        """Return the paper's scale: Wan2.1-T2V-1.3B, its autoencoder, CLIP ViT-H/14, 81 frames of 480 × 832.

        Learning rate, shift, guidance, sampler steps and context length are the release's; training steps, batch size
        and dropout of the anchor are not published.  The release's text encoder and its LoRA are not used here.
        """
        wan = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
        return cls(
            scale="paper",
            size=(480, 832),
            frames=81,
            codec=CodecConfig(kind="wan", source=wan, subfolder="vae"),
            anchor=AnchorConfig(
                source="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
                subfolder="image_encoder",
                image_size=224,
                width=1280,
                hidden=2048,
            ),
            transformer=TransformerConfig(source=wan, subfolder="transformer", token_dim=4096, text_tokens=512),
            flow=FlowConfig(
                shift=5.0, steps=50, guidance=5.0, anchor_dropout=0.1, weighting="bell", precondition=False
            ),
            training=TrainingConfig(
                steps=20_000, batch_size=1, learning_rate=1e-5, ema_decay=0.0, mixed_precision=True
            ),
        )

    @classmethod
    def named(cls, scale: str) -> Stage2Config:
        """Return the configuration of a scale by its name.

        Raises:
            WorldModelError: there is no such scale.
        """
        scales = {"tiny": cls.tiny, "small": cls.small, "paper": cls.paper}
        if scale not in scales:
            raise WorldModelError(f"unknown scale {scale!r}: expected one of {', '.join(scales)}")
        return scales[scale]()

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stage2Config:
        """Rebuild a configuration from ``to_json``'s data.

        Raises:
            WorldModelError: a field is missing or unknown.
        """
        parts = {
            "codec": CodecConfig,
            "anchor": AnchorConfig,
            "transformer": TransformerConfig,
            "flow": FlowConfig,
            "training": TrainingConfig,
        }
        try:
            values: dict[str, Any] = dict(data)
            for name, part in parts.items():
                values[name] = part(**{key: _tupled(value) for key, value in values[name].items()})
            return cls(**{key: _tupled(value) for key, value in values.items()})
        except (KeyError, TypeError) as error:
            raise WorldModelError(f"not a stage-2 configuration: {error}") from error


def _tupled(value: Any) -> Any:
    """JSON has no tuples: give lists back as what they were."""
    return tuple(value) if isinstance(value, list) else value
