"""The video policy's network: features of what is expected to be seen, the Video Former, the flow policy's action head.

Everything but the view tokens is :class:`policies.network.FlowNetwork`'s.  The predictor is frozen and not part of the
network's weights (:class:`policies.vpp.predictor.Frozen`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.network import FlowNetwork, Inputs
from policies.vpp.config import VideoPolicyConfig
from policies.vpp.former import VideoFormer
from policies.vpp.predictor import Frozen, VideoPredictor, new_predictor
from policies.vpp.weights import load_predictor, pretrained_predictor, save_predictor

if TYPE_CHECKING:
    from policies.data import DeviceArrays

PREDICTOR_SHARE = 0.5
"""Of a time limit."""


class _MeanToken(nn.Module):
    """The mean of a sentence's vectors, which lie side by side, with components of about 1."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, sentence: Tensor) -> Tensor:
        mean = sentence.unflatten(1, (self.tokens, -1)).mean(1)
        return F.rms_norm(mean, mean.shape[-1:])


class VideoNetwork(FlowNetwork):
    """Video predictor (frozen), Video Former and action transformer.

    Args:
        config: the sizes.
        predictor: the trained one; None for that of ``config.weights``, or an untrained one.
    """

    config: VideoPolicyConfig

    def __init__(self, config: VideoPolicyConfig, predictor: VideoPredictor | None = None) -> None:
        if predictor is None:
            predictor = pretrained_predictor(config) if config.weights else new_predictor(config)
        self._channels = predictor.channels
        super().__init__(config)
        self.frozen = Frozen(predictor)

    def _words(self) -> nn.Module:
        return _MeanToken(self.config.text_tokens)

    @property
    def words_dim(self) -> int:
        """Length of one of the sentence's vectors."""
        return self.config.text_dim // self.config.text_tokens

    def _make_view_encoders(self) -> None:
        config = self.config
        self.former = VideoFormer(
            self._channels, sentence_dim=self.words_dim, grid=config.grid, keypoints=config.keypoints,
            frames=config.frames, queries=config.queries, dim=config.dim, layers=config.former_layers,
            heads=config.heads,
        )  # fmt: skip

    def _view_tokens(self, inputs: Inputs, always: Tensor) -> list[tuple[Tensor, Tensor]]:
        here = [always, inputs.wrist_present]
        tokens = self.former(self._features(inputs), here, self.words(inputs.sentence))
        return [(tokens, always[:, None].expand(-1, tokens.shape[1]))]

    @torch.compiler.disable
    def _features(self, inputs: Inputs) -> list[Tensor | None]:
        """Return the features (B, F, N, C) of anchor and wrist view; both go through the predictor as one batch."""
        predictor = self.frozen.on(inputs.anchor.device)
        B = len(inputs.anchor)
        view = torch.zeros(B, dtype=torch.long, device=inputs.anchor.device)
        if inputs.wrist is None:
            return [predictor.features(inputs.anchor, inputs.sentence, view), None]
        both = torch.cat([inputs.anchor, inputs.wrist])
        made = predictor.features(both, inputs.sentence.repeat(2, 1), torch.cat([view, view + 1]))
        return [made[:B], made[B:]]

    def prepare(
        self, data: DeviceArrays, held_out: DeviceArrays | None, folder: Path, identity: dict[str, Any], **options: Any
    ) -> dict[str, Any]:
        """Train the video predictor, unless it is one of those that are loaded by name.

        It gets half of a time limit; arguments as in :meth:`policies.network.FlowNetwork.prepare`.
        """
        if self.config.weights:
            return {}
        from policies.vpp.train import train_predictor

        limit = options.pop("time_limit_s", None)
        share = None if limit is None else limit * PREDICTOR_SHARE
        trained = train_predictor(
            data, self.config, folder, identity=identity, time_limit_s=share, held_out=held_out, **options
        )
        self.frozen.predictor = trained.eval().requires_grad_(False)
        return {name: value for name, value in trained.training_record.items() if name not in {*identity, "config"}}

    def save_beside(self, folder: Path) -> dict[str, Any]:
        """Write the predictor beside the policy's own weights; return what identifies it."""
        return {"predictor": save_predictor(self.frozen.predictor, folder)}

    def load_beside(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Read what :meth:`save_beside` wrote."""
        self.frozen = Frozen(load_predictor(self.config, folder, record["predictor"]))
