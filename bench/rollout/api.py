"""What a rollout needs of the world it takes place in, and of who watches: interfaces only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class World(Protocol):
    """The part of ``bench.calvin.env.CalvinEnv`` that the loop touches."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Put the world into ``options``' ``robot_obs`` and ``scene_obs``; draw where its ``render_views`` says so."""
        ...

    def step(self, action: NDArray[np.floating], render_views: bool = True) -> tuple[Any, ...]:
        """Carry out one control step; the first item returned is the observation."""
        ...

    def views(self) -> dict[str, NDArray[np.uint8]]:
        """Draw both cameras now."""
        ...

    def begin_subtask(self) -> None:
        """Remember the state that the next subtask is judged against."""
        ...

    def task_done(self, task: str) -> bool:
        """Judge the subtask now."""
        ...


class Recorder(Protocol):
    """Someone who watches a chain; while one does, every step is drawn."""

    def frame(self, views: Mapping[str, NDArray[np.uint8]], instruction: str, subtask: int, done: bool) -> None:
        """Take the views after one step, what the robot was told, and whether that step ended the subtask."""
        ...
