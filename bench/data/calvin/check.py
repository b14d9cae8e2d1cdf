"""Finding what is wrong with a CALVIN data set, every frame of it, without changing or trusting anything.

Faults that users of the published data met (mees/calvin issues 23, 26 and 40) are looked for by name: scene tables
that name another scene, frames in two places, blocks in another scene's order.  A fault is a row, never an exception.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin.tasks import TASKS
from bench.data.arrays import list_npz, load_npy, load_npz
from bench.data.calvin import check_blocks
from bench.data.calvin.packed import PackedFrames
from bench.data.calvin.reader import (
    FRAME_ARRAYS,
    REQUIRED,
    SPLITS,
    CalvinDataset,
    frame_path,
    read_ranges,
    relative_actions,
)
from bench.data.defects import CheckReport, Defect
from bench.data.episode import Episode
from bench.errors import UserError

_STEP = ("actions", "rel_actions", "robot_obs")
_TOLERANCE = 1e-3
_BATCH = 256
_WORKERS = 4


def check(directory: Path | str, *, each: Callable[[int], object] | None = None) -> CheckReport:
    """Read every frame of every split and report what is wrong.

    Args:
        directory: root of a CALVIN data set.
        each: called with the number of frames done since the last call.

    Raises:
        UserError: the folder holds neither ``training/`` nor ``validation/``.
    """
    root = Path(directory)
    present = [split for split in SPLITS if (root / split).is_dir()]
    if not present:
        raise UserError(
            f"{root}: expected a CALVIN data set with training/ or validation/, got neither; check the path"
        )
    defects: list[Defect] = []
    datasets = []
    for split in present:
        try:
            datasets.append(CalvinDataset(root, split))
        except UserError as error:
            defects.append(Defect(str(root / split), None, str(error)))
            defects.extend(_missing_of_unreadable(root / split))
    for dataset in datasets:
        defects.extend(_check_index(dataset))
        recorded = _recorded(dataset)
        for episode in dataset.episodes:
            defects.extend(_check_episode(dataset, episode, recorded, each or (lambda _frames: None)))
        defects.extend(check_blocks.check_scenes(dataset))
    if len(present) == len(SPLITS):
        defects.extend(_in_both(root))
    return CheckReport(
        frames=sum(len(dataset) for dataset in datasets),
        episodes=sum(len(dataset.episodes) for dataset in datasets),
        windows=sum(len(dataset.windows) for dataset in datasets),
        defects=tuple(dict.fromkeys(defects)),
    )


def _missing_of_unreadable(directory: Path) -> Iterator[Defect]:
    """Say which frames are missing where another index file made the split unreadable."""
    try:
        ranges = read_ranges(directory)
    except UserError:
        return
    present = _listed(directory)
    for first, last in ranges:
        yield from _missing(directory, present, first, last)


def _listed(directory: Path) -> NDArray[np.int64]:
    """Return the numbers of all frames that have a file, ascending; a wrong index may announce millions without."""
    names = (path.stem.removeprefix("episode_") for path in directory.glob("episode_*.npz"))
    return np.array(sorted(int(name) for name in names if name.isdigit() and len(name) == 7), np.int64)


def _within(present: NDArray[np.int64], first: int, last: int) -> list[int]:
    low, high = np.searchsorted(present, (first, last + 1)).tolist()
    within: list[int] = present[low:high].tolist()
    return within


def _missing(directory: Path, present: NDArray[np.int64], first: int, last: int) -> Iterator[Defect]:
    """Give one row for each unbroken run of missing frames."""
    for before, after in pairwise((first - 1, *_within(present, first, last), last + 1)):
        if after - before > 1:
            what = f"missing: frames {before + 1} to {after - 1} of the range {first} to {last} have no file"
            yield Defect(str(frame_path(directory, before + 1)), before + 1, what)


def _check_index(dataset: CalvinDataset) -> Iterator[Defect]:
    """Check ranges, lengths, windows, scene table and statistics against one another."""
    directory = dataset.directory
    index = str(directory / "ep_start_end_ids.npy")
    for before, after in zip(dataset.episodes, dataset.episodes[1:], strict=False):
        if after.first <= before.last:
            what = f"duplicate: frames {after.first} to {min(before.last, after.last)} lie in two episodes"
            yield Defect(index, after.first, what)
    for window in dataset.stray:
        what = f"window {window.first} to {window.last} ({window.task}) lies in no episode"
        yield Defect(str(directory / "lang_annotations" / "auto_lang_ann.npy"), window.first, what)
    for episode, told in dataset.windows:
        if told.task not in TASKS:
            annotations = str(directory / "lang_annotations" / "auto_lang_ann.npy")
            yield Defect(annotations, episode.first + told.start, f"unknown task {told.task[:60]!r}")
    unknown = [episode.id for episode in dataset.episodes if not episode.scene]
    if unknown:
        what = f"scene of {len(unknown)} of {len(dataset.episodes)} episodes is not told, first {unknown[0]}"
        yield Defect(str(directory / "scene_info.npy"), int(unknown[0]), what)
    lengths = directory / "ep_lens.npy"
    try:
        if lengths.is_file():
            found = sorted(load_npy(lengths).ravel().tolist())
            if found != sorted(len(episode) for episode in dataset.episodes):
                yield Defect(str(lengths), None, f"lengths differ from the ranges: {str(found)[:80]}")
        _ = dataset.statistics
    except UserError as error:
        yield Defect(str(directory), None, str(error))


def _recorded(dataset: CalvinDataset) -> NDArray[np.int64]:
    """Return the numbers of all frames that the split holds, ascending."""
    if isinstance(dataset.source, PackedFrames):
        stretches = sorted(dataset.source.pack.stretches)
        return np.concatenate([np.arange(first, last + 1) for first, last in stretches])
    return _listed(dataset.directory)


def _check_episode(
    dataset: CalvinDataset, episode: Episode, present: NDArray[np.int64], each: Callable[[int], object]
) -> Iterator[Defect]:
    """Read every frame once; compare each with the one before."""
    path_of = dataset.source.path
    yield from _missing(dataset.directory, present, episode.first, episode.last)
    frames = _within(present, episode.first, episode.last)
    before: tuple[int, _Frame] | None = None
    steps = _Steps()
    with ThreadPoolExecutor(_WORKERS) as pool:
        for start in range(0, len(frames), _BATCH):
            numbers = frames[start : start + _BATCH]
            for frame, found in zip(numbers, pool.map(lambda number: _read(dataset, number), numbers), strict=True):
                if isinstance(found, str):
                    yield Defect(str(path_of(frame)), frame, found)
                    continue
                last = before[1] if before is not None and before[0] == frame - 1 else None
                if last is not None and found.digest == last.digest:
                    what = f"duplicate: the same content as frame {frame - 1}"
                    yield Defect(str(path_of(frame)), frame, what)
                steps.compare(frame, found, last)
                before = frame, found
            each(len(numbers))
    yield from steps.defects(path_of)


@dataclass(frozen=True)
class _Frame:
    digest: bytes
    arrays: dict[str, NDArray[Any]]


def _read(dataset: CalvinDataset, number: int) -> _Frame | str:
    """Return what later comparisons need of a frame, or what is wrong with it."""
    try:
        arrays = _packed(dataset.source, number) if isinstance(dataset.source, PackedFrames) else None
        if arrays is None:
            path = frame_path(dataset.directory, number)
            recorded = list_npz(path)
            wanted = {key: FRAME_ARRAYS[key] for key in FRAME_ARRAYS if key in REQUIRED or key in recorded}
            arrays = load_npz(path, wanted)
    except UserError as error:
        return str(error)
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array.tobytes())
    return _Frame(digest.digest(), {key: array for key, array in arrays.items() if key in _STEP})


def _packed(source: PackedFrames, number: int) -> dict[str, NDArray[Any]]:
    """Return a packed frame, whatever keys were packed."""
    arrays = {key: array[0] for key, array in source.read(range(number, number + 1), source.pack.keys).items()}
    for key, array in arrays.items():
        spec = FRAME_ARRAYS.get(key)
        if spec is None or array.shape != spec.shape or array.dtype.name not in spec.dtypes:
            raise UserError(f"{key}: expected {spec or 'a key of CALVIN'}, got {array.dtype} {array.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{key}: expected finite numbers, got NaN or infinity; leave this frame out")
    return arrays


class _Steps:
    """Collects the frames of an episode whose actions and poses contradict one another."""

    def __init__(self) -> None:
        self.relative: list[int] = []
        self.absolute: list[int] = []

    def compare(self, frame: int, found: _Frame, before: _Frame | None) -> None:
        """Compare a frame's two actions, and the action before it with its pose."""
        if len(found.arrays) < len(_STEP):
            return  # a pack need not hold both kinds of actions
        expected = relative_actions(found.arrays["actions"][None], found.arrays["robot_obs"][None])[0]
        if np.abs(expected - found.arrays["rel_actions"]).max() > _TOLERANCE:
            self.relative.append(frame)
        if before is not None:
            moved = (before.arrays["actions"][:6] - found.arrays["robot_obs"][:6]).astype(np.float64)
            moved[3:] = (moved[3:] + np.pi) % (2 * np.pi) - np.pi
            if np.abs(moved).max() > _TOLERANCE:
                self.absolute.append(frame - 1)

    def defects(self, path_of: Callable[[int], Path]) -> Iterator[Defect]:
        """Give one row for either contradiction, naming its first frame."""
        rows = (
            (self.relative, "rel_actions do not follow from actions and robot_obs"),
            (self.absolute, "actions are not the pose of the next frame"),
        )
        for frames, what in rows:
            if frames:
                yield Defect(str(path_of(frames[0])), frames[0], f"{what} in {len(frames)} frames")


def _in_both(root: Path) -> Iterator[Defect]:
    names = [{path.name for path in (root / split).glob("episode_*.npz")} for split in SPLITS]
    for name in sorted(names[0] & names[1]):
        digits = name.removeprefix("episode_").removesuffix(".npz")
        frame = int(digits) if digits.isdigit() else None
        yield Defect(str(root / SPLITS[0] / name), frame, "duplicate: the same frame number is in the validation split")
