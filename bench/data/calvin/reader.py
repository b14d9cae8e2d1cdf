"""CALVIN's on-disk format, read: one ``.npz`` per frame, index arrays, language windows, scene ranges.

Layout after mees/calvin ``dataset/README.md`` and calvin_env ``datarenderer.py``: frames ``episode_NNNNNNN.npz`` are
numbered over the whole data set with gaps; ``ep_start_end_ids.npy`` holds (first, last) with the last included.
Frames are opened when asked for.  Not here: writing (:mod:`bench.data.calvin.writer`), finding faults in a data set
(:mod:`bench.data.calvin.check`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.arrays import ArraySpec, list_npz, load_npy, load_npz
from bench.data.calvin.packed import PLAN_FILE, Pack, PackedFrames
from bench.data.calvin.unpickle import load_object_npy
from bench.data.episode import Episode, Window
from bench.data.json_yaml import read_yaml
from bench.errors import UserError

SPLITS = ("training", "validation")
"""The two folders of a data set."""

_FLOAT = ("float64", "float32")
FRAME_ARRAYS = {
    "actions": ArraySpec((7,), _FLOAT),
    "rel_actions": ArraySpec((7,), _FLOAT),
    "robot_obs": ArraySpec((15,), _FLOAT),
    "scene_obs": ArraySpec((24,), _FLOAT),
    "rgb_static": ArraySpec((200, 200, 3), ("uint8",)),
    "rgb_gripper": ArraySpec((84, 84, 3), ("uint8",)),
    "rgb_tactile": ArraySpec((160, 120, 6), ("uint8",)),
    "depth_static": ArraySpec((200, 200), _FLOAT),
    "depth_gripper": ArraySpec((84, 84), _FLOAT),
    "depth_tactile": ArraySpec((160, 120, 2), _FLOAT),
    "executed_actions": ArraySpec((7,), _FLOAT),
}
"""Every array that a frame may hold, and what it must be.

``executed_actions`` is not CALVIN's: the relative action that was given to the environment, which adds it to a running
target, where ``rel_actions`` is the motion that followed.  Our collector records it; readers that do not know it are
not disturbed.
"""

REQUIRED = ("actions", "rel_actions", "robot_obs", "scene_obs", "rgb_static", "rgb_gripper")
"""The arrays that every frame must hold; depth and touch were not always recorded."""

BLOCK_ORDER = {
    "A": ("block_pink", "block_blue", "block_red"),
    "B": ("block_red", "block_blue", "block_pink"),
    "C": ("block_blue", "block_red", "block_pink"),
    "D": ("block_red", "block_blue", "block_pink"),
}
"""Order of the three blocks in ``scene_obs[6:24]``: that of calvin_env ``conf/scene/calvin_scene_X.yaml``."""


def frame_path(directory: Path, frame: int) -> Path:
    """Return the file of one frame."""
    return directory / f"episode_{frame:07d}.npz"


def scene_letter(name: str) -> str:
    """Return ``"D"`` for ``"calvin_scene_D"``.

    Raises:
        UserError: the name is of another form.
    """
    letter = name.removeprefix("calvin_scene_")
    if letter not in BLOCK_ORDER:
        raise UserError(f"scene: expected calvin_scene_A to calvin_scene_D, got {name[:60]!r}; correct scene_info.npy")
    return letter


@dataclass(frozen=True)
class CalvinFrames:
    """Reads the frame files of one split.

    Attributes:
        directory: the split's folder.
        workers: threads that unpack frames; unpacking lets go of Python's lock.
    """

    directory: Path
    workers: int = 1

    def keys(self, frame: int) -> tuple[str, ...]:
        """Return the keys recorded in one frame."""
        return list_npz(self.path(frame))

    def path(self, frame: int) -> Path:
        """Return the file of a frame."""
        return frame_path(self.directory, frame)

    def read(self, frames: range, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return key to array (T, …) for the T frames; every row is unpacked straight into the result."""
        unknown = [key for key in keys if key not in FRAME_ARRAYS]
        if unknown:
            raise UserError(f"expected keys of a CALVIN frame ({', '.join(FRAME_ARRAYS)}), got {unknown}")
        specs = {key: FRAME_ARRAYS[key] for key in keys}
        head = load_npz(frame_path(self.directory, frames[0]), specs)
        if not self.path(frames[-1]).is_file():  # before room is made for what a wrong index announces
            raise UserError(f"{self.path(frames[-1])}: expected a frame, got no such file; fetch the data set again")
        stacked = {key: np.empty((len(frames), *array.shape), array.dtype) for key, array in head.items()}

        def fill(row: int) -> None:
            path = frame_path(self.directory, frames[row])
            for key, array in (head if row == 0 else load_npz(path, specs)).items():
                if array.dtype != stacked[key].dtype:
                    raise UserError(f"{path} [{key}]: expected {stacked[key].dtype} as before, got {array.dtype}")
                stacked[key][row] = array

        if self.workers > 1 and len(frames) > 1:
            with ThreadPoolExecutor(self.workers) as pool:
                for _ in pool.map(fill, range(len(frames))):
                    pass
        else:
            for row in range(len(frames)):
                fill(row)
        return stacked


@dataclass(frozen=True)
class Annotation:
    """One language window in the numbering of the data set: ``first`` to ``last``, both included."""

    first: int
    last: int
    task: str
    instruction: str


def read_ranges(directory: Path) -> list[tuple[int, int]]:
    """Return (first, last) of every episode of a split, by first frame.

    Raises:
        UserError: no ``ep_start_end_ids.npy`` there, or one of another shape.
    """
    path = directory / "ep_start_end_ids.npy"
    if not path.is_file():
        raise UserError(f"{path}: expected CALVIN's index, got no such file; pass the folder that holds training/")
    array = load_npy(path)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu" or len(array) == 0:
        raise UserError(f"{path}: expected integers (N, 2), got {array.dtype} {array.shape}; fetch it again")
    ranges = sorted((int(first), int(last)) for first, last in array)
    for first, last in ranges:
        if not 0 <= first <= last < 10_000_000:
            raise UserError(f"{path}: expected 0 <= first <= last of seven digits, got {first}..{last}")
    return ranges


def read_scenes(directory: Path) -> list[tuple[str, int, int]]:
    """Return (scene letter, first, last) as ``scene_info.npy`` tells, or [] where the file is absent."""
    path = directory / "scene_info.npy"
    if not path.is_file():
        return []
    table = load_object_npy(path)
    try:
        return [(scene_letter(name), int(first), int(last)) for name, (first, last) in table.items()]
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{path}: expected {{scene: [first, last]}}, got another content; fetch it again") from None


def read_annotations(directory: Path, folder: str = "lang_annotations") -> list[Annotation]:
    """Return the language windows of a split, or [] where there are none."""
    path = directory / folder / "auto_lang_ann.npy"
    if not path.is_file():
        return []
    table = load_object_npy(path)
    try:
        words, tasks, spans = table["language"]["ann"], table["language"]["task"], table["info"]["indx"]
        if not len(words) == len(tasks) == len(spans):
            raise ValueError
        return [
            Annotation(int(first), int(last), str(task), str(sentence))
            for sentence, task, (first, last) in zip(words, tasks, spans, strict=True)
        ]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise UserError(
            f"{path}: expected language.ann, language.task and info.indx of one length, got another content"
        ) from None


class CalvinDataset:
    """A split of a CALVIN data set, in CALVIN's own form or packed.

    Attributes:
        root: folder of the data set.
        split: ``"training"`` or ``"validation"``.
        directory: folder of the split.
        source: reads its frames; a :class:`~bench.data.calvin.packed.PackedFrames` where the split is packed.
        episodes: its episodes, by first frame.
        stray: language windows that lie in no episode; :func:`bench.data.calvin.check.check` reports them.
    """

    def __init__(self, directory: Path | str, split: str = "training", *, workers: int = 1) -> None:
        """Read the index files; no frame is opened.

        Args:
            directory: the folder that holds ``training/`` and ``validation/``.
            split: which of the two.
            workers: threads that unpack frames when a range is loaded.

        Raises:
            UserError: there is no such split, or an index file is missing, damaged or hostile.
        """
        self.root = Path(directory)
        self.split = split
        self.directory = self.root / split
        if not self.directory.is_dir():
            raise UserError(f"{self.directory}: expected a CALVIN split, got no such folder; pass the data set's root")
        packed = (self.directory / PLAN_FILE).is_file()
        self.source = PackedFrames(Pack.open(self.directory)) if packed else CalvinFrames(self.directory, workers)
        annotations = sorted(read_annotations(self.directory), key=lambda window: (window.first, window.last))
        begins = [window.first for window in annotations]
        scenes = read_scenes(self.directory)
        episodes, placed = [], 0
        for first, last in read_ranges(self.directory):
            candidates = annotations[bisect_left(begins, first) : bisect_right(begins, last)]
            inside = [window for window in candidates if window.last <= last]
            windows = tuple(_window(entry, first) for entry in inside)
            scene = next((name for name, low, high in scenes if low <= first and last <= high), "")
            episodes.append(Episode(f"{first:07d}", scene, first, last, windows, self.source))
            placed += len(windows)
        self.episodes = tuple(episodes)
        self._by_id = {episode.id: episode for episode in episodes}
        spans = [(episode.first, episode.last) for episode in self.episodes]
        self.stray = (
            ()
            if placed == len(annotations)
            else tuple(
                entry
                for entry in annotations
                if not any(first <= entry.first <= entry.last <= last for first, last in spans)
            )
        )

    def __len__(self) -> int:
        """Return the number of frames."""
        return sum(len(episode) for episode in self.episodes)

    @property
    def format(self) -> str:
        """``"CALVIN"``, or ``"CALVIN, packed"``."""
        return "CALVIN, packed" if isinstance(self.source, PackedFrames) else "CALVIN"

    def hash(self) -> str:
        """Return what says whether two splits hold the same recordings (:mod:`bench.data.calvin.fingerprint`)."""
        from bench.data.calvin.fingerprint import dataset_hash

        return dataset_hash(self)

    def __getitem__(self, identifier: str) -> Episode:
        """Return an episode by its id."""
        if identifier in self._by_id:
            return self._by_id[identifier]
        raise UserError(
            f"{self.directory}: expected an episode id such as {self.episodes[0].id}, got {identifier!r}; see .episodes"
        )

    @property
    def windows(self) -> tuple[tuple[Episode, Window], ...]:
        """Every language window with its episode."""
        return tuple((episode, window) for episode in self.episodes for window in episode.windows)

    @property
    def statistics(self) -> dict[str, NDArray[np.float64]]:
        """``robot_obs_mean``, ``robot_obs_std``, ``act_min_bound``, … of ``statistics.yaml``, or {} without one."""
        content = read_yaml(self.directory / "statistics.yaml")
        numbers: dict[str, Any] = {}
        for key, value in content.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                numbers |= {f"{key}_{name}": value[0][name] for name in ("mean", "std") if name in value[0]}
            else:
                numbers[key] = value
        try:
            return {key: np.asarray(value, dtype=np.float64) for key, value in numbers.items()}
        except (TypeError, ValueError):
            raise UserError(f"{self.directory / 'statistics.yaml'}: expected lists of numbers, got words") from None


def _window(entry: Annotation, first: int) -> Window:
    return Window(entry.first - first, entry.last - first + 1, entry.task, entry.instruction)


def relative_actions(actions: NDArray[Any], robot_obs: NDArray[Any]) -> NDArray[np.float64]:
    """Return (T, 7) in [-1, 1]: the step from each observed pose to the absolute action, in units of 0.02 m, 0.05 rad.

    The rule of calvin_env ``utils/utils.py: to_relative_action``: differences are clipped to one unit, angles wrapped.

    Args:
        actions: (T, 7) absolute: xyz in metres, Euler xyz in radians, gripper.
        robot_obs: (T, 15).
    """
    moved = np.asarray(actions, dtype=np.float64)[:, :6] - np.asarray(robot_obs, dtype=np.float64)[:, :6]
    moved[:, 3:] = (moved[:, 3:] + np.pi) % (2 * np.pi) - np.pi
    limits = np.array([0.02] * 3 + [0.05] * 3)
    return np.concatenate([np.clip(moved, -limits, limits) / limits, actions[:, 6:7]], axis=1)


def describe(directory: Path | str) -> dict[str, Any]:
    """Return what a CALVIN data set holds, as JSON data: per split its frames, episodes, windows, tasks, scenes, keys.

    Raises:
        UserError: the folder holds neither split, or an index file is damaged.
    """
    root = Path(directory)
    present = [split for split in ("training", "validation") if (root / split).is_dir()]
    if not present:
        raise UserError(
            f"{root}: expected a CALVIN data set with training/ or validation/, got neither; check the path"
        )
    return {"directory": str(root), "splits": {split: _describe(CalvinDataset(root, split)) for split in present}}


def _describe(dataset: CalvinDataset) -> dict[str, Any]:
    tasks = Counter(window.task for _episode, window in dataset.windows)
    scenes = Counter(episode.scene or "unknown" for episode in dataset.episodes)
    return {
        "format": dataset.format,
        "frames": len(dataset),
        "episodes": len(dataset.episodes),
        "windows": sum(tasks.values()),
        "tasks": dict(sorted(tasks.items())),
        "episodes_by_scene": dict(sorted(scenes.items())),
        "keys": list(dataset.episodes[0].keys),
        "longest_episode": max(len(episode) for episode in dataset.episodes),
    }
