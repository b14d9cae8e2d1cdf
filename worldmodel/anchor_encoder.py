"""Anchor frames to context tokens: CLIP features, a temporal and a view embedding, an MLP (paper, stage 2).

One token per frame and view (the class token) or all patch tokens.  At the paper's scale the encoder is the frozen
ViT-H/14 of Wan2.1's image-to-video model, read at its last block but one; at smaller scales it is a small model of the
same class, trained along and read at its last block.

Not here: the transformer that reads the tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.api import WorldModelError
from worldmodel.stage2_config import AnchorConfig

# OpenAI CLIP's preprocessing, which ViT-H/14 shares: transformers' CLIPImageProcessor defaults.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def load_clip(source: str, subfolder: str | None) -> Any:
    """Return a trained ``CLIPVisionModel``, frozen.

    Raises:
        WorldModelError: ``source`` names none.
    """
    from transformers import CLIPVisionModel

    try:
        clip = CLIPVisionModel.from_pretrained(source, **({"subfolder": subfolder} if subfolder else {}))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WorldModelError(
            f"anchor encoder {source!r}: expected a Hugging Face id or folder of a CLIPVisionModel: {reason}"
        ) from error
    return clip.requires_grad_(False).eval()


def make_clip(config: AnchorConfig) -> Any:
    """Return a ``CLIPVisionModel`` of the configured size with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
        )
    )


class AnchorEncoder(nn.Module):
    """Context tokens of the anchor frames of one window."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: AnchorConfig, token_dim: int) -> None:
        super().__init__()
        self.config = config
        self.frozen = bool(config.source)
        self.clip = load_clip(config.source, config.subfolder) if self.frozen else make_clip(config)
        width = int(self.clip.config.hidden_size)
        self.temporal = nn.Parameter(0.02 * torch.randn(config.max_frames, width))
        self.view = nn.Parameter(0.02 * torch.randn(config.max_views, width))
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(config.hidden, token_dim)
        )
        # CLIP's pixels are in [0, 1], ours in [-1, 1].
        self.register_buffer("pixel_mean", 2 * torch.tensor(CLIP_MEAN).view(3, 1, 1) - 1, persistent=False)
        self.register_buffer("pixel_std", 2 * torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> AnchorEncoder:
        """Set the mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.clip.eval()
        return self

    def features(self, anchors: Tensor) -> Tensor:
        """Return (B, T, V, K, D) features of anchors (B, T, V, 3, S, S) in [-1, 1]; K is 1 for class tokens."""
        B, T, V = anchors.shape[:3]
        pixels = (anchors.flatten(0, 2) - self.pixel_mean) / self.pixel_std  # (BTV, 3, S, S)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states = self.clip(pixel_values=pixels, output_hidden_states=True).hidden_states
        state = states[-2 if self.frozen else -1]  # (BTV, 1 + patches, D)
        chosen = state[:, :1] if self.config.tokens == "cls" else state[:, 1:]
        return chosen.unflatten(0, (B, T, V))

    def forward(self, anchors: Tensor) -> Tensor:
        """Return context tokens (B, T·V·K, token_dim) of anchors (B, T, V, 3, S, S) in [-1, 1]."""
        T, V = anchors.shape[1:3]
        if self.config.max_frames < T or self.config.max_views < V:
            raise WorldModelError(
                f"anchor encoder: built for {self.config.max_frames} frames of {self.config.max_views} views, "
                f"got {T} of {V}"
            )
        features = self.features(anchors)  # (B, T, V, K, D)
        features = features + self.temporal[:T, None, None] + self.view[:V, None]
        tokens: Tensor = self.mlp(features.flatten(1, 3))
        return tokens  # (B, TVK, token_dim)
