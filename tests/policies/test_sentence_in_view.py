"""The sentence reaches into the view encoders: of three dots the policy finds the one that is named.

A toy of what CALVIN's blocks ask for, small enough to be learned in seconds.  Not here: real sentences and pictures.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from policies.config import FlowPolicyConfig
from policies.network import FlowNetwork, Inputs

SIDE, BATCH, STEPS = 32, 64, 130
COLOURS = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]])


def dots(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return pictures uint8 (B, S, S, 3) of three coloured dots on grey, and where they are in -1..1, (B, 3, 2)."""
    places = torch.rand(BATCH, 3, 2, generator=generator) * 1.6 - 0.8
    axis = torch.linspace(-1, 1, SIDE)
    row = torch.exp(-(((axis - places[..., :1]) * SIDE / 5) ** 2))  # (B, 3, S)
    column = torch.exp(-(((axis - places[..., 1:]) * SIDE / 5) ** 2))
    pictures = 110 + 130 * torch.einsum("bdh,bdw,dc->bhwc", row, column, COLOURS)
    return pictures.clamp(0, 255).to(torch.uint8), places


def error_after_training(with_sentence: bool) -> float:
    """Train on the place of the named dot; return the mean error of the last steps, in half sides of the picture."""
    torch.manual_seed(0)
    config = FlowPolicyConfig.tiny(
        anchor_size=SIDE, wrist_size=SIDE, cell=8, width=8, dim=64, layers=1, keypoints=16, head="regression"
    )
    network = FlowNetwork(config)
    sentences = torch.nn.functional.normalize(torch.randn(3, config.text_dim), dim=1)
    if not with_sentence:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(".film." not in name)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(BATCH, config.chunk, dtype=torch.bool)
    errors = []
    for step in range(STEPS):
        pictures, places = dots(generator)
        named = torch.randint(3, (BATCH,), generator=generator)
        actions = torch.zeros(BATCH, config.chunk, 7)
        actions[..., :2] = places[torch.arange(BATCH), named][:, None]
        inputs = Inputs(pictures, None, torch.zeros(BATCH, dtype=torch.bool), sentences[named])
        loss = network.loss(inputs, actions, valid, torch.zeros_like(actions), torch.zeros(BATCH))
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 30) * (1 - 0.9 * step / STEPS)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        errors.append(loss.item() * 7 / 2)
    return sum(errors[-20:]) / 20


@pytest.mark.parametrize("with_sentence", [True, False])
def test_the_dot_that_is_named_is_found_only_where_the_convolutions_hear_the_sentence(with_sentence):
    error = error_after_training(with_sentence)
    assert (error < 0.1) == with_sentence, error


def test_an_untrained_block_ignores_the_sentence():
    network = FlowNetwork(FlowPolicyConfig.tiny())
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    there = torch.ones(2, dtype=torch.bool)
    one, _ = network.anchor(pictures, there, torch.zeros(2, 384))
    other, _ = network.anchor(pictures, there, torch.randn(2, 384))
    assert torch.equal(one, other)
