"""Collecting demonstrations in one process: which task next, from a fresh start or from where the last one ended.

What is collected is a pure function of the arguments, so that any worker may make a part and a lost one can be made
again.  Worlds are built once a process and used again: what happens after a reset does not depend on what happened
before.  Not here: running parts in parallel, writing them to disk (:mod:`bench.demonstrations`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.calvin.env import CalvinEnv
from bench.calvin.expert import EXPERT_TASKS, Demonstration, begin, demonstrate, demonstrate_chain, prepare
from bench.calvin.film import Film
from bench.calvin.scene import SceneSpec
from bench.calvin.sequence_rules import SymbolicState, category, outcomes
from bench.calvin.starts import Start, draw_start
from bench.calvin.tasks import check_task
from bench.errors import UserError

CHAINED = 0.4
"""Share of single demonstrations that begin where the one before ended, as all subtasks of a chain but the first do."""

TRIES_PER_EPISODE = 5
PLANS = 32
"""Draws among which a chain of the wanted length is looked for."""


@dataclass(frozen=True)
class Attempt:
    """Tasks tried in a row without a reset.

    Attributes:
        tasks: those that were tried, in order.
        done: the demonstrations of those that were solved: all of the tasks, or all but the last.
    """

    tasks: tuple[str, ...]
    done: tuple[Demonstration, ...]


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
    env: CalvinEnv, tasks: Sequence[str], rng: np.random.Generator, *, noise: float = 0.0, render: bool = False
) -> Iterator[Attempt]:
    """Yield attempts at one task each, without end, the tasks as evenly as the states allow.

    A share :data:`CHAINED` goes on from where the demonstration before ended.

    Args:
        env: the world to act in.
        tasks: names of the tasks to demonstrate.
        rng: the only source of variation.
        noise: size of the disturbances of executed actions; labels stay clean.
        render: record both cameras.
    """
    tried: Counter[str] = Counter()
    state: SymbolicState | None = None
    while True:
        possible = [task for task in tasks if state is not None and len(outcomes(state, task)) == 1]
        goes_on = bool(possible) and rng.random() < CHAINED
        task = _rarest(possible if goes_on else tasks, tried, rng)
        if not goes_on:
            state = prepare(env, task, rng)
        one = None if state is None else demonstrate(env, task, rng, noise=noise, fresh=False, render=render)
        after = outcomes(state, task) if state is not None and one is not None else []
        state = after[0] if len(after) == 1 else None
        tried[task] += 1
        yield Attempt((task,), () if one is None else (one,))


def chain_attempts(
    env: CalvinEnv,
    tasks: Sequence[str],
    length: int,
    rng: np.random.Generator,
    *,
    noise: float = 0.0,
    render: bool = False,
) -> Iterator[Attempt]:
    """Yield chains of up to ``length`` tasks without end, each from a fresh start to its first failure.

    Args:
        env: the world to act in.
        tasks: names of the tasks to demonstrate.
        length: tasks of a chain; fewer where no more of them follow one another, or where one fails.
        rng: the only source of variation.
        noise: size of the disturbances of executed actions; labels stay clean.
        render: record both cameras.
    """
    tried: Counter[str] = Counter()
    while True:
        start, chain = plan_chain(env.scene, tasks, length, tried, rng)
        prepared = begin(env, start, rng) is not None
        done = demonstrate_chain(env, chain, rng, noise=noise, render=render) if prepared else []
        chain = chain[: len(done) + 1]
        tried.update(chain)
        yield Attempt(chain, tuple(done))


def plan_chain(
    scene: SceneSpec, tasks: Sequence[str], length: int, tried: Counter[str], rng: np.random.Generator
) -> tuple[Start, tuple[str, ...]]:
    """Draw a start and tasks that follow one another from it by the rules of the evaluation's chains.

    Each is possible in exactly one way after those before, and no two are of one category (``sequence_rules``).  Tasks
    that were tried less come first; of a few draws the longest chain is taken.
    """
    planned = []
    for _ in range(PLANS):
        first = _rarest(tasks, tried, rng)
        start = draw_start(scene, first, rng)
        planned.append((start, _follow(start.state_when_held, first, tasks, length, tried, rng)))
        if len(planned[-1][1]) == length:
            break
    return max(planned, key=lambda plan: len(plan[1]))


def _follow(
    state: SymbolicState,
    first: str,
    tasks: Sequence[str],
    length: int,
    tried: Counter[str],
    rng: np.random.Generator,
) -> tuple[str, ...]:
    """Return ``first`` and up to ``length`` - 1 tasks after it."""
    chain, after = [first], outcomes(state, first)
    while len(after) == 1 and len(chain) < length:
        used = {category(task) for task in chain}
        possible = [task for task in tasks if category(task) not in used and len(outcomes(after[0], task)) == 1]
        if not possible:
            break
        chain.append(_rarest(possible, tried, rng))
        after = outcomes(after[0], chain[-1])
    return tuple(chain)


def _rarest(tasks: Sequence[str], tried: Counter[str], rng: np.random.Generator) -> str:
    fewest = min(tried[task] for task in tasks)
    candidates = [task for task in tasks if tried[task] == fewest]
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
    chain_length: int = 1,
    noise: float = 0.0,
    render: bool = True,
) -> Iterator[Attempt]:
    """Yield attempts until ``episodes`` of them hold a demonstration; a pure function of its arguments.

    Args:
        env: the world to act in; in what state does not matter.
        tasks: ``"all"`` or task names, demonstrated as evenly as chains allow.
        episodes: number of successful attempts wanted; fewer come where the experts fail again and again.
        seed: the only source of variation; give every part its own.
        chain_length: tasks of an attempt; 1: see :func:`attempts`, more: see :func:`chain_attempts`.
        noise: size of the disturbances of executed actions, in action units; labels stay clean.
        render: record both cameras, and their depth where the world was made with ``depth=True``.

    Raises:
        UserError: an unknown task, or no episodes wanted.
    """
    wanted = chosen_tasks(tasks)
    if episodes < 1:
        raise UserError(f"episodes: expected at least 1, got {episodes}")
    rng, found = np.random.default_rng(seed), 0
    if chain_length == 1:
        endless = attempts(env, wanted, rng, noise=noise, render=render)
    else:
        endless = chain_attempts(env, wanted, chain_length, rng, noise=noise, render=render)
    for attempt in islice(endless, TRIES_PER_EPISODE * episodes):
        found += bool(attempt.done)
        yield attempt
        if found == episodes:
            return
