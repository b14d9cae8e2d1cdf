"""A graph gives what the kernels one by one give; it needs a GPU, so CI skips it and the GPU machine runs it."""

from __future__ import annotations

import pytest
import torch

from policies.config import FlowPolicyConfig
from policies.flow import initial_network, placed
from policies.graphs import GRAPHS, OFTEN, GraphedSampler
from policies.network import Inputs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def _asked(rows: int, wrist: bool, seed: int) -> tuple[Inputs, torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)

    def picture() -> torch.Tensor:
        return torch.randint(0, 256, (rows, 64, 64, 3), device="cuda", dtype=torch.uint8, generator=generator)

    present = torch.full((rows,), wrist, device="cuda")
    sentence = torch.randn(rows, 384, device="cuda", generator=generator)
    return Inputs(picture(), picture() if wrist else None, present, sentence), torch.randn(
        rows, 10, 7, device="cuda", generator=generator
    )


@pytest.mark.parametrize("wrist", [True, False])
def test_a_graph_gives_what_its_kernels_give(wrist: bool) -> None:
    network = placed(initial_network(FlowPolicyConfig.tiny(), 0), torch.device("cuda")).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    sampler = GraphedSampler(network)
    with torch.inference_mode():
        for seed in range(OFTEN + 3):
            inputs, noise = _asked(4, wrist, seed)
            assert torch.equal(sampler(inputs, noise), network.sample(inputs, noise))
        assert len(sampler._graphs) == 1


def test_only_so_many_shapes_are_kept() -> None:
    network = placed(initial_network(FlowPolicyConfig.tiny(), 0), torch.device("cuda")).eval().requires_grad_(False)
    sampler = GraphedSampler(network)
    with torch.inference_mode():
        for rows in range(1, GRAPHS + 3):
            for seed in range(OFTEN):
                sampler(*_asked(rows, True, seed))
    assert len(sampler._graphs) == GRAPHS
