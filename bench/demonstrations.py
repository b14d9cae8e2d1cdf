"""Collecting a data set: scripted experts in many processes, written in CALVIN's format.

``bench/calvin/collect.py`` makes the demonstrations of one process; here they are dealt out, kept part by part so that
a killed run goes on, and written as two splits.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import atomic
from bench.calvin.collect import chosen_tasks, collect_chunk
from bench.data.calvin import SPLITS, CalvinDataset
from bench.data.calvin_writer import CalvinWriter
from bench.data.episode import Window
from bench.errors import UserError
from bench.stages import parallel

PART = 4
"""Demonstrations that one job makes: small enough that little is lost with a worker."""


@dataclass(frozen=True)
class CollectOptions:
    """What is collected.

    Attributes:
        scenes: letters of the scenes, e.g. ``"ABC"``; demonstrations are dealt out evenly.
        tasks: task names, or ``"all"``.
        episodes: training demonstrations.
        validation_episodes: validation demonstrations.
        noise: standard deviation of DART noise, as a share of the action limit; labels stay clean.
        seed: the only source of variation.
        depth: record depth too; the tiny and small world models need the anchor's.
        assets: a calvin_env checkout, or None for the built-in scenes.
        renderer: ``auto``, ``gl``, ``bullet-egl`` or ``bullet-tiny``.
    """

    scenes: str = "D"
    tasks: tuple[str, ...] | str = "all"
    episodes: int = 100
    validation_episodes: int = 10
    noise: float = 0.0
    seed: int = 0
    depth: bool = True
    assets: Path | None = None
    renderer: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be collected."""
        if not self.scenes or set(self.scenes) - set("ABCD") or len(set(self.scenes)) != len(self.scenes):
            raise UserError(f"scenes: expected letters of ABCD, each once, got {self.scenes!r}; e.g. --scenes ABC")
        if self.episodes < 1 or self.validation_episodes < 1:
            raise UserError(
                f"episodes: expected at least 1 each, got {self.episodes} and {self.validation_episodes} for validation"
            )
        if not 0 <= self.noise <= 1:
            raise UserError(f"noise: expected a share of the action limit from 0 to 1, got {self.noise}")
        chosen_tasks(self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain JSON data."""
        return {**asdict(self), "assets": None if self.assets is None else str(self.assets.resolve())}


@dataclass(frozen=True)
class PartJob:
    """One part of a split: ``episodes`` demonstrations of one scene."""

    split: str
    scene: str
    number: int
    episodes: int
    options: CollectOptions
    folder: str

    @property
    def file(self) -> Path:
        """Where the part is kept until the split is written."""
        return Path(self.folder) / f"{self.split}-{self.scene}-{self.number:05d}.npz"


def _parts(options: CollectOptions, folder: Path) -> list[PartJob]:
    parts = []
    for split, episodes in zip(SPLITS, (options.episodes, options.validation_episodes), strict=True):
        for position, scene in enumerate(sorted(options.scenes)):
            share = (episodes + len(options.scenes) - 1 - position) // len(options.scenes)
            for number, start in enumerate(range(0, share, PART)):
                parts.append(PartJob(split, scene, number, min(PART, share - start), options, str(folder)))
    return parts


_ARRAYS = ("actions", "robot_obs", "scene_obs", "rgb_static", "rgb_gripper", "depth_static", "depth_gripper")


def collect_part(job: PartJob) -> dict[str, Any]:
    """Make one part and keep it as a file; a part that is there already is not made again."""
    tally = job.file.with_suffix(".json")
    if not tally.exists():
        options = job.options
        chunk = collect_chunk(
            job.scene,
            options.tasks,
            job.episodes,
            (options.seed, SPLITS.index(job.split), ord(job.scene), job.number),
            noise=options.noise,
            assets=options.assets,
            renderer=options.renderer,
            depth=options.depth,
        )
        if not chunk.demonstrations:
            raise UserError(f"no expert solved any of {options.tasks!r} in scene {job.scene}; collect other tasks")
        arrays = {
            f"{index}/{key}": getattr(one, key)
            for index, one in enumerate(chunk.demonstrations)
            for key in _ARRAYS
            if getattr(one, key) is not None
        }
        with atomic.replacing(job.file) as temporary:
            np.savez(temporary, **arrays)
        words = [(one.task, one.instruction) for one in chunk.demonstrations]
        atomic.write_json(tally, {"words": words, "attempts": dict(chunk.attempts)})
    return {"split": job.split, "episodes": job.episodes}


def _written(job: PartJob) -> Iterator[tuple[str, dict[str, Any], Window]]:
    """Yield (name, frames, window) of each demonstration in a part."""
    tally = json.loads(job.file.with_suffix(".json").read_text())
    with np.load(job.file, allow_pickle=False) as parts:
        for index, (task, instruction) in enumerate(tally["words"]):
            frames = {key: parts[f"{index}/{key}"] for key in _ARRAYS[1:] if f"{index}/{key}" in parts}
            executed = parts[f"{index}/actions"]
            # One row more, like the observations; the writer drops the last frame, which has no action.
            frames["executed_actions"] = np.concatenate([executed, executed[-1:]])
            yield f"{job.file.stem}-{index}", frames, Window(0, len(executed), task, instruction)


def _write_split(split: str, parts: list[PartJob], out: Path, first_frame: int) -> CalvinDataset:
    if (out / split).exists():
        return CalvinDataset(out, split)
    writer = CalvinWriter(out, split, first_frame=first_frame)
    for part in parts:
        for name, frames, window in _written(part):
            if name not in writer.done:
                writer.add_episode(frames, [window], part.scene, name)
    return writer.finish()


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("collect", total=total)
        yield partial(bar.advance, task)


def collect(
    out: Path,
    options: CollectOptions,
    workers: int | None = None,
    progress: bool = True,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Collect demonstrations into ``out``, or go on with what an earlier run left there.

    Args:
        out: root of the data set; gets ``training/`` and ``validation/``.
        options: what to collect.
        workers: processes; None for one a core, 0 for none.
        progress: draw a progress bar on stderr.
        ray_address: a running Ray cluster, or None.

    Returns:
        ``success_rate`` over all attempts, ``tasks`` → {attempts, solved, success_rate}, ``episodes``, ``frames``,
        ``seconds``, ``out``.
    """
    if any((out / split).exists() for split in SPLITS) and not (out / "parts").exists():
        raise UserError(f"{out}: expected no data set there, got one; choose another --out")
    with atomic.locked(out):
        _same_options(out / "parts" / "options.json", options)
        return _collect(out, options, workers, progress, ray_address)


def _same_options(path: Path, options: CollectOptions) -> None:
    """Keep the options beside the parts; refuse to go on with parts that were made under others."""
    mine = json.loads(json.dumps(options.to_json()))
    if not path.exists():
        atomic.write_json(path, mine)
        return
    theirs = json.loads(path.read_text())
    differing = [
        f"{name} (there {theirs.get(name)!r}, now {mine[name]!r})" for name in mine if mine[name] != theirs.get(name)
    ]
    if differing:
        raise UserError(
            f"{path.parent.parent}: holds an unfinished collection with other options: {'; '.join(differing)}; "
            "choose another --out or give the same options"
        )


def _collect(
    out: Path, options: CollectOptions, workers: int | None, progress: bool, ray_address: str | None
) -> dict[str, Any]:
    started = time.monotonic()
    parts = _parts(options, out / "parts")
    with _bar(sum(part.episodes for part in parts), progress) as advance:
        parallel(
            collect_part, parts, workers=workers, ray_address=ray_address,
            each=lambda position, _: advance(parts[position].episodes),
        )  # fmt: skip
    frames, episodes = 0, 0
    for split in SPLITS:
        dataset = _write_split(split, [part for part in parts if part.split == split], out, first_frame=frames)
        frames += len(dataset)
        episodes += len(dataset.episodes)
    attempts: Counter[str] = Counter()
    solved: Counter[str] = Counter()
    for part in parts:
        tally = json.loads(part.file.with_suffix(".json").read_text())
        attempts.update(tally["attempts"])
        solved.update(task for task, _ in tally["words"])
    shutil.rmtree(out / "parts")
    return {
        "success_rate": solved.total() / attempts.total(),
        "tasks": _rates(attempts, solved),
        "episodes": episodes,
        "frames": frames,
        "seconds": round(time.monotonic() - started, 2),
        "out": str(out),
    }


def _rates(attempts: Mapping[str, int], solved: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    return {
        task: {"attempts": tried, "solved": solved[task], "success_rate": solved[task] / tried}
        for task, tried in sorted(attempts.items())
    }
