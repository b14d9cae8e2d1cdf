"""LeRobot v3.0, written: parquet, mp4 and ``meta/`` that ``lerobot`` itself opens.

Episodes are grouped into parts, one data file and one video a camera each.  Parts go to a hidden folder beside the
result, each with a note of its episodes once it is whole; ``finish`` writes ``meta/`` and renames the folder.  A killed
run goes on with the first part that has no note.  Layout after huggingface/lerobot ``src/lerobot/datasets/utils.py``.
Not here: which keys of a data set become which features (:mod:`bench.data.export`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.data.episode import Episode, Window
from bench.data.json_yaml import read_json
from bench.data.lerobot.reader import EXTRAS
from bench.data.lerobot.stats import PictureStats, merge_stats, number_stats
from bench.data.video import Codec, encode
from bench.errors import UserError

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000

_INDEX = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_BATCH = 128


@dataclass(frozen=True)
class Column:
    """A feature of numbers.

    Attributes:
        key: the source's key.
        dtype: the type it is written as.
        names: what its numbers are called, or None.
    """

    key: str
    dtype: str
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Layout:
    """What is written of every episode.

    Attributes:
        rate: frames per second.
        robot: LeRobot's ``robot_type``.
        pictures: feature to the source's key.
        columns: feature to the source's key and type.
        codec: how pictures are encoded.
        crf: their quality, or None for the codec's own.
        extras: whether windows and scenes go beside LeRobot's files, for our own reader.
    """

    rate: int
    robot: str
    pictures: Mapping[str, str]
    columns: Mapping[str, Column]
    codec: Codec
    crf: int | None = None
    extras: bool = True


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording that becomes one LeRobot episode.

    Attributes:
        episode: the recording.
        start: its first frame in the recording.
        stop: after its last one.
        windows: its instructions, in frames of the piece.
    """

    episode: Episode
    start: int
    stop: int
    windows: tuple[Window, ...]

    def __len__(self) -> int:
        """Return T, the number of frames."""
        return self.stop - self.start

    def sentences(self) -> list[str]:
        """Return the instruction of each frame, ``""`` where there is none; where windows overlap the later one's."""
        words = [""] * len(self)
        for window in sorted(self.windows, key=lambda window: window.start):
            words[window.start : window.stop] = [window.instruction] * (window.stop - window.start)
        return words


class LeRobotWriter:
    """Writes one LeRobot data set, part by part.

    Attributes:
        directory: the finished folder.
        layout: what is written.
    """

    def __init__(
        self, directory: Path, layout: Layout, parts: Sequence[Sequence[Piece]], origin: Mapping[str, Any]
    ) -> None:
        """Open a new data set, or one that an earlier run of the same origin left unfinished.

        Args:
            directory: the folder to write; it must not exist.
            layout: what is written.
            parts: the episodes of each file.
            origin: JSON data that says what is exported and how; another origin is another data set.

        Raises:
            UserError: the folder exists, or an unfinished one is of another origin.
        """
        if directory.exists():
            raise UserError(f"{directory}: expected a new folder, it exists already; choose another --out")
        self.directory, self.layout, self._parts = directory, layout, parts
        self._partial = atomic.make_directory(directory.parent) / f".{directory.name}.partial"
        plan = json.loads(json.dumps(origin))
        noted = self._partial / "origin.json"
        if noted.is_file() and read_json(noted) != plan:
            raise UserError(
                f"{self._partial}: expected an unfinished export of the same data, got another's; delete it"
            )
        atomic.make_directory(self._partial)
        atomic.write_json(noted, plan)
        words = [word for part in parts for piece in part for word in dict.fromkeys(piece.sentences())]
        self._tasks = {word: number for number, word in enumerate(dict.fromkeys(words))}
        lengths = [sum(map(len, part)) for part in parts]
        self._first_frame = np.cumsum([0, *lengths]).tolist()
        self._first_episode = np.cumsum([0, *(len(part) for part in parts)]).tolist()

    def write(self, each: Callable[[int], object] | None = None) -> None:
        """Write every part that is not there yet.

        Args:
            each: called with the number of frames done since the last call.

        Raises:
            UserError: a frame is damaged, or an array changes its shape.
        """
        with atomic.locked(self._partial):
            for number, part in enumerate(self._parts):
                if not self._note(number).is_file():
                    self._write_part(number, part)
                if each is not None:
                    each(sum(map(len, part)))

    def finish(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``meta/``, give the folder its name and return ``info.json``'s content.

        Args:
            provenance: JSON data to keep beside LeRobot's files: what the pictures came from.
        """
        notes = [read_json(self._note(number)) for number in range(len(self._parts))]
        rows = [row for note in notes for row in note["episodes"]]
        info = self._info(notes[0]["shapes"], len(rows))
        atomic.write_json(self._partial / "meta" / "info.json", info)
        stats = merge_stats([row["stats"] for row in rows])
        atomic.write_json(self._partial / "meta" / "stats.json", stats)
        self._write_tasks()
        self._write_episodes(rows)
        if self.layout.extras:
            entries = [row["extras"] | {"episode_index": row["episode_index"]} for row in rows]
            atomic.write_json(self._partial / EXTRAS, {"provenance": dict(provenance), "episodes": entries})
        for number in range(len(self._parts)):
            self._note(number).unlink()
        (self._partial / "parts").rmdir()
        (self._partial / "origin.json").unlink()
        for left in [path for path in self._partial.rglob(".*") if path.is_file()]:  # the lock; what a kill cut short
            left.unlink()
        self._partial.rename(self.directory)
        return info

    def _note(self, part: int) -> Path:
        return self._partial / "parts" / f"{part:06d}.json"

    def _place(self, part: int) -> tuple[int, int]:
        return part // FILES_PER_CHUNK, part % FILES_PER_CHUNK

    def _write_part(self, number: int, part: Sequence[Piece]) -> None:
        chunk, file = self._place(number)
        layout = self.layout
        numbers = self._write_numbers(
            self._partial / DATA_PATH.format(chunk_index=chunk, file_index=file), number, part
        )

        def film(feature: str) -> tuple[list[dict[str, Any]], list[int]]:
            path = VIDEO_PATH.format(video_key=feature, chunk_index=chunk, file_index=file)
            seen = [PictureStats() for _ in part]
            frames = _pictures(part, layout.pictures[feature], seen)
            encode(self._partial / path, frames, layout.rate, layout.codec, layout.crf)
            return [stats.result() for stats in seen], [*seen[0].size, 3]

        with ThreadPoolExecutor(max(len(layout.pictures), 1)) as pool:
            films = dict(zip(layout.pictures, pool.map(film, layout.pictures), strict=True))
        rows, before = [], 0
        for index, piece in enumerate(part):
            stats = numbers.stats[index] | {feature: found[index] for feature, (found, _size) in films.items()}
            span = {"from_timestamp": before / layout.rate, "to_timestamp": (before + len(piece)) / layout.rate}
            first = self._first_frame[number] + before
            rows.append(
                {
                    "episode_index": self._first_episode[number] + index,
                    "tasks": list(dict.fromkeys(piece.sentences())),
                    "length": len(piece),
                    "dataset_from_index": first,
                    "dataset_to_index": first + len(piece),
                    "data/chunk_index": chunk,
                    "data/file_index": file,
                    "videos": {"chunk_index": chunk, "file_index": file, **span},
                    "stats": stats,
                    "extras": _extras(piece),
                }
            )
            before += len(piece)
        shapes = numbers.shapes | {feature: size for feature, (_found, size) in films.items()}
        atomic.write_json(self._note(number), {"shapes": shapes, "episodes": rows})

    def _write_numbers(self, path: Path, number: int, part: Sequence[Piece]) -> _Numbers:
        """Write a part's parquet file, one row group an episode."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        result = _Numbers([], {})
        first = self._first_frame[number]
        writer: Any = None
        with atomic.replacing(path) as temporary:
            for index, piece in enumerate(part):
                arrays = self._numbers(piece)
                arrays |= self._indices(piece, first, self._first_episode[number] + index)
                first += len(piece)
                table = pa.table({feature: _arrow(array) for feature, array in arrays.items()})
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="snappy")
                if table.schema != writer.schema:
                    raise UserError(f"episode {piece.episode.id}: expected arrays shaped as before, got others")
                writer.write_table(table)
                result.stats.append({feature: number_stats(array) for feature, array in arrays.items()})
                result.shapes.update({feature: list(array.shape[1:] or (1,)) for feature, array in arrays.items()})
            writer.close()
        return result

    def _numbers(self, piece: Piece) -> dict[str, NDArray[Any]]:
        columns = self.layout.columns
        keys = list(dict.fromkeys(column.key for column in columns.values()))
        arrays = piece.episode.load(keys, piece.start, piece.stop) if keys else {}
        return {
            feature: arrays[column.key].reshape(len(piece), -1).astype(column.dtype)
            for feature, column in columns.items()
        }

    def _indices(self, piece: Piece, first: int, episode: int) -> dict[str, NDArray[Any]]:
        count = np.arange(len(piece))
        return {
            "timestamp": (count / self.layout.rate).astype(np.float32),
            "frame_index": count,
            "episode_index": np.full(len(piece), episode),
            "index": first + count,
            "task_index": np.array([self._tasks[word] for word in piece.sentences()]),
        }

    def _info(self, shapes: Mapping[str, list[int]], episodes: int) -> dict[str, Any]:
        layout = self.layout
        features: dict[str, Any] = {}
        for feature in layout.pictures:
            height, width, _ = shapes[feature]
            video = {"height": height, "width": width, "codec": layout.codec.name, "pix_fmt": layout.codec.shown}
            video |= {"is_depth_map": False, "fps": layout.rate, "channels": 3}
            features[feature] = {
                "dtype": "video",
                "shape": shapes[feature],
                "names": ["height", "width", "channels"],
                "info": {f"video.{name}": value for name, value in video.items()} | {"has_audio": False},
            }
        for feature, column in layout.columns.items():
            names = list(column.names) if column.names else None
            features[feature] = {"dtype": column.dtype, "shape": shapes[feature], "names": names}
        features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in _INDEX.items()}
        return {
            "codebase_version": "v3.0",
            "robot_type": layout.robot,
            "total_episodes": episodes,
            "total_frames": self._first_frame[-1],
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": layout.rate,
            "splits": {"train": f"0:{episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if layout.pictures else None,
            "features": features,
        }

    def _write_tasks(self) -> None:
        import pandas as pd

        index = pd.Index(list(self._tasks), name="task")
        table = pd.DataFrame({"task_index": list(self._tasks.values())}, index=index)
        with atomic.replacing(self._partial / "meta" / "tasks.parquet") as temporary:
            table.to_parquet(temporary)

    def _write_episodes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        flat = []
        for row in rows:
            entry = {name: value for name, value in row.items() if name not in ("videos", "stats", "extras")}
            for feature in self.layout.pictures:
                entry |= {f"videos/{feature}/{name}": value for name, value in row["videos"].items()}
            for feature, stats in row["stats"].items():
                entry |= {f"stats/{feature}/{name}": value for name, value in stats.items()}
            flat.append(entry | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        path = self._partial / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        with atomic.replacing(path) as temporary:
            pq.write_table(pa.Table.from_pylist(flat), temporary, compression="snappy")


@dataclass
class _Numbers:
    stats: list[dict[str, Any]]
    shapes: dict[str, list[int]]


def _arrow(array: NDArray[Any]) -> Any:
    """Return (T,) or (T, N) numbers as an Arrow column; a feature of one number is a plain one."""
    import pyarrow as pa

    if array.ndim == 1 or array.shape[1] == 1:
        return pa.array(array.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _pictures(part: Sequence[Piece], key: str, seen: Sequence[PictureStats]) -> Iterator[NDArray[np.uint8]]:
    for piece, stats in zip(part, seen, strict=True):
        for start in range(piece.start, piece.stop, _BATCH):
            frames = piece.episode.load((key,), start, min(start + _BATCH, piece.stop))[key]
            stats.add(frames, start - piece.start, len(piece))
            yield frames


def _extras(piece: Piece) -> dict[str, Any]:
    return {
        "recording": piece.episode.id,
        "first": piece.episode.first + piece.start,
        "scene": piece.episode.scene,
        "windows": [[window.start, window.stop, window.task, window.instruction] for window in piece.windows],
    }
