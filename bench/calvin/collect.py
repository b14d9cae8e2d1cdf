"""Collecting demonstrations in one process: which task next, from a fresh start or from where the last one ended.

A chunk is a pure function of its arguments, so that any worker may make it and a lost one can be made again.  Worlds
are built once a process and used again: what happens after a reset does not depend on what happened before.  Not here:
running chunks in parallel, writing them to disk.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.calvin.env import CalvinEnv
from bench.calvin.expert import EXPERT_TASKS, Demonstration, demonstrate, prepare
from bench.calvin.film import Film
from bench.calvin.sequence_rules import SymbolicState, outcomes
from bench.calvin.tasks import check_task
from bench.errors import UserError

CHAINED = 0.4
"""Default share of demonstrations that begin where the one before ended, as every subtask of a chain but the first."""

TRIES_PER_EPISODE = 5


@dataclass(frozen=True)
class Chunk:
    """What one call of :func:`collect_chunk` made.

    Attributes:
        demonstrations: the successful ones, in the order in which they were done.
        attempts: task name to the number of attempts, failed ones included.
    """

    demonstrations: tuple[Demonstration, ...]
    attempts: Mapping[str, int] = field(default_factory=dict)

    @property
    def solved(self) -> dict[str, int]:
        """Return task name to the number of demonstrations."""
        return dict(Counter(one.task for one in self.demonstrations))

    @property
    def frames(self) -> int:
        """Return the number of actions in all demonstrations together."""
        return sum(len(one) for one in self.demonstrations)


def chosen_tasks(tasks: str | Sequence[str]) -> tuple[str, ...]:
    """Return the tasks that ``"all"``, a comma-separated string or a sequence of names stands for.

    Raises:
        UserError: a name is no task, or none is given.
    """
    if tasks == "all":
        return EXPERT_TASKS
    names = tasks.split(",") if isinstance(tasks, str) else list(tasks)
    chosen = tuple(dict.fromkeys(check_task(name.strip()) for name in names))
    if not chosen:
        raise UserError("tasks: expected 'all' or at least one task name, got none")
    return chosen


def attempts(
    env: CalvinEnv,
    tasks: Sequence[str],
    rng: np.random.Generator,
    *,
    noise: float = 0.0,
    chained: float = CHAINED,
    render: bool = False,
) -> Iterator[tuple[str, Demonstration | None]]:
    """Yield (task, demonstration or None) without end, the tasks as evenly as chains allow.

    Args:
        env: the world to act in.
        tasks: names of the tasks to demonstrate.
        rng: the only source of variation.
        noise: standard deviation of the noise on executed actions; labels stay clean.
        chained: probability of going on from where the last demonstration ended.
        render: record both cameras.
    """
    done: Counter[str] = Counter()
    state: SymbolicState | None = None
    while True:
        possible = [task for task in tasks if state is not None and len(outcomes(state, task)) == 1]
        goes_on = bool(possible) and rng.random() < chained
        task = _rarest(possible if goes_on else tasks, done, rng)
        if not goes_on:
            state = prepare(env, task, rng)
        one = None if state is None else demonstrate(env, task, rng, noise=noise, fresh=False, render=render)
        after = outcomes(state, task) if state is not None and one is not None else []
        state = after[0] if len(after) == 1 else None
        done[task] += 1
        yield task, one


def _rarest(tasks: Sequence[str], done: Counter[str], rng: np.random.Generator) -> str:
    fewest = min(done[task] for task in tasks)
    candidates = [task for task in tasks if done[task] == fewest]
    return candidates[int(rng.integers(len(candidates)))]


def kept_world(scene: str, assets: Path | str | None, renderer: str, depth: bool) -> CalvinEnv:
    """Return this process's world of a scene: built at the first call, reset by whoever uses it next.

    Worlds of another recipe (assets, renderer, depth) are closed: a process serves one collection at a time.
    """
    recipe = (None if assets is None else str(assets), renderer, depth)
    for key in [key for key in _WORLDS if key[1:] != recipe]:
        _WORLDS.pop(key).close()
    found = _WORLDS.get((scene, *recipe))
    if found is None:
        found = _WORLDS[scene, *recipe] = CalvinEnv(scene, assets=assets, renderer=renderer, depth=depth)
    return found


_WORLDS: dict[tuple[str, str | None, str, bool], CalvinEnv] = {}


@contextmanager
def watched(env: CalvinEnv) -> Iterator[dict[str, float]]:
    """Give seconds spent in the simulator (``physics``) and on pictures (``drawing``), counted while inside."""
    seconds = {"physics": 0.0, "drawing": 0.0}
    watching = {name: _timed(getattr(env, name), seconds, "physics") for name in ("step", "reset")}
    watching["film"] = partial(_WatchedFilm, env.film, seconds)
    for name, method in watching.items():
        setattr(env, name, method)
    try:
        yield seconds
    finally:
        for name in watching:
            delattr(env, name)


class _WatchedFilm:
    """A film whose time is counted."""

    def __init__(self, make: Callable[[], Film], seconds: dict[str, float]) -> None:
        film = _timed(make, seconds, "drawing")()
        self.shoot = _timed(film.shoot, seconds, "drawing")
        self.develop = _timed(film.develop, seconds, "drawing")


def _timed(work: Callable[..., Any], seconds: dict[str, float], kind: str) -> Callable[..., Any]:
    def timed(*args: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*args, **named)
        finally:
            seconds[kind] += time.perf_counter() - start

    return timed


def wanted_attempts(
    env: CalvinEnv,
    tasks: str | Sequence[str],
    episodes: int,
    seed: int | Sequence[int],
    *,
    noise: float = 0.0,
    chained: float = CHAINED,
    render: bool = True,
) -> Iterator[tuple[str, Demonstration | None]]:
    """Yield (task, demonstration or None) until ``episodes`` have succeeded; a pure function of its arguments.

    Args:
        env: the world to act in; in what state does not matter.
        tasks: ``"all"`` or task names, demonstrated as evenly as chains allow.
        episodes: number of demonstrations wanted; fewer come where the experts fail again and again.
        seed: the only source of variation; give every chunk its own.
        noise: standard deviation of the noise on executed actions, in action units; labels stay clean.
        chained: share of demonstrations that go on from where the last one ended.
        render: record both cameras, and their depth where the world was made with ``depth=True``.

    Raises:
        UserError: an unknown task, or no episodes wanted.
    """
    wanted = chosen_tasks(tasks)
    if episodes < 1:
        raise UserError(f"episodes: expected at least 1, got {episodes}")
    rng, found = np.random.default_rng(seed), 0
    endless = attempts(env, wanted, rng, noise=noise, chained=chained, render=render)
    for task, one in islice(endless, TRIES_PER_EPISODE * episodes):
        found += one is not None
        yield task, one
        if found == episodes:
            return


def collect_chunk(
    scene: str,
    tasks: str | Sequence[str],
    episodes: int,
    seed: int | Sequence[int],
    *,
    noise: float = 0.0,
    chained: float = CHAINED,
    assets: Path | str | None = None,
    renderer: str = "auto",
    render: bool = True,
    depth: bool = False,
) -> Chunk:
    """Collect ``episodes`` successful demonstrations in one scene, in memory; a pure function of its arguments.

    Args:
        scene: ``A`` … ``D``.
        tasks: see :func:`wanted_attempts`, as ``episodes``, ``seed``, ``noise``, ``chained`` and ``render``.
        episodes: number of demonstrations wanted.
        seed: the only source of variation.
        noise: standard deviation of the noise on executed actions.
        chained: share of demonstrations that go on from where the last one ended.
        assets: CALVIN's own assets, see ``CalvinEnv``.
        renderer: see ``CalvinEnv``.
        render: record both cameras.
        depth: record their depth too.

    Raises:
        UserError: an unknown scene or task, or no episodes wanted.
    """
    env = kept_world(scene, assets, renderer, depth)
    done = list(wanted_attempts(env, tasks, episodes, seed, noise=noise, chained=chained, render=render))
    return Chunk(tuple(one for _, one in done if one is not None), dict(Counter(task for task, _ in done)))
