"""The ``meta/`` folder of a LeRobot data set, v2.0, v2.1 and v3.0: what there is and where it lies.

Layout after huggingface/lerobot ``src/lerobot/datasets/utils.py`` and ``scripts/convert_dataset_v21_to_v30.py``.
Nothing in the folder is trusted: path templates may hold the known numbers alone, and no path leaves the folder.
Not here: frames.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.data.arrays import first_line, printable
from bench.data.json_yaml import MAX_JSON_BYTES, read_json
from bench.data.lerobot.parquet import MAX_ROWS, read_rows
from bench.errors import UserError

VERSIONS = ("v2.0", "v2.1", "v3.0")
"""What is read; v3.0 is written."""

NUMBERS = ("float16", "float32", "float64", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))
"""Types of a column of numbers."""

PICTURES = ("video", "image")
"""Types of a feature that holds pictures."""

_FIELD = re.compile(r"\{(\w+)(?::0(\d{1,2})d)?\}")
_MAX_VALUES = 1 << 20


class Feature(BaseModel):
    """One entry of ``features`` in ``info.json``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    dtype: str
    shape: tuple[int, ...] = Field(max_length=5)
    names: Any = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @property
    def is_picture(self) -> bool:
        """Whether it holds colour pictures; depth maps are stored as videos too, and are not read."""
        marks = {**(self.video_info or {}), **(self.info or {})}
        return self.dtype in PICTURES and not (marks.get("is_depth_map") or marks.get("video.is_depth_map"))

    @property
    def is_number(self) -> bool:
        """Whether it is a column of numbers of a sane size."""
        size = int(np.prod([max(side, 0) for side in self.shape], dtype=np.float64)) if self.shape else 1
        return self.dtype in NUMBERS and 0 < size <= _MAX_VALUES and min(self.shape, default=1) > 0


class Info(BaseModel):
    """``meta/info.json``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    codebase_version: str
    fps: float = Field(gt=0, le=10_000, allow_inf_nan=False)
    features: dict[str, Feature] = Field(max_length=1000)
    total_episodes: int = Field(ge=0, le=MAX_ROWS)
    total_frames: int = Field(ge=0, le=MAX_ROWS)
    chunks_size: int = Field(default=1000, ge=1, le=MAX_ROWS)
    data_path: str
    video_path: str | None = None
    robot_type: str | None = None


@dataclass(frozen=True)
class Located:
    """Where an episode's part of a file lies: chunk and file numbers, and where it begins in the file."""

    chunk: NDArray[np.int64]
    file: NDArray[np.int64]
    start: NDArray[np.float64]


@dataclass(frozen=True)
class EpisodeTable:
    """All episodes, as columns (E,): a million of them take little memory.

    Attributes:
        number: LeRobot's ``episode_index``.
        first: number of the first frame, counted over all episodes in order.
        length: frames.
        tasks: sentences of each episode.
        data: where its rows lie; ``start`` is the row.
        videos: by key, where its pictures lie; ``start`` is the time in seconds.
    """

    number: NDArray[np.int64]
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    tasks: list[tuple[str, ...]]
    data: Located
    videos: Mapping[str, Located]


@dataclass(frozen=True)
class Meta:
    """What ``meta/`` tells.

    Attributes:
        root: the data set's folder.
        info: ``info.json``.
        episodes: every episode.
        tasks: task number to sentence.
    """

    root: Path
    info: Info
    episodes: EpisodeTable
    tasks: Mapping[int, str]

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features stored as videos."""
        return _video_keys(self.info)

    def data_file(self, row: int) -> Path:
        """Return the parquet file of the ``row``-th episode."""
        where = self.episodes.data
        return self._path(self.info.data_path, row, int(where.chunk[row]), int(where.file[row]))

    def video_file(self, row: int, key: str) -> Path:
        """Return the mp4 of the ``row``-th episode's ``key``."""
        where = self.episodes.videos[key]
        return self._path(self.info.video_path or "", row, int(where.chunk[row]), int(where.file[row]), key)

    def _path(self, template: str, row: int, chunk: int, file: int, key: str = "") -> Path:
        values: dict[str, int | str] = {
            "chunk_index": chunk,
            "file_index": file,
            "episode_chunk": chunk,
            "episode_index": int(self.episodes.number[row]),
            "video_key": key,
        }
        return self.root / filled(template, values, self.root / "meta" / "info.json")


def filled(template: str, values: Mapping[str, int | str], source: Path) -> str:
    """Return a path template with its numbers put in; unlike ``str.format`` it reaches nothing but ``values``.

    Raises:
        UserError: another field, or a path that leaves the data set's folder.
    """

    def put(match: re.Match[str]) -> str:
        value = values.get(match[1])
        if value is None:
            raise UserError(f"{source}: expected paths of {', '.join(values)}, got {printable(template, 200)!r}")
        return str(value).zfill(int(match[2])) if match[2] else str(value)

    path = _FIELD.sub(put, template)
    parts = PurePosixPath(path)
    if not path.isprintable() or "{" in path or parts.is_absolute() or ".." in parts.parts or not 0 < len(path) < 1000:
        raise UserError(f"{source}: expected a path inside the data set, got {printable(template, 200)!r}; refused")
    return path


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path}: expected at most {MAX_JSON_BYTES} bytes, got {path.stat().st_size}; refused")
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path}: expected a file of the data set, got no such file; fetch it again") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"cannot read {path}: damaged JSON lines ({first_line(error)}); fetch it again") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a mapping in every line, got another content; fetch it again")
    return rows


def read_info(root: Path) -> Info:
    """Return ``meta/info.json``.

    Raises:
        UserError: missing, damaged, or of another version.
    """
    path = root / "meta" / "info.json"
    content = read_json(path)
    try:
        info = Info.model_validate(content)
    except ValidationError as error:
        fault: Any = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise UserError(printable(f"{path}: {where}: {fault['msg']}; fetch it again", 400)) from None
    if info.codebase_version not in VERSIONS:
        raise UserError(
            f"{path}: expected LeRobot {', '.join(VERSIONS)}, got {printable(info.codebase_version, 20)}; convert it "
            "with lerobot's own scripts"
        )
    return info


def read_meta(root: Path) -> Meta:
    """Return what ``meta/`` tells of a data set of any version.

    Raises:
        UserError: a file is missing or damaged, or they contradict one another.
    """
    info = read_info(root)
    videos = list(_video_keys(info))
    if videos and info.video_path is None:
        raise UserError(f"{root / 'meta' / 'info.json'}: expected video_path beside video features, got none")
    if info.codebase_version == "v3.0":
        meta = Meta(root, info, _episodes_v3(root, videos), _tasks_v3(root))
    else:
        meta = Meta(root, info, _episodes_v2(root, info, videos), _tasks_v2(root))
    meta.data_file(0)
    for key in videos:
        meta.video_file(0, key)
    return meta


def _video_keys(info: Info) -> tuple[str, ...]:
    return tuple(key for key, feature in info.features.items() if feature.is_picture and feature.dtype == "video")


def _tasks_v2(root: Path) -> dict[int, str]:
    path = root / "meta" / "tasks.jsonl"
    try:
        return {int(row["task_index"]): str(row["task"]) for row in _read_lines(path)}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: expected task_index and task in every line; fetch it again") from None


def _tasks_v3(root: Path) -> dict[int, str]:
    path = root / "meta" / "tasks.parquet"
    table = read_rows(path, ("task_index", "task", "__index_level_0__"))
    words = table.get("task", table.get("__index_level_0__"))
    try:
        return {int(number): str(word) for number, word in zip(table["task_index"], words or (), strict=True)}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: expected the columns task_index and task, got {sorted(table)}") from None


def _episodes_v2(root: Path, info: Info, videos: list[str]) -> EpisodeTable:
    path = root / "meta" / "episodes.jsonl"
    rows = _read_lines(path)
    try:
        number = np.array([row["episode_index"] for row in rows], dtype=np.int64)
        length = np.array([row["length"] for row in rows], dtype=np.int64)
        tasks = [_sentences(row.get("tasks", ())) for row in rows]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: expected episode_index, length and tasks in every line; fetch it again") from None
    order = np.argsort(number, kind="stable")
    number, length = number[order], length[order]
    _check_lengths(path, number, length)
    zeros = np.zeros(len(number))
    where = Located(number // info.chunks_size, number, zeros)
    first = np.cumsum(length) - length
    return EpisodeTable(number, first, length, [tasks[row] for row in order], where, dict.fromkeys(videos, where))


def _episodes_v3(root: Path, videos: list[str]) -> EpisodeTable:
    files = sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise UserError(f"{root / 'meta' / 'episodes'}: expected episode tables, got none; fetch the data set again")
    names = ["episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index"]
    for key in videos:
        names += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    columns: dict[str, list[Any]] = {name: [] for name in (*names, "tasks")}
    for path in files:
        table = read_rows(path, tuple(columns))
        missing = [name for name in names if name not in table]
        if missing:
            raise UserError(f"{path}: expected the column {printable(missing[0])!r}, got none; fetch it again")
        count = len(table["episode_index"])
        for name, values in columns.items():
            values.extend(table.get(name, [()] * count))
    try:
        numbers = {name: np.array(columns[name], np.int64) for name in names if not name.endswith("timestamp")}
        times = {name: np.array(columns[name], np.float64) for name in names if name.endswith("timestamp")}
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{files[0]}: expected numbers in {', '.join(names[:5])}, got others; fetch it again") from None
    order = np.argsort(numbers["episode_index"], kind="stable")
    numbers = {name: values[order] for name, values in numbers.items()}
    number, length = numbers["episode_index"], numbers["length"]
    _check_lengths(files[0], number, length)
    chunk, file = numbers["data/chunk_index"], numbers["data/file_index"]
    data = Located(chunk, file, _rows_in_file(chunk, file, numbers["dataset_from_index"]))
    located = {}
    for key in videos:
        chunk, file = numbers[f"videos/{key}/chunk_index"], numbers[f"videos/{key}/file_index"]
        located[key] = Located(chunk, file, times[f"videos/{key}/from_timestamp"][order])
    tasks = [_sentences(columns["tasks"][row]) for row in order]
    return EpisodeTable(number, np.cumsum(length) - length, length, tasks, data, located)


def _rows_in_file(chunk: NDArray[np.int64], file: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each episode's first row within its file: frames are counted over the whole data set."""
    lowest: dict[tuple[int, int], int] = {}
    places = list(zip(chunk.tolist(), file.tolist(), strict=True))
    for place, start in zip(places, first.tolist(), strict=True):
        lowest[place] = min(lowest.get(place, start), start)
    return np.array([start - lowest[place] for place, start in zip(places, first.tolist(), strict=True)], np.float64)


def _check_lengths(path: Path, number: NDArray[np.int64], length: NDArray[np.int64]) -> None:
    if len(number) == 0:
        raise UserError(f"{path}: expected at least one episode, got none; fetch it again")
    if (
        (length < 1).any()
        or length.sum(dtype=np.float64) > MAX_ROWS
        or (number < 0).any()
        or len(np.unique(number)) != len(number)
    ):
        raise UserError(
            f"{path}: expected distinct episodes of 1 frame or more, {MAX_ROWS} in all, got others; fetch it again"
        )


def _sentences(value: Any) -> tuple[str, ...]:
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, (list, tuple)) else ()
