"""LeRobot data sets (v2.0, v2.1, v3.0), read: numbers from parquet, pictures from mp4, as ordinary episodes.

DROID as published in this form and the recordings of a Franka Panda are such folders.  Frames are opened when asked
for; several cameras are decoded at once.  Not here: the ``meta/`` folder (:mod:`bench.data.lerobot.meta`), writing
(:mod:`bench.data.lerobot.writer`), finding faults (:mod:`bench.data.lerobot.check`).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.arrays import first_line, printable
from bench.data.episode import Episode, Window
from bench.data.fingerprint import files_hash
from bench.data.json_yaml import read_json
from bench.data.lerobot import parquet
from bench.data.lerobot.meta import Feature, Meta, read_meta
from bench.data.lerobot.parquet import ColumnCache
from bench.data.lerobot.rig_file import RIG_FILE, load_rig
from bench.data.rig import CalvinRig, NamedRig, guess_views
from bench.data.video import VideoCache
from bench.errors import UserError
from worldmodel.api import WRIST

EXTRAS = "meta/wristbench.json"
"""What our own export adds: windows with their task names, scenes, where it came from.  LeRobot does not read it."""

_PARALLEL_FROM = 4
"""Frames from which decoding cameras side by side gains more than threads cost."""

_TIME_SHARE = 0.5
"""Share of a frame's duration by which a picture's time may differ; LeRobot itself allows 0.1 ms."""


@dataclass(frozen=True)
class LeRobotFrames:
    """Reads the frames of one LeRobot data set, numbered over all its episodes.

    Attributes:
        meta: its ``meta/`` folder.
        size: (height, width) that pictures are scaled to, or None.
        videos: open videos.
        columns: columns in memory.
    """

    meta: Meta
    size: tuple[int, int] | None = None
    videos: VideoCache = field(default_factory=VideoCache, repr=False, compare=False)
    columns: ColumnCache = field(default_factory=ColumnCache, repr=False, compare=False)

    def keys(self, frame: int) -> tuple[str, ...]:
        """Return the features that can be read; those of unknown types are left out."""
        del frame
        return tuple(key for key, feature in self.meta.info.features.items() if _readable(feature))

    def read(self, frames: range, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return key to array (T, …): pictures uint8 (T, H, W, 3), numbers as declared, words as strings (T,)."""
        features = self.meta.info.features
        unknown = [key for key in keys if key not in features or not _readable(features[key])]
        if unknown:
            raise UserError(
                f"{self.meta.root}: expected features {printable(', '.join(self.keys(0)), 400)}, "
                f"got {printable(str(unknown))}"
            )
        row = self._episode(frames)
        local = np.arange(frames.start, frames.stop, frames.step) - int(self.meta.episodes.first[row])
        jobs = [key for key in keys if features[key].is_picture]
        arrays = {key: self._column(row, key, features[key], local) for key in keys if key not in jobs}
        if len(jobs) > 1 and len(local) >= _PARALLEL_FROM:
            with ThreadPoolExecutor(len(jobs)) as pool:
                pictures = list(pool.map(lambda key: self._pictures(row, key, local), jobs))
        else:
            pictures = [self._pictures(row, key, local) for key in jobs]
        arrays |= dict(zip(jobs, pictures, strict=True))
        return {key: arrays[key] for key in keys}

    def _episode(self, frames: range) -> int:
        table = self.meta.episodes
        row = int(np.searchsorted(table.first, frames[0], side="right")) - 1
        if row < 0 or frames[-1] >= table.first[row] + table.length[row]:
            raise UserError(f"{self.meta.root}: expected frames of one episode, got {frames[0]} to {frames[-1]}")
        return row

    def rows(self, row: int) -> tuple[Path, int, int]:
        """Return the parquet file of the ``row``-th episode and its first and last row + 1 in it."""
        start = int(self.meta.episodes.data.start[row])
        return self.meta.data_file(row), start, start + int(self.meta.episodes.length[row])

    def _column(self, row: int, key: str, feature: Feature, local: NDArray[np.int64]) -> NDArray[Any]:
        path, start, stop = self.rows(row)
        if feature.is_number:
            values = self.columns.numbers(path, key, start, stop, feature.shape, feature.dtype)[local]
            if values.dtype.kind == "f" and key in ("action", "observation.state") and not np.isfinite(values).all():
                raise UserError(
                    f"{path} [{key}]: expected finite numbers, got NaN or infinity in episode "
                    f"{self.meta.episodes.number[row]}; leave this episode out"
                )
            return values
        cells = parquet.read_cells(path, key, start + int(local.min()), start + int(local.max()) + 1)
        words = [cell if isinstance(cell, str) else "" for cell in cells]
        return np.array([words[index] for index in local - local.min()], dtype=str)

    def times(self, row: int) -> NDArray[np.float64]:
        """Return the recorded times (T,) of the ``row``-th episode in seconds, from its own start."""
        path, start, stop = self.rows(row)
        return self.columns.numbers(path, "timestamp", start, stop, (), "float64")

    def _pictures(self, row: int, key: str, local: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self.meta.info.features[key].dtype == "image":
            return self._stills(row, key, local)
        video = self.videos.open(self.meta.video_file(row, key))
        seconds = float(self.meta.episodes.videos[key].start[row]) + self.times(row)[local]
        numbers = video.numbers_at(seconds, _TIME_SHARE / self.meta.info.fps)
        return video.read(numbers, self.size)

    def _stills(self, row: int, key: str, local: NDArray[np.int64]) -> NDArray[np.uint8]:
        path, start, _ = self.rows(row)
        feature = self.meta.info.features[key]
        low = int(local.min())
        cells = parquet.read_cells(path, key, start + low, start + int(local.max()) + 1)
        size = self.size or picture_size(feature)
        return np.stack([_still(cells[index - low], path, feature, size) for index in local])


def _readable(feature: Feature) -> bool:
    return feature.is_picture or feature.is_number or feature.dtype == "string"


def picture_size(feature: Feature) -> tuple[int, int]:
    """Return (height, width) of a picture feature: data sets list its sides in either order, with names."""
    names = feature.names if isinstance(feature.names, list) else []
    lower = [str(name).lower() for name in names]
    if len(feature.shape) == 3 and "height" in lower and "width" in lower and len(lower) == 3:
        return feature.shape[lower.index("height")], feature.shape[lower.index("width")]
    if len(feature.shape) == 3 and feature.shape[0] in (1, 3):
        return feature.shape[1], feature.shape[2]
    return (feature.shape[0], feature.shape[1]) if len(feature.shape) >= 2 else (0, 0)


def _still(cell: Any, path: Path, feature: Feature, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode one embedded PNG or JPEG; its announced size is compared before anything is unpacked."""
    from PIL import Image

    data = cell.get("bytes") if isinstance(cell, dict) else cell
    stored = picture_size(feature)
    if not isinstance(data, bytes):
        raise UserError(f"{path}: expected pictures in the table, got {type(data).__name__}; fetch it again")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if (picture.height, picture.width) != stored:
                raise UserError(f"{path}: expected pictures of {stored}, got {(picture.height, picture.width)}")
            colour = picture.convert("RGB")
            return np.asarray(colour if size == stored else colour.resize((size[1], size[0]), Image.Resampling.BOX))
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like on damaged data.
        raise UserError(f"cannot read {path}: damaged picture ({first_line(error)}); fetch it again") from None


class LeRobotDataset:
    """A LeRobot data set.

    Attributes:
        directory: its folder.
        format: its version, e.g. ``"LeRobot v3.0"``.
        meta: what ``meta/`` tells.
        rig: which features are which cameras.
        episodes: its episodes, by LeRobot's number.
    """

    def __init__(
        self, directory: Path | str, *, mapping: Path | None = None, size: tuple[int, int] | None = None
    ) -> None:
        """Read ``meta/``; no frame is opened.

        Args:
            directory: the folder that holds ``meta/``, ``data/`` and ``videos/``.
            mapping: a YAML file that names anchors and wrist (:mod:`bench.data.lerobot.rig_file`); without one the
                folder's own ``rig.yaml`` is read, or the names of the cameras tell.
            size: (height, width) to scale pictures to; None keeps the stored size.

        Raises:
            UserError: this is no such folder, a file in ``meta/`` is damaged, or the mapping does not fit.
        """
        self.directory = Path(directory)
        self.meta = read_meta(self.directory)
        self.format = f"LeRobot {self.meta.info.codebase_version}"
        self.frames = LeRobotFrames(self.meta, size)
        self.extras = _extras(self.directory)
        self.rig = _rig(self.meta, mapping)
        self.episodes = tuple(self._episode(row) for row in range(len(self.meta.episodes.number)))
        self._by_id = {episode.id: episode for episode in self.episodes}

    def _episode(self, row: int) -> Episode:
        table = self.meta.episodes
        first, length = int(table.first[row]), int(table.length[row])
        told = self.extras.get(int(table.number[row]), {})
        windows = _told_windows(told, length) or self._windows(row, length)
        scene = told.get("scene", "")
        name = f"episode_{int(table.number[row]):06d}"
        rig = self.rig
        return Episode(
            name, scene if isinstance(scene, str) else "", first, first + length - 1, windows, self.frames, rig
        )

    def _windows(self, row: int, length: int) -> tuple[Window, ...]:
        """Return one window for every unbroken stretch of one task; most episodes have one task and are not opened."""
        tasks = self.meta.episodes.tasks[row]
        if len(tasks) == 1:
            return (Window(0, length, tasks[0], tasks[0]),) if tasks[0].strip() else ()
        path, start, stop = self.frames.rows(row)
        if "task_index" not in self.meta.info.features:
            return ()
        try:
            numbers = parquet.read_numbers(path, "task_index", start, stop, (), "int64")
        except UserError:  # one damaged file spoils its own episodes: reading their frames says so, and the check
            return ()
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), length]
        windows = []
        for begin, end in pairwise(edges):
            sentence = self.meta.tasks.get(int(numbers[begin]), "")
            if sentence.strip():
                windows.append(Window(begin, end, sentence, sentence))
        return tuple(windows)

    def __len__(self) -> int:
        """Return the number of frames."""
        return int(self.meta.episodes.length.sum())

    def __getitem__(self, identifier: str) -> Episode:
        """Return an episode by its id."""
        if identifier in self._by_id:
            return self._by_id[identifier]
        raise UserError(f"{self.directory}: expected an episode id such as {self.episodes[0].id}, got {identifier!r}")

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.meta.info.fps

    @property
    def robot(self) -> str | None:
        """LeRobot's name of the robot."""
        return self.meta.info.robot_type

    @property
    def number_keys(self) -> tuple[str, ...]:
        """Features that are numbers."""
        return tuple(key for key, feature in self.meta.info.features.items() if feature.is_number)

    @property
    def windows(self) -> tuple[tuple[Episode, Window], ...]:
        """Every language window with its episode."""
        return tuple((episode, window) for episode in self.episodes for window in episode.windows)

    def describe(self) -> dict[str, Any]:
        """Return what the data set holds, as JSON data."""
        tasks = Counter(window.instruction for _episode, window in self.windows)
        return {
            "format": self.format,
            "robot": self.meta.info.robot_type,
            "frames_per_second": self.meta.info.fps,
            "frames": len(self),
            "episodes": len(self.episodes),
            "windows": sum(tasks.values()),
            "instructions": len(tasks),
            "keys": list(self.frames.keys(0)),
            "not_read": [key for key in self.meta.info.features if key not in self.frames.keys(0)],
            "views": dict(self.rig.views),
            "longest_episode": int(self.meta.episodes.length.max()),
        }

    def hash(self) -> str:
        """Return a SHA-256 over all files: name, size and end of each (:func:`bench.data.fingerprint.files_hash`)."""
        folders = (self.directory / name for name in ("meta", "data", "videos"))
        return files_hash(self.directory, (path for folder in folders for path in folder.rglob("*") if path.is_file()))


def _extras(root: Path) -> dict[int, dict[str, Any]]:
    """Return what our own export told beside LeRobot's files, by episode number."""
    if not (root / EXTRAS).is_file():
        return {}
    content = read_json(root / EXTRAS)
    try:
        return {int(entry["episode_index"]): dict(entry) for entry in content["episodes"]}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{root / EXTRAS}: expected episodes by number, got another content; delete it") from None


def _told_windows(told: dict[str, Any], length: int) -> tuple[Window, ...]:
    try:
        windows = [Window(int(a), int(b), str(task), str(words)) for a, b, task, words in told.get("windows", ())]
    except (TypeError, ValueError, OverflowError):
        return ()
    return tuple(window for window in windows if window.stop <= length)


def _rig(meta: Meta, mapping: Path | None) -> NamedRig | CalvinRig:
    """Return the rig of the YAML file, or that of the names: they tell no intrinsics, so cameras stay unknown."""
    features = meta.info.features
    pictures = {key: picture_size(feature) for key, feature in features.items() if feature.is_picture}
    columns = [key for key, feature in features.items() if not feature.is_picture]
    own = meta.root / RIG_FILE
    if mapping is not None or own.is_file():
        return load_rig(mapping or own, pictures, columns)
    views = guess_views(list(pictures))
    if "calvin.robot_obs" in columns and WRIST in views:
        return CalvinRig(views, {}, NamedRig.generated, "calvin.robot_obs")
    return NamedRig(
        views,
        state="observation.state" if "observation.state" in columns else None,
        action="action" if "action" in columns else None,
    )
