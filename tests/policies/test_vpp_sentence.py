"""The sentence reaches into the Video Former: of three dots the policy finds the one that is named.

As ``test_sentence_in_view.py``, with patches of the picture in place of a predictor's features.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from policies.network import Inputs
from policies.vpp.config import VideoPolicyConfig
from policies.vpp.network import VideoNetwork

SIDE, PATCH, BATCH, STEPS = 32, 4, 64, 130
COLOURS = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]])


class Patches(VideoNetwork):
    """Sees the picture's patches at once, mixed at random; no predictor to wait for."""

    def _features(self, inputs: Inputs) -> list[Tensor | None]:
        pictures = inputs.anchor.permute(0, 3, 1, 2) / 127.5 - 1
        patches = F.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2)  # (B, N, 3 × PATCH²)
        mixing = torch.randn(patches.shape[-1], self._channels, generator=torch.Generator().manual_seed(0))
        return [torch.tanh(0.3 * patches @ mixing)[:, None], None]


def dots(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return pictures uint8 (B, S, S, 3) of three coloured dots on grey, and where they are in -1..1, (B, 3, 2)."""
    places = torch.rand(BATCH, 3, 2, generator=generator) * 1.6 - 0.8
    axis = torch.linspace(-1, 1, SIDE)
    row, column = (torch.exp(-(((axis - places[..., i : i + 1]) * SIDE / 5) ** 2)) for i in (0, 1))
    pictures = 110 + 130 * torch.einsum("bdh,bdw,dc->bhwc", row, column, COLOURS)
    return pictures.clamp(0, 255).to(torch.uint8), places


def loss_after_training(with_sentence: bool) -> float:
    torch.manual_seed(0)
    config = VideoPolicyConfig.tiny(
        anchor_size=SIDE, wrist_size=SIDE, stem_stride=PATCH, cell=PATCH, levels=1, frames=1, queries=4, dim=64,
        layers=1, former_layers=1,
    )  # fmt: skip
    network = Patches(config)
    network.former.film.requires_grad_(with_sentence)
    sentences = F.normalize(torch.randn(3, config.text_dim), dim=1)
    optimiser = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(1)
    valid, nobody = torch.ones(BATCH, config.chunk, dtype=torch.bool), torch.zeros(BATCH, dtype=torch.bool)
    losses = []
    for step in range(STEPS):
        pictures, places = dots(generator)
        named = torch.randint(3, (BATCH,), generator=generator)
        actions = torch.zeros(BATCH, config.chunk, 7)
        actions[..., :2] = places[torch.arange(BATCH), named][:, None]
        inputs = Inputs(pictures, None, nobody, sentences[named])
        noise = torch.randn(actions.shape, generator=generator)
        loss = network.loss(inputs, actions, valid, noise, torch.zeros(BATCH))
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / STEPS)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


@pytest.mark.parametrize("with_sentence", [True, False])
def test_the_dot_that_is_named_is_found_only_where_the_features_hear_the_sentence(with_sentence):
    loss = loss_after_training(with_sentence)
    assert (loss < 0.025) == with_sentence, loss
