"""How often the scripted experts succeed: every task in every scene, from random starts, judged by the oracle.

Start number i of a task in a scene is the same for everybody who gives the same seed, however the work is dealt out.
Not here: how a task is done (``bench/calvin/experts``), where it begins (``bench/calvin/starts.py``).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.bars import counting
from bench.calvin.collect import chosen_tasks
from bench.calvin.env import CalvinEnv
from bench.calvin.expert import demonstrate
from bench.calvin.scene import SCENES
from bench.calvin.tasks import FAMILY, TASKS
from bench.errors import UserError
from bench.metrics.success import wilson
from bench.stages import parallel

TARGET = 0.95
HARD_TARGET = 0.9
HARD = ("stack", "unstack", "rotate")
"""Families of tasks of which less is asked."""
PART = 10
"""Starts that one job tries."""


@dataclass(frozen=True)
class RateJob:
    """Some starts of one task in one scene.

    Attributes:
        scene: ``A`` … ``D``.
        task: CALVIN's task name.
        starts: numbers of the starts.
        seed: the same for the whole measurement.
        noise: size of the disturbances of executed actions, in action units.
        assets: a calvin_env checkout, or None for the built-in scene.
    """

    scene: str
    task: str
    starts: tuple[int, ...]
    seed: int
    noise: float
    assets: Path | None


@lru_cache(maxsize=len(SCENES))
def _world(scene: str, assets: Path | None) -> CalvinEnv:
    return CalvinEnv(scene, assets=assets)


def try_starts(job: RateJob) -> list[int | None]:
    """Return, for each start, the number of actions up to success, or None where the oracle was never satisfied."""
    env = _world(job.scene, job.assets)
    lengths: list[int | None] = []
    for number in job.starts:
        rng = np.random.default_rng([job.seed, ord(job.scene), TASKS.index(job.task), number])
        one = demonstrate(env, job.task, rng, noise=job.noise)
        lengths.append(None if one is None else one.solved_at + 1)
    return lengths


def measure(
    scenes: str = "".join(SCENES),
    starts: int = 100,
    *,
    tasks: str | Sequence[str] = "all",
    seed: int = 0,
    noise: float = 0.0,
    assets: Path | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Let the experts try every task in every scene.

    Args:
        scenes: letters of the scenes.
        starts: random starts of each task in each scene.
        tasks: ``"all"`` or task names.
        seed: the only source of variation.
        noise: as for ``demonstrate``.
        assets: a calvin_env checkout, or None for the built-in scenes.
        workers: processes; None for one a core, 0 for none.
        ray_address: a running Ray cluster, or None.
        progress: draw a progress bar on stderr.

    Returns:
        ``attempts``, ``solved``, ``success_rate``; ``tasks`` → scene → {attempts, solved, success_rate, interval
        (Wilson, 95 %), steps (mean, of the successful)}; ``lowest`` (success rate of a task in a scene) and
        ``below_target``, the tasks that miss theirs; ``failed``, task → scene → numbers of the failed starts.

    Raises:
        UserError: no such scene or task, or no starts.
    """
    if not scenes or set(scenes) - set(SCENES) or len(set(scenes)) < len(scenes):
        raise UserError(f"scenes: expected letters of {''.join(SCENES)}, each once, got {scenes!r}; e.g. ABCD")
    if starts < 1:
        raise UserError(f"starts: expected at least 1, got {starts}; ask for some")
    numbers = [tuple(range(first, min(first + PART, starts))) for first in range(0, starts, PART)]
    jobs = [
        RateJob(scene, task, part, seed, noise, assets)
        for scene in scenes
        for task in chosen_tasks(tasks)
        for part in numbers
    ]
    began = time.monotonic()
    outcomes = _outcomes(jobs, workers, ray_address, progress)
    seconds = round(time.monotonic() - began, 1)
    tried: dict[str, dict[str, list[int | None]]] = defaultdict(dict)
    for job, lengths in zip(jobs, outcomes, strict=True):
        tried[job.task].setdefault(job.scene, []).extend(lengths)
    settings = {"scenes": scenes, "starts": starts, "seed": seed, "noise": noise}
    world = {"world": "built-in" if assets is None else "calvin-assets"}
    return {**settings, **world, **_summary(tried), "seconds": seconds}


def _outcomes(
    jobs: Sequence[RateJob], workers: int | None, ray_address: str | None, progress: bool
) -> list[list[int | None]]:
    with counting("experts", sum(len(job.starts) for job in jobs), "attempts", show=progress) as advance:
        return parallel(
            try_starts, jobs, workers=workers, ray_address=ray_address,
            each=lambda position, _: advance(len(jobs[position].starts)),
        )  # fmt: skip


def _summary(tried: Mapping[str, Mapping[str, Sequence[int | None]]]) -> dict[str, Any]:
    """Count, per task and scene and over all, what the attempts came to."""
    rates = {task: {scene: _rate(lengths) for scene, lengths in scenes.items()} for task, scenes in tried.items()}
    attempts = sum(rate["attempts"] for scenes in rates.values() for rate in scenes.values())
    solved = sum(rate["solved"] for scenes in rates.values() for rate in scenes.values())
    failed = {
        task: {scene: [n for n, length in enumerate(lengths) if length is None] for scene, lengths in scenes.items()}
        for task, scenes in tried.items()
    }
    return {
        "attempts": attempts,
        "solved": solved,
        "success_rate": solved / attempts,
        "lowest": min(rate["success_rate"] for scenes in rates.values() for rate in scenes.values()),
        "below_target": [
            f"{task} in {scene}"
            for task, scenes in rates.items()
            for scene, rate in scenes.items()
            if rate["success_rate"] < (HARD_TARGET if FAMILY[task] in HARD else TARGET)
        ],
        "tasks": rates,
        "failed": {
            task: {scene: numbers for scene, numbers in scenes.items() if numbers}
            for task, scenes in failed.items()
            if any(scenes.values())
        },
    }


def _rate(lengths: Sequence[int | None]) -> dict[str, Any]:
    solved = [length for length in lengths if length is not None]
    return {
        "attempts": len(lengths),
        "solved": len(solved),
        "success_rate": len(solved) / len(lengths),
        "interval": list(wilson(len(solved), len(lengths))),
        "steps": float(np.mean(solved)) if solved else None,
    }
