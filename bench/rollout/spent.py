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

from bench.rollout.api import World

Answer = TypeVar("Answer")

WORLD_PARTS = ("physics", "drawing", "oracle", "reset")
"""Seconds inside the world."""

PARTS = (*WORLD_PARTS, "policy", "waiting", "busy", "steps", "requests")
Spent = defaultdict[str, float]
"""What ``PARTS`` names: seconds by part (``WORLD_PARTS``, ``"policy"`` asked in the same process, ``"waiting"`` for a
remote one, ``"busy"``: all that was not waiting) and the counts ``"steps"`` and ``"requests"``."""


@dataclass(frozen=True)
class Stint:
    """A time that one worker spent on chains: one of them, or several in a row.

    Attributes:
        began, ended: when, by the worker's own clock.
        spent: where the time went; see :data:`Spent`.
    """

    began: float
    ended: float
    spent: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began


class Meter:
    """Adds up where the time of a whole rollout went.

    Attributes:
        chains: finished chains.
        steps: their control steps.
        restarts: workers that were hired in the place of lost ones.
        lanes: chains that a worker carried side by side at the end.
        servers: each inference actor's statistics.
        first, last: when (``time.perf_counter``) the first world stood and the last chain was settled.
    """

    def __init__(self) -> None:
        self.chains = self.steps = self.restarts = 0
        self.lanes = 1
        self.servers: list[Mapping[str, float | int | None]] = []
        self.first = self.last = math.nan
        self._stints: defaultdict[int, list[Stint]] = defaultdict(list)

    def ready(self) -> None:
        """Note that a worker's world stands."""
        if math.isnan(self.first):
            self.first = time.perf_counter()

    def add(self, worker: int, stint: Stint) -> None:
        """Add the finished chain that worker number ``worker`` gave this time to."""
        self.chains += 1
        self.steps += int(stint.spent.get("steps", 0))
        self.last = time.perf_counter()
        self._stints[worker].append(stint)

    def served(self, statistics: Sequence[Mapping[str, float | int | None]]) -> None:
        """Add what the inference actors say of themselves."""
        self.servers += statistics

    def steady(self) -> list[Stint]:
        """Return each worker's time from the end of its first chain to that of its last.

        In the first chain policies are loaded and their graphs are made.  A worker whose chains all began before its
        first one ended is taken whole.
        """
        return [_steady(stints) for stints in self._stints.values()]


def _steady(stints: Sequence[Stint]) -> Stint:
    warm = min(stint.ended for stint in stints)
    counted = [stint for stint in stints if stint.began >= warm]
    began = warm if counted else min(stint.began for stint in stints)
    spent: Spent = defaultdict(float)
    for stint in counted or stints:
        for part, amount in stint.spent.items():
            spent[part] += amount
    return Stint(began, max(stint.ended for stint in stints), spent)


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
