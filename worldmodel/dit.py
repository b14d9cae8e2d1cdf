"""The video transformer that denoises wrist latents: Wan's, with the condition map beside the noise (paper, stage 2).

The latents of the condition map are concatenated to the noisy latents along the channels, so the patch embedding is
twice as wide as the base model's; only the noisy half is predicted.  Anchor tokens replace the tail of the text
context.  The transformer is diffusers' ``WanTransformer3DModel``, trained from scratch at small scales and loaded
with a widened patch embedding at the paper's.

Not here: noise schedule, training, sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.anchor_encoder import AnchorEncoder
from worldmodel.api import WorldModelError
from worldmodel.flow import linear_guess
from worldmodel.stage2_config import Stage2Config, TransformerConfig

WIDENING_STD = 0.02  # the release draws the new half of the patch embedding from N(0, 0.02), not zeros


def make_transformer(config: TransformerConfig, channels: int) -> Any:
    """Return a ``WanTransformer3DModel`` for ``channels`` latent channels and as many of the condition, untrained."""
    from diffusers import WanTransformer3DModel

    transformer = WanTransformer3DModel(
        patch_size=config.patch,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=2 * channels,
        out_channels=channels,
        text_dim=config.token_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
    )
    # Starting from "predict zero" saves the first few hundred steps of a short run.
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    # Diffusers keeps the rotary tables in float64, which turns every query and key into float64 for a moment:
    # a third of a training step on a CPU.
    transformer.rope.freqs_cos = transformer.rope.freqs_cos.float()
    transformer.rope.freqs_sin = transformer.rope.freqs_sin.float()
    return transformer


def widen_patch_embedding(transformer: Any, in_channels: int, generator: torch.Generator | None = None) -> None:
    """Give the patch embedding more input channels, keeping the weights of those it has.

    Args:
        transformer: a ``WanTransformer3DModel``; changed in place.
        in_channels: how many it shall have.
        generator: draws the new weights.
    """
    old = transformer.patch_embedding
    if in_channels < old.in_channels:
        raise WorldModelError(f"patch embedding: cannot narrow {old.in_channels} channels to {in_channels}")
    new = nn.Conv3d(in_channels, old.out_channels, old.kernel_size, old.stride)
    with torch.no_grad():
        new.weight.normal_(0, WIDENING_STD, generator=generator)
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)  # type: ignore[union-attr]
    transformer.patch_embedding = new.to(old.weight.device, old.weight.dtype)
    transformer.register_to_config(in_channels=in_channels)


def _folder(source: str, subfolder: str | None) -> Path:
    """Return the local folder of a model, fetched from the Hub unless ``source`` is a folder."""
    root = Path(source)
    if not root.is_dir():
        from huggingface_hub import snapshot_download

        root = Path(snapshot_download(source, allow_patterns=f"{subfolder}/*" if subfolder else None))
    return root / (subfolder or "")


def load_transformer(config: TransformerConfig, channels: int) -> Any:
    """Return the trained base transformer named by ``config``, its patch embedding widened for the condition.

    Raises:
        WorldModelError: there is none, or it is for other latents.
    """
    from diffusers import WanTransformer3DModel
    from safetensors.torch import load_file

    # Not from_pretrained: for this class it insists on the package accelerate.
    try:
        folder = _folder(config.source, config.subfolder)
        settings = WanTransformer3DModel.load_config(folder)
        transformer = WanTransformer3DModel.from_config(settings)
        weights = {
            name: value for part in sorted(folder.glob("*.safetensors")) for name, value in load_file(part).items()
        }
        transformer.load_state_dict(weights)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WorldModelError(
            f"transformer {config.source!r}: expected a Hugging Face id or folder of a WanTransformer3DModel: {reason}"
        ) from error
    if transformer.config.out_channels != channels:
        raise WorldModelError(
            f"transformer {config.source!r}: expected {channels} latent channels (the codec's), "
            f"got {transformer.config.out_channels}"
        )
    widen_patch_embedding(transformer, 2 * channels, torch.Generator().manual_seed(0))
    return transformer


def rebuild_transformer(settings: Mapping[str, Any]) -> Any:
    """Return a ``WanTransformer3DModel`` of the shape in a checkpoint, ready for its weights."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel.from_config(dict(settings))


class WristDenoiser(nn.Module):
    """Predicts the flow-matching velocity of wrist latents from the condition map's latents and the anchor frames."""

    spread: Tensor

    def __init__(self, config: Stage2Config, channels: int, settings: Mapping[str, Any] | None = None) -> None:
        """Build it.

        Args:
            config: the scale.
            channels: latent channels of the codec.
            settings: the transformer's own configuration, from a checkpoint; None builds or loads it by ``config``.
        """
        super().__init__()
        wanted = config.transformer
        if settings is not None:
            self.transformer = rebuild_transformer(settings)
        elif wanted.source:
            self.transformer = load_transformer(wanted, channels)
        else:
            self.transformer = make_transformer(wanted, channels)
        token_dim = int(self.transformer.config.text_dim)
        self.anchor_encoder = AnchorEncoder(config.anchor, token_dim)
        self.context_length = wanted.text_tokens
        self.precondition = config.flow.precondition
        self.register_buffer("spread", torch.ones(channels))
        # Learned, at every scale: the release holds the text encoder's embeddings of one fixed prompt here.
        self.text = nn.Parameter(0.02 * torch.randn(wanted.text_tokens, token_dim))
        self.null = nn.Parameter(0.02 * torch.randn(wanted.text_tokens, token_dim))

    def context(self, anchors: Tensor) -> Tensor:
        """Return the context (B, L, D): text, its tail replaced by the tokens of anchors (B, T, V, 3, S, S)."""
        tokens = self.anchor_encoder(anchors)  # (B, K, D)
        kept = max(1, self.context_length - tokens.shape[1])
        return torch.cat([self.text[:kept].expand(len(tokens), -1, -1), tokens], dim=1)

    def null_context(self, like: Tensor) -> Tensor:
        """Return the context without anchors, of the shape of ``like`` (B, L, D)."""
        B, L, D = like.shape
        null = self.null if len(self.null) == L else self.null[:1].expand(L, D)
        return null.expand(B, L, D)

    def forward(self, noisy: Tensor, condition: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """Return the velocity, noise − x0.

        Args:
            noisy: (B, C, T', h, w) latents at noise level ``sigma``.
            condition: (B, C, T', h, w) latents of the condition map, clean.
            sigma: (B,) in [0, 1]; the transformer is given 1000 σ.
            context: (B, L, D) from ``context`` or ``null_context``.
        """
        both = torch.cat([noisy, condition], dim=1)  # (B, 2C, T', h, w)
        velocity: Tensor = self.transformer(
            hidden_states=both, timestep=1000 * sigma, encoder_hidden_states=context, return_dict=False
        )[0]
        if self.precondition:
            guess, missed = linear_guess(noisy, sigma, self.spread)
            velocity = guess + missed * velocity
        return velocity
