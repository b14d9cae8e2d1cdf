"""Sampling as one CUDA graph: the same kernels on the same numbers, launched once instead of some hundred times.

A forward of a small network costs a GPU far less than the CPU needs to launch its kernels; in a rollout every worker
waits for that.  A graph is captured for each shape of batch that comes again and again.  Not here: anything for a CPU.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from policies.network import FlowNetwork, Inputs

OFTEN = 3
"""Batches of one shape before its graph is captured, which costs as much as some of them."""

GRAPHS = 4
"""Shapes that are kept; others are sampled kernel by kernel."""

WARM_UP = 3


class GraphedSampler:
    """``FlowNetwork.sample`` on a GPU, from graphs where shapes come again.

    Args:
        network: in evaluation mode, its weights never changed again.
    """

    def __init__(self, network: FlowNetwork) -> None:
        self._network = network
        self._seen: Counter[tuple[tuple[int, ...] | None, ...]] = Counter()
        self._graphs: dict[tuple[tuple[int, ...] | None, ...], _Graph] = {}

    def __call__(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Return scaled actions (B, K, A); see :meth:`policies.network.FlowNetwork.sample`."""
        shape = tuple(None if part is None else tuple(part.shape) for part in (*_parts(inputs), noise))
        graph = self._graphs.get(shape)
        if graph is None:
            self._seen[shape] += 1
            if self._seen[shape] < OFTEN or len(self._graphs) == GRAPHS:
                return self._network.sample(inputs, noise)
            graph = self._graphs[shape] = _Graph(self._network, inputs, noise)
        return graph(inputs, noise)


class _Graph:
    """One captured forward, and the tensors that it reads and writes."""

    def __init__(self, network: FlowNetwork, inputs: Inputs, noise: Tensor) -> None:
        given = {part.name: getattr(inputs, part.name) for part in fields(inputs)}
        copies: dict[str, Any] = {name: None if part is None else part.clone() for name, part in given.items()}
        self._inputs = Inputs(**copies)
        self._noise = noise.clone()
        beside = torch.cuda.Stream(noise.device)
        beside.wait_stream(torch.cuda.current_stream(noise.device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                network.sample(self._inputs, self._noise)
        torch.cuda.current_stream(noise.device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._actions = network.sample(self._inputs, self._noise)

    def __call__(self, inputs: Inputs, noise: Tensor) -> Tensor:
        for mine, given in zip(_parts(self._inputs), _parts(inputs), strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        self._noise.copy_(noise)
        self._graph.replay()
        return self._actions.clone()


def _parts(inputs: Inputs) -> list[Tensor | None]:
    return [getattr(inputs, part.name) for part in fields(inputs)]
