"""How fast one environment is: steps with and without pictures, each view, construction, reset, memory.

Not here: the command line.  What is timed is the replay of experts at work (``expert_motions``).  PyBullet's
TinyRenderer is timed in the same run, because a ratio on one machine says more than a number from another.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.calvin.camera import CAMERAS
from bench.calvin.env import CalvinEnv
from bench.calvin.expert import demonstrate
from bench.calvin.sequences import evaluation_sequences
from bench.calvin.starts import observation_of
from bench.errors import UserError

_TINY_STEPS = 30
_TURNS = 5
_RESETS = 12
_LONGEST = 128
"""Steps between timed resets, at most: what a reset costs with CALVIN's assets depends on how many there were."""


def _device(env: CalvinEnv) -> str:
    return str(getattr(env._drawer(), "name", "PyBullet"))


def _milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Return wall milliseconds of one call, the mean over ``repeats`` after one to warm up."""
    work()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats * 1e3


@dataclass(frozen=True)
class Motion:
    """Something that a robot does on a table: where it begins and the actions (7,) from there on."""

    start: dict[str, np.ndarray]
    actions: tuple[np.ndarray, ...]


def expert_motions(env: CalvinEnv, steps: int, seed: int) -> list[Motion]:
    """Record ``steps`` actions of the scripted experts at work on chains of CALVIN's evaluation.

    That is the motion of rollouts: reaching, grasping, pushing, carrying, within the robot's reach.  A random walk is
    not: it presses into the table, or leaves the robot's reach, where the inverse kinematics find no solution.
    """
    rng = np.random.default_rng(seed)
    sequences = evaluation_sequences()
    motions: list[Motion] = []
    while steps > 0:
        state, tasks = sequences[int(rng.integers(len(sequences)))]
        robot_obs, scene_obs = observation_of(env.scene, state, rng)
        start = {"robot_obs": robot_obs, "scene_obs": scene_obs}
        env.reset(options={**start, "render_views": False})
        actions: list[np.ndarray] = []
        for task in tasks:
            demonstration = demonstrate(env, task, rng, fresh=False)
            if demonstration is None or len(actions) >= steps:
                break
            actions += list(demonstration.actions)
        motions.append(Motion(start, tuple(actions[:steps])))
        steps -= len(actions)
    return motions


def _rates(env: CalvinEnv, motions: Sequence[Motion], steps: int, *, pictures: bool) -> tuple[float, float]:
    """Return control steps a second of wall time and of this process's CPU time, over the first ``steps``."""
    wall = busy = 0.0
    left = steps
    for motion in motions:
        env.reset(options={**motion.start, "render_views": pictures})
        actions = motion.actions[:left]
        left -= len(actions)
        wall, busy = wall - time.perf_counter(), busy - time.process_time()
        for action in actions:
            env.step(action, render_views=pictures)
        wall, busy = wall + time.perf_counter(), busy + time.process_time()
    return steps / wall, steps / busy


def _reset_ms(env: CalvinEnv, motion: Motion, seed: int) -> float:
    """Return wall milliseconds of a reset, the mean over resets after episodes of various lengths."""
    rng, seconds = np.random.default_rng(seed), 0.0
    for length in rng.integers(1, _LONGEST, _RESETS):
        for number in range(length):
            env.step(motion.actions[number % len(motion.actions)], render_views=False)
        seconds -= time.perf_counter()
        env.reset(options={**motion.start, "render_views": False})
        seconds += time.perf_counter()
    return seconds / _RESETS * 1e3


def _one_of_many(recipe: dict[str, Any], steps: int, seed: int, start: Any, results: Any) -> None:
    """Build an environment, wait for the others; give steps a second with both views, seconds to build, megabytes."""
    begun = time.perf_counter()
    env = CalvinEnv(**recipe)
    try:
        env.reset(seed=seed)
        construct = time.perf_counter() - begun
        motions = expert_motions(env, steps, seed)
        _rates(env, motions, min(steps, _TINY_STEPS), pictures=True)
        start.wait()
        rate, _ = _rates(env, motions, steps, pictures=True)
        results.put((rate, construct, psutil.Process().memory_info().rss / 1e6))
    finally:
        env.close()


def measure_many(
    workers: int,
    steps: int = 300,
    *,
    scene: str = "D",
    assets: Path | str | None = None,
    renderer: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Time ``workers`` processes at once, each with one environment that draws both views every step.

    Returns:
        ``workers``, ``steps_per_s`` (the sum over the workers, all started together), ``slowest`` (of one worker),
        ``construct_s`` (of the slowest, up to its first pictures, all at once) and ``rss_mb`` (of the largest).

    Raises:
        UserError: a worker died.
    """
    if workers < 1 or steps < 1:
        raise UserError(f"perf env: expected at least 1 worker and 1 step, got {workers} and {steps}")
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(workers), context.SimpleQueue()
    recipe = {"scene": scene, "assets": assets, "renderer": renderer}
    crowd = [
        context.Process(target=_one_of_many, args=(recipe, steps, seed + number, start, results), daemon=True)
        for number in range(workers)
    ]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    if any(process.exitcode for process in crowd):
        raise UserError("perf env: a worker died; run one worker alone to see why")
    rates, constructs, sizes = zip(*(results.get() for _ in crowd), strict=True)
    return {
        "workers": workers,
        "steps": steps,
        "steps_per_s": sum(rates),
        "slowest": min(rates),
        "construct_s": max(constructs),
        "rss_mb": max(sizes),
    }


def measure(
    steps: int = 300,
    *,
    scene: str = "D",
    assets: Path | str | None = None,
    renderer: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Time one environment in this process, on one core where llvmpipe draws.

    Args:
        steps: control steps that are timed with pictures; as many again without.
        scene: ``A`` … ``D``.
        assets: CALVIN's own files, or None for the built-in scene.
        renderer: as for ``CalvinEnv``.
        seed: chooses the chains.

    Returns:
        ``steps_per_s`` (both views drawn every step), ``steps_per_cpu_s`` (the same by CPU time: what a busy machine
        leaves alone), ``physics_steps_per_s`` and ``physics_steps_per_cpu_s`` (nothing drawn), ``per_view_ms`` by
        camera, ``renderer``, ``device``,
        ``tiny_steps_per_s`` and ``ratio_to_tiny`` (by CPU time, the median of turns of one and the other),
        ``construct_s`` (up to the first pictures), ``reset_ms`` (nothing drawn) and ``rss_mb`` (before TinyRenderer
        draws).

    Raises:
        UserError: fewer than one step is asked for.
    """
    if steps < 1:
        raise UserError(f"perf env: expected at least 1 step, got {steps}; ask for some hundred")
    start = time.perf_counter()
    env = CalvinEnv(scene, assets=assets, renderer=renderer)
    try:
        env.reset(seed=seed)
        result: dict[str, Any] = {"scene": scene, "steps": steps, "construct_s": time.perf_counter() - start}
        result["renderer"], result["device"] = env.renderer, _device(env)
        motions = expert_motions(env, steps, seed)
        result["steps_per_s"], result["steps_per_cpu_s"] = _rates(env, motions, steps, pictures=True)
        physics = _rates(env, motions, steps, pictures=False)
        result["physics_steps_per_s"], result["physics_steps_per_cpu_s"] = physics
        draw = env._drawer().draw
        result["per_view_ms"] = {name: _milliseconds(partial(draw, (name,)), min(steps, 50)) for name in CAMERAS}
        result["reset_ms"] = _reset_ms(env, motions[0], seed)
        result["rss_mb"] = psutil.Process().memory_info().rss / 1e6
        tiny = CalvinEnv(scene, assets=assets, renderer="bullet-tiny")
        try:
            result |= _beside_tiny(env, tiny, motions, steps)
        finally:
            tiny.close()
    finally:
        env.close()
    return result


def _beside_tiny(env: CalvinEnv, tiny: CalvinEnv, motions: Sequence[Motion], steps: int) -> dict[str, float]:
    """Let both step in turns, so that a machine's busy moments count for both."""
    turns = []
    for _ in range(_TURNS):
        slow = _rates(tiny, motions, -(-min(steps, _TINY_STEPS) // _TURNS), pictures=True)
        fast = _rates(env, motions, -(-steps // _TURNS), pictures=True)
        turns.append((slow[0], fast[1] / slow[1]))
    return dict(zip(("tiny_steps_per_s", "ratio_to_tiny"), np.median(turns, axis=0).tolist(), strict=True))
