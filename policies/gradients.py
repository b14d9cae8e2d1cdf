"""Loss and gradients of one training step, launched as this machine does it fastest.

The same arithmetic in up to three ways: kernel by kernel (``eager``), fused by ``torch.compile`` (``compile``), and
either of them recorded once as a CUDA graph and then launched as one (``graph``, ``compile+graph``): a small network's
kernels take a GPU less time than a processor needs to launch them one by one.  What a machine's compiler or driver
cannot do falls back to ``eager`` with a warning.  Not here: optimiser and averaged weights (:mod:`policies.loop`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from policies.api import PolicyError
from policies.data import Batch
from policies.network import FlowNetwork, Inputs
from policies.taking_turns import turn

LAUNCHES = ("eager", "compile", "graph", "compile+graph")
EAGER = "eager"
WARM_UP = 3
"""Runs before a graph is recorded: libraries choose their kernels and take their memory in them."""
COMPILING_S = 100.0
COMPILING_SAMPLES = 1_700_000
"""What compiling the step costs on an H200's machine, and the samples that must follow before it has paid for itself:
11 thousand a second without (``results/perf/policy_small_h200_graph.json``), 24 with it in ``results/gap_d_d``."""


def usual_launch(device: torch.device, compiles: bool | None, samples: int, time_limit_s: float | None) -> str:
    """Return how steps are launched where nobody says.

    Args:
        device: where the network is; a graph needs a GPU.
        compiles: what the configuration says; None compiles where it pays.
        samples: that training will read at most.
        time_limit_s: of training, if there is one.
    """
    if device.type != "cuda":
        return "compile" if compiles else EAGER
    if compiles is None:
        compiles = samples > COMPILING_SAMPLES and (time_limit_s is None or time_limit_s > 1.5 * COMPILING_S)
    return "compile+graph" if compiles else "graph"


class Gradients:
    """Callable on a batch: leaves the gradients in the network's parameters and returns the loss.

    Attributes:
        launch: how steps are launched, one of :data:`LAUNCHES`; ``eager`` after what was asked for had failed.

    Args:
        network: its parameters get the gradients of each batch alone, never summed.
        device: where the network is.
        launch: how to launch; all but ``eager`` and ``compile`` need a GPU.

    Raises:
        PolicyError: an unknown way, or a graph without a GPU.
    """

    def __init__(self, network: FlowNetwork, device: torch.device, launch: str) -> None:
        if launch not in LAUNCHES:
            raise PolicyError(f"launch: expected one of {list(LAUNCHES)}, got {launch!r}")
        if "graph" in launch and device.type != "cuda":
            raise PolicyError(f"launch {launch!r} needs a GPU, the device is {str(device)!r}; use 'eager' or 'compile'")
        self.launch = launch
        self._network, self._device = network, device
        self._loss: Callable[..., Tensor] = torch.compile(network.loss) if "compile" in launch else network.loss
        self._graph: _RecordedStep | None = None
        self._proven = launch == EAGER

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss, detached."""
        if self._proven:
            return self._step(batch)
        try:
            with turn(self._compiled(batch)) if "compile" in self.launch else nullcontext():
                loss = self._step(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            warnings.warn(f"training steps cannot be launched by {self.launch}: {reason}; going on eager", stacklevel=2)
            self.launch, self._loss, self._graph = EAGER, self._network.loss, None
            loss = self._step(batch)
        self._proven = True
        return loss

    def _step(self, batch: Batch) -> Tensor:
        if "graph" not in self.launch:
            return self._gradients(batch)
        if self._graph is None:
            self._graph = _RecordedStep(self._gradients, batch)
        return self._graph(batch)

    def _compiled(self, batch: Batch) -> str:
        """Return a text that is the same for every process that would compile the same step."""
        architecture = {name: value for name, value in self._network.config.to_json().items() if name != "training"}
        shapes = [tuple(part.shape) for part in _tensors(batch)]
        return f"{architecture} {shapes} {self._device.type} {torch.__version__}"

    def _gradients(self, batch: Batch) -> Tensor:
        self._network.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._loss(batch.inputs, batch.actions, batch.valid, batch.noise, batch.t)
        loss.backward()
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast("cuda", torch.bfloat16) if self._device.type == "cuda" else nullcontext()


class _RecordedStep:
    """One recorded step, and the tensors that it reads; its gradients lie where they were when it was recorded."""

    def __init__(self, step: Callable[[Batch], Tensor], batch: Batch) -> None:
        inputs = replace(batch.inputs, **_copies(batch.inputs))
        self._batch = replace(batch, **_copies(batch) | {"inputs": inputs})
        device = batch.actions.device
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                step(self._batch)
        torch.cuda.current_stream(device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._loss = step(self._batch)

    def __call__(self, batch: Batch) -> Tensor:
        for mine, given in zip(_tensors(self._batch), _tensors(batch), strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._loss.clone()


def _copies(group: Batch | Inputs) -> dict[str, Any]:
    """Return new tensors for those of ``group``, by name."""
    parts = {part.name: getattr(group, part.name) for part in fields(group)}
    return {name: part.clone() for name, part in parts.items() if isinstance(part, Tensor)}


def _tensors(batch: Batch) -> list[Tensor]:
    """Return every tensor that a step may read."""
    groups = (batch.inputs, batch)
    parts = [getattr(group, part.name) for group in groups for part in fields(group)]
    return [part for part in parts if isinstance(part, Tensor)]
