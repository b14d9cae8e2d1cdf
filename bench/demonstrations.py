"""Collecting a data set: scripted experts in many processes, written in CALVIN's format or packed.

``bench/calvin/collect.py`` makes the demonstrations of one process; here they are dealt out in parts.  The process that
makes a part writes its frames too (:mod:`bench.data.calvin.part`); at the end parts are strung together by renaming
files, in an order that hangs on the options alone.  So the data set is the same for any number of processes, and a
killed run goes on with the parts that are whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.bars import counting
from bench.calvin.collect import chosen_tasks, kept_world, wanted_attempts, watched
from bench.calvin.expert import Demonstration
from bench.calvin.sequence_rules import category
from bench.data.calvin import SPLITS, CalvinDataset, CalvinWriter
from bench.data.calvin.index import Embed
from bench.data.calvin.pack_writer import PackWriter
from bench.data.calvin.packed import depth_metres, depth_steps
from bench.data.calvin.part import FORMATS, PART_FILE, Format, new_part, read_part
from bench.data.calvin.split_writer import SplitWriter
from bench.data.episode import Window
from bench.errors import UserError
from bench.stages import parallel
from policies.text import MINILM, MINILM_PACKAGE, embed

_PART, _LARGEST_PART, _JOBS = 4, 64, 256
"""Demonstrations that one job makes at least and at most, and how many jobs keep many processes busy to the end."""

_DONE = ".parts.done"
_WRITERS: dict[Format, type[SplitWriter]] = {"calvin": CalvinWriter, "packed": PackWriter}


@dataclass(frozen=True)
class CollectOptions:
    """What is collected.

    Attributes:
        scenes: letters of the scenes, e.g. ``"ABC"``; demonstrations are dealt out evenly.
        tasks: task names, or ``"all"``.
        episodes: training demonstrations, or chains of them.
        validation_episodes: validation demonstrations, or chains.
        chain_length: tasks in a row without a reset that make an episode; where one fails, or no other may follow, the
            chain ends and what was solved is kept.  1: a demonstration an episode.
        noise: size of the disturbances of what is executed, as a share of the action limit; labels stay clean.
        seed: the only source of variation.
        depth: record depth too, in steps of a quarter of a millimetre; the tiny and small world models need it.
        format: ``calvin``, a compressed file a frame, or ``packed``, memory-mapped
            shards (:mod:`bench.data.calvin.packed`).
        assets: a calvin_env checkout, or None for the built-in scenes.
        renderer: ``auto``, ``gl``, ``bullet-egl`` or ``bullet-tiny``.
    """

    scenes: str = "D"
    tasks: tuple[str, ...] | str = "all"
    episodes: int = 100
    validation_episodes: int = 10
    chain_length: int = 1
    noise: float = 0.0
    seed: int = 0
    depth: bool = True
    assets: Path | None = None
    renderer: str = "auto"
    format: Format = "calvin"

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
        if self.format not in FORMATS:
            raise UserError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}; choose one of them")
        longest = len({category(task) for task in chosen_tasks(self.tasks)})
        if not 1 <= self.chain_length <= longest:
            raise UserError(
                f"chain_length: expected 1 to {longest}, got {self.chain_length}; no two tasks of a chain are of one "
                "category, so longer ones need more kinds of tasks"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain JSON data."""
        return {**asdict(self), "assets": None if self.assets is None else str(self.assets.resolve())}


@dataclass(frozen=True)
class PartJob:
    """One part of a split: ``episodes`` demonstrations, or chains of them, in one scene."""

    split: str
    scene: str
    number: int
    episodes: int
    options: CollectOptions
    folder: str

    @property
    def path(self) -> Path:
        """Where the part is kept until the split is written."""
        return Path(self.folder) / f"{self.split}-{self.scene}-{self.number:05d}"


def _parts(options: CollectOptions, folder: Path) -> list[PartJob]:
    parts = []
    for split, episodes in zip(SPLITS, (options.episodes, options.validation_episodes), strict=True):
        size = max(_PART, min(_LARGEST_PART, episodes // _JOBS))
        for position, scene in enumerate(sorted(options.scenes)):
            share = (episodes + len(options.scenes) - 1 - position) // len(options.scenes)
            for number, start in enumerate(range(0, share, size)):
                parts.append(PartJob(split, scene, number, min(size, share - start), options, str(folder)))
    return parts


def collect_part(job: PartJob) -> dict[str, Any]:
    """Make one part and keep it as a folder; a part that is there already is not made again.

    Returns:
        ``frames``, and ``seconds`` by what they were spent on where the part was made now.
    """
    if (job.path / PART_FILE).is_file():
        return {"frames": _frames_of(read_part(job.path)), "seconds": {}}
    options = job.options
    env = kept_world(job.scene, options.assets, options.renderer, options.depth)
    seed = (options.seed, SPLITS.index(job.split), ord(job.scene), job.number)
    started, writing, attempts = time.perf_counter(), 0.0, Counter[str]()
    with new_part(job.path, options.format) as part, watched(env) as seconds:
        for attempt in wanted_attempts(
            env, options.tasks, job.episodes, seed, chain_length=options.chain_length, noise=options.noise
        ):
            attempts.update(attempt.tasks)
            if attempt.done:
                begun = time.perf_counter()
                frames = _recorded(attempt.done, options.format)
                part.add_episode(frames, _windows(attempt.done), job.scene, f"{job.path.name}-{len(part)}")
                writing += time.perf_counter() - begun
        if not len(part):
            raise UserError(f"no expert solved any of {options.tasks!r} in scene {job.scene}; collect other tasks")
        part.notes["attempts"] = dict(attempts)
        simulated = time.perf_counter()
    ended = time.perf_counter()
    seconds["expert"] = simulated - started - writing - sum(seconds.values())
    seconds["writing"] = writing + ended - simulated
    return {"frames": part.frames, "seconds": seconds}


_ARRAYS = ("robot_obs", "scene_obs", "rgb_static", "rgb_gripper", "depth_static", "depth_gripper")


def _recorded(row: Sequence[Demonstration], form: Format) -> dict[str, NDArray[Any]]:
    """Return the arrays of demonstrations in a row; the last observation of each is the first of the next."""
    frames = {}
    for key in (key for key in _ARRAYS if getattr(row[0], key) is not None):
        pieces = [*(getattr(one, key)[:-1] for one in row[:-1]), getattr(row[-1], key)]
        frames[key] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if form == "calvin":  # a pack does so anyway: it is the same data set in either form, and compressed half as large
        frames |= {key: depth_metres(depth_steps(key, frames[key])) for key in frames if key.startswith("depth")}
    # One row more, like the observations; the writer drops the last frame, which has no action.
    return {**frames, "executed_actions": np.concatenate([*(one.actions for one in row), row[-1].actions[-1:]])}


def _windows(row: Sequence[Demonstration]) -> list[Window]:
    """Return the language windows of demonstrations in a row, one for each."""
    ends = np.cumsum([len(one) for one in row]).tolist()
    return [Window(end - len(one), end, one.task, one.instruction) for one, end in zip(row, ends, strict=True)]


def _frames_of(part: Mapping[str, Any]) -> int:
    return sum(entry["frames"] for entry in part["entries"])


def _write_split(split: str, parts: list[PartJob], out: Path, first_frame: int) -> CalvinDataset:
    if (out / split).exists():
        return CalvinDataset(out, split)
    writer = _WRITERS[parts[0].options.format](out, split, first_frame=first_frame)
    for part in parts:
        writer.adopt(part.path)
    return writer.finish(sentence_encoder())


def sentence_encoder() -> Embed | None:
    """Return all-MiniLM-L6-v2 where its package is installed (the extra ``text``), else None.

    No other encoder stands in: vectors in ``auto_lang_ann.npy`` are taken for a sentence model's by whoever reads them.
    """
    return partial(embed, MINILM) if find_spec(MINILM_PACKAGE) else None


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
        ``success_rate`` over all attempts, ``tasks`` → {attempts, solved, success_rate}, ``episodes``,
        ``tasks_in_a_row`` (length of a chain → episodes), ``frames``,
        ``seconds`` and ``timings`` (of making the parts and of joining them), ``frames_per_minute``, ``shares`` of the
        workers' time by what it was spent on, ``format``, ``out``.
    """
    shutil.rmtree(out / _DONE, ignore_errors=True)
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
    seconds: Counter[str] = Counter()
    with counting("collect", sum(part.episodes for part in parts), "frames", show=progress) as advance:

        def each(position: int, made: dict[str, Any]) -> None:
            advance(parts[position].episodes, worked=made["frames"])
            seconds.update(made["seconds"])

        parallel(collect_part, parts, workers=workers, ray_address=ray_address, each=each)
    collected = time.monotonic()
    frames, episodes = 0, 0
    for split in SPLITS:
        dataset = _write_split(split, [part for part in parts if part.split == split], out, first_frame=frames)
        frames += len(dataset)
        episodes += len(dataset.episodes)
    attempts: Counter[str] = Counter()
    solved: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for part in parts:
        content = read_part(part.path)
        attempts.update(content["notes"]["attempts"])
        solved.update(window[2] for entry in content["entries"] for window in entry["windows"])
        lengths.update(len(entry["windows"]) for entry in content["entries"])
    # Renamed first: a folder of parts that is half deleted must not be taken for a collection to go on with.
    (out / "parts").rename(out / _DONE)
    shutil.rmtree(out / _DONE, ignore_errors=True)
    took = time.monotonic() - started
    return {
        "success_rate": solved.total() / attempts.total(),
        "tasks": _rates(attempts, solved),
        "episodes": episodes,
        "tasks_in_a_row": {str(length): lengths[length] for length in sorted(lengths)},
        "frames": frames,
        "seconds": round(took, 2),
        "timings": {"parts": round(collected - started, 2), "joining": round(started + took - collected, 2)},
        "frames_per_minute": round(60 * frames / took),
        "shares": {kind: round(spent / sum(seconds.values()), 3) for kind, spent in sorted(seconds.items())},
        "format": options.format,
        "out": str(out),
    }


def _rates(attempts: Mapping[str, int], solved: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    return {
        task: {"attempts": tried, "solved": solved[task], "success_rate": solved[task] / tried}
        for task, tried in sorted(attempts.items())
    }
