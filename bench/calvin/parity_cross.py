"""Do demonstrations carry over: recorded on one of the two tables, played on the other, is the same task solved?

An expert records with CALVIN's assets and its actions are replayed open-loop on the built-in table from the same start,
and the other way round.  Nothing corrects the replay: where contact differs too much, a block is missed.  Not here:
recordings of the original (``parity.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin.env import CalvinEnv, Observation
from bench.calvin.expert import demonstrate
from bench.calvin.scene import SCENES
from bench.calvin.tasks import TASKS

RECORDING_ATTEMPTS = 4


class _Taped(CalvinEnv):
    """Keeps what leads from the last reset to now."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Observation, dict[str, Any]]:
        self.start = dict(options or {})
        self.actions: list[NDArray[np.float64]] = []
        self.begun = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any, render_views: bool = True) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.actions.append(np.array(action))
        return super().step(action, render_views)

    def begin_subtask(self) -> None:
        self.begun = len(self.actions)
        super().begin_subtask()


@dataclass(frozen=True)
class _Tape:
    """A recording from its reset on.

    Attributes:
        task: what was done.
        start: options of the reset.
        actions: (n, 7), those that brought a block into the gripper included.
        begun: how many of them came before the task began.
    """

    task: str
    start: dict[str, Any]
    actions: list[NDArray[np.float64]]
    begun: int


def _record(env: _Taped, task: str, seed: tuple[int, ...]) -> _Tape | None:
    for attempt in range(RECORDING_ATTEMPTS):
        if demonstrate(env, task, np.random.default_rng((*seed, attempt))) is not None:
            return _Tape(task, env.start, env.actions, env.begun)
    return None


def _replay(env: CalvinEnv, tape: _Tape) -> bool:
    """Play a recording and say whether the oracle is satisfied at any step."""
    env.reset(options=tape.start)
    for number, action in enumerate(tape.actions):
        if number == tape.begun:
            env.begin_subtask()
        env.step(action, render_views=False)
        if number >= tape.begun and env.task_done(tape.task):
            return True
    return False


def pairs(count: int) -> Iterator[tuple[str, str]]:
    """Yield ``count`` (scene, task): every task in every scene once in 136."""
    for number in range(count):
        yield "".join(SCENES)[(number + number // len(TASKS)) % len(SCENES)], TASKS[number % len(TASKS)]


def cross(assets: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Record ``count`` demonstrations on each table and replay them on the other.

    Args:
        assets: a calvin_env checkout.
        count: demonstrations on each of the two; 136 is every task in every scene.
        seed: of the experts.

    Returns:
        for either direction (``…_assets_to_builtin``, ``…_builtin_to_assets``) ``cross_recorded_…``, the demonstrations
        that the expert succeeded in; ``cross_solved_…``, those that solved the task on the other table as well;
        ``cross_failed_…``, the names of the others.
    """
    report: dict[str, Any] = {}
    scenes = sorted({scene for scene, _ in pairs(count)})
    for name, recorded_with, played_with in (
        ("assets_to_builtin", assets, None),
        ("builtin_to_assets", None, assets),
    ):
        with ExitStack() as stack:
            recorders = {scene: stack.enter_context(closing(_Taped(scene, assets=recorded_with))) for scene in scenes}
            players = {scene: stack.enter_context(closing(CalvinEnv(scene, assets=played_with))) for scene in scenes}
            recorded, failed = 0, []
            for scene, task in pairs(count):
                tape = _record(recorders[scene], task, (seed, ord(scene), TASKS.index(task)))
                recorded += tape is not None
                if tape is not None and not _replay(players[scene], tape):
                    failed.append(f"{task} in {scene}")
        report |= {
            f"cross_recorded_{name}": recorded,
            f"cross_solved_{name}": recorded - len(failed),
            f"cross_failed_{name}": failed,
        }
    return report
