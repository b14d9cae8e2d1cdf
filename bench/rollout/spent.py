"""Where a rollout's time goes: a world that times itself, and the sums that come home with each chain.

The clocks cost less than a microsecond a step, so they always run; ``wristbench perf rollout`` reads them.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.rollout.chain import World

Answer = TypeVar("Answer")

WORLD_PARTS = ("physics", "drawing", "oracle", "reset")
"""Seconds inside the world."""

Spent = defaultdict[str, float]
"""Seconds by part (``WORLD_PARTS``, ``"policy"`` asked in the same process, ``"waiting"`` for a remote one, ``"busy"``:
all that was not waiting) and the counts ``"steps"`` and ``"requests"``."""


@dataclass
class WorkerSpan:
    """One worker's time at work: when its first chain began and its last one ended, and its steps between them."""

    began: float = math.inf
    ended: float = -math.inf
    steps: float = 0.0

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began


class Meter:
    """Adds up where the time of a whole rollout went.

    Attributes:
        spent: sums over all chains.
        workers: process id to the worker's span.
        servers: each inference actor's statistics.
        chains: finished chains.
        first, last: when (``time.perf_counter``) the first world stood and the last chain was settled.
    """

    def __init__(self) -> None:
        self.spent: Spent = defaultdict(float)
        self.workers: defaultdict[int, WorkerSpan] = defaultdict(WorkerSpan)
        self.servers: list[Mapping[str, float | int | None]] = []
        self.chains = 0
        self.first = self.last = math.nan

    def ready(self) -> None:
        """Note that a worker's world stands."""
        if math.isnan(self.first):
            self.first = time.perf_counter()

    def add(self, spent: Mapping[str, float], process: int, span: tuple[float, float]) -> None:
        """Add a finished chain and the time that its worker gave it."""
        self.chains += 1
        self.last = time.perf_counter()
        for part, amount in spent.items():
            self.spent[part] += amount
        worker = self.workers[process]
        worker.began, worker.ended = min(worker.began, span[0]), max(worker.ended, span[1])
        worker.steps += spent.get("steps", 0.0)

    def served(self, statistics: Sequence[Mapping[str, float | int | None]]) -> None:
        """Add what the inference actors say of themselves."""
        self.servers += statistics


class TimedWorld:
    """A world that notes how long each of its parts takes; whatever else it has is the wrapped world's own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.spent: Spent = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        """Give what only the wrapped world has: an expert reads the simulator's state."""
        return getattr(self._world, name)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Put the world into a state."""
        return self._timed("reset", lambda: self._world.reset(seed=seed, options=options))

    def step(self, action: NDArray[np.floating], render_views: bool = True) -> tuple[Any, ...]:
        """Carry out one control step; drawing asked for here counts as physics."""
        began = time.perf_counter()
        answer = self._world.step(action, render_views=render_views)
        self.spent["physics"] += time.perf_counter() - began
        self.spent["steps"] += 1
        return answer

    def views(self) -> dict[str, NDArray[np.uint8]]:
        """Draw both cameras."""
        return self._timed("drawing", self._world.views)

    def begin_subtask(self) -> None:
        """Remember the state that the next subtask is judged against."""
        self._world.begin_subtask()

    def task_done(self, task: str) -> bool:
        """Judge the subtask now."""
        began = time.perf_counter()
        answer = self._world.task_done(task)
        self.spent["oracle"] += time.perf_counter() - began
        return answer

    def close(self) -> None:
        """Close the world, if it can be closed."""
        if hasattr(self._world, "close"):
            self._world.close()

    def _timed(self, part: str, work: Callable[[], Answer]) -> Answer:
        began = time.perf_counter()
        answer = work()
        self.spent[part] += time.perf_counter() - began
        return answer
