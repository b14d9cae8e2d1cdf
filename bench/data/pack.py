"""A data set unpacked once into memory-mapped arrays, so that training reads at the speed of the page cache.

A pack is a folder: ``plan.json`` says which data set (by hash), which frames and which keys; each key lies in shards
``KEY_NNNN.npy`` of plain, uncompressed rows.  Shards appear whole or not at all, so that an interrupted pack goes on.
A packed episode is an ordinary :class:`~bench.data.episode.Episode` with another source of frames.
"""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from bench import atomic
from bench.data.arrays import read_npy_header
from bench.data.calvin import FRAME_ARRAYS, CalvinDataset
from bench.data.episode import Episode
from bench.data.fingerprint import dataset_hash
from bench.errors import UserError

PACKED_KEYS = ("rgb_static", "rgb_gripper", "robot_obs", "rel_actions")
"""What a policy reads."""

_ROWS = 4096
_BATCH = 128
_OPEN_MAPS = 128


def pack(
    dataset: CalvinDataset,
    directory: Path | str,
    *,
    keys: Sequence[str] = PACKED_KEYS,
    windows_only: bool = False,
    rows_per_shard: int = _ROWS,
    each: Callable[[int], object] | None = None,
) -> Pack:
    """Unpack a data set's frames into ``directory``, or finish what an earlier run began, and return the pack.

    Args:
        dataset: what to unpack; its threads unpack.
        directory: folder of the pack.
        keys: which arrays.
        windows_only: leave out frames that lie in no language window.
        rows_per_shard: frames in one file.
        each: called with the number of frames done since the last call.

    Raises:
        UserError: the folder holds another pack, a frame is damaged, or there is nothing to pack.
    """
    directory = Path(directory)
    stretches = [stretch for episode in dataset.episodes for stretch in _stretches(episode, windows_only)]
    if not stretches:
        raise UserError(f"{dataset.directory}: expected language windows to pack, got none; pack all frames")
    unknown = sorted(set(keys) - set(FRAME_ARRAYS))
    if unknown or not keys:
        raise UserError(f"pack: expected keys among {', '.join(FRAME_ARRAYS)}, got {unknown or 'none'}")
    first = dataset.episodes[0].source.read(range(stretches[0][0], stretches[0][0] + 1), keys)
    plan = {
        "dataset": dataset_hash(dataset),
        "rows_per_shard": rows_per_shard,
        "stretches": [list(stretch) for stretch in stretches],
        "keys": {key: {"dtype": array.dtype.name, "shape": list(array.shape[1:])} for key, array in first.items()},
    }
    path = directory / "plan.json"
    if path.is_file() and _read_plan(path) != plan:
        raise UserError(f"{directory}: expected a pack of these frames, got another's; choose another folder")
    atomic.write_json(path, plan)
    result = Pack(directory, plan)
    for shard in range(result.shards):
        _write_shard(dataset, result, shard)
        if each is not None:
            each(result.shard_rows(shard))
    return Pack.open(directory)


class Pack:
    """A folder of unpacked frames.

    Attributes:
        directory: its folder.
        dataset: hash of the data set that it was made from.
        keys: the arrays that it holds.
    """

    def __init__(self, directory: Path, plan: dict[str, Any]) -> None:
        """Use :func:`pack` or :meth:`open`."""
        self.directory = directory
        self.dataset: str = plan["dataset"]
        self.layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            key: (np.dtype(entry["dtype"]), tuple(entry["shape"])) for key, entry in plan["keys"].items()
        }
        self.keys = tuple(self.layout)
        self.rows_per_shard: int = plan["rows_per_shard"]
        self.stretches = [(int(first), int(last)) for first, last in plan["stretches"]]
        lengths = [last - first + 1 for first, last in self.stretches]
        self._first_frames = np.array([first for first, _last in self.stretches])
        self._first_rows = np.concatenate([[0], np.cumsum(lengths)])
        self._maps: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def open(cls, directory: Path | str) -> Pack:
        """Open a finished pack.

        Raises:
            UserError: there is none, it is unfinished, or a shard is truncated.
        """
        directory = Path(directory)
        plan = _read_plan(directory / "plan.json")
        try:
            result = cls(directory, plan)
            for shard in range(result.shards):
                for key in result.keys:
                    result.map_shard(key, shard)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{directory}: expected a pack's plan.json, got another content; pack again") from None
        return result

    def __len__(self) -> int:
        """Return the number of packed frames."""
        return int(self._first_rows[-1])

    @property
    def shards(self) -> int:
        """Number of files of each key."""
        return math.ceil(len(self) / self.rows_per_shard)

    def shard_rows(self, shard: int) -> int:
        """Return the number of frames in a shard."""
        return min(self.rows_per_shard, len(self) - shard * self.rows_per_shard)

    def path(self, key: str, shard: int) -> Path:
        """Return the file of a shard."""
        return self.directory / f"{key}_{shard:04d}.npy"

    def attach(self, dataset: CalvinDataset) -> tuple[Episode, ...]:
        """Return the data set's episodes, read from this pack.

        Raises:
            UserError: the pack was made from other recordings.
        """
        if dataset_hash(dataset) != self.dataset:
            raise UserError(f"{self.directory}: expected a pack of {dataset.directory}, got another's; pack it again")
        source = PackedFrames(self)
        return tuple(replace(episode, source=source) for episode in dataset.episodes)

    def rows(self, frames: range) -> slice:
        """Return where the frames lie, counted over all shards.

        Raises:
            UserError: some of them are not packed.
        """
        index = int(np.searchsorted(self._first_frames, frames[0], side="right")) - 1
        if index < 0 or frames[-1] > self.stretches[index][1]:
            raise UserError(
                f"{self.directory}: expected packed frames, got {frames[0]} to {frames[-1]}, which are not all packed; "
                "ask for frames of one language window, or pack all frames"
            )
        start = int(self._first_rows[index]) + frames[0] - self.stretches[index][0]
        return slice(start, start + frames[-1] - frames[0] + 1, frames.step)

    def map_shard(self, key: str, shard: int) -> NDArray[Any]:
        """Return a shard as a read-only memory map, checked for its size when it is first opened."""
        with self._lock:
            found = self._maps.get((key, shard))
            if found is None:
                found = self._maps[key, shard] = self._open(key, shard)
                if len(self._maps) > _OPEN_MAPS:
                    self._maps.popitem(last=False)
            else:
                self._maps.move_to_end((key, shard))
            return found

    def _open(self, key: str, shard: int) -> NDArray[Any]:
        path = self.path(key, shard)
        dtype, shape = self.layout[key]
        expected = (self.shard_rows(shard), *shape)
        try:
            with path.open("rb") as stream:
                found = read_npy_header(stream, str(path))
                offset, size = stream.tell(), os.fstat(stream.fileno()).st_size
        except OSError as error:
            raise UserError(f"{path}: expected a shard of the pack, got {error.strerror}; pack again") from None
        if found != (expected, dtype, False) or size != offset + math.prod(expected) * dtype.itemsize:
            raise UserError(f"{path}: expected {dtype} {expected}, got a truncated or foreign file; pack again")
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=expected)


class PackedFrames:
    """The frames of a pack as a source for episodes."""

    def __init__(self, packed: Pack) -> None:
        self._pack = packed

    def keys(self, frame: int) -> tuple[str, ...]:
        """Return the packed keys; ``frame`` must be packed."""
        self._pack.rows(range(frame, frame + 1))
        return self._pack.keys

    def read(self, frames: range, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return key to array (T, …): a read-only view of the map where the frames lie in one shard, else a copy."""
        missing = [key for key in keys if key not in self._pack.layout]
        if missing:
            raise UserError(f"{self._pack.directory}: expected keys {', '.join(self._pack.keys)}, got {missing}")
        rows = self._pack.rows(frames)
        size = self._pack.rows_per_shard
        first, last = rows.start // size, (rows.stop - 1) // size
        arrays = {}
        for key in keys:
            if first == last:
                base = first * size
                arrays[key] = np.asarray(
                    self._pack.map_shard(key, first)[rows.start - base : rows.stop - base : rows.step]
                )
            else:
                wanted = np.arange(rows.start, rows.stop, rows.step)
                parts = [(shard, wanted[wanted // size == shard] - shard * size) for shard in range(first, last + 1)]
                arrays[key] = np.concatenate([self._pack.map_shard(key, shard)[own] for shard, own in parts])
        return arrays


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: expected a pack, got {error.strerror}; make one first") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: expected a pack's plan, got damaged JSON; pack into a new folder") from None
    if not isinstance(plan, dict):
        raise UserError(f"{path}: expected a pack's plan, got {type(plan).__name__}; pack into a new folder")
    return plan


def _stretches(episode: Episode, windows_only: bool) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of the unbroken runs of frames to pack."""
    wanted = np.full(len(episode) + 2, not windows_only)
    wanted[[0, -1]] = False
    for window in episode.windows:
        wanted[1 + window.start : 1 + window.stop] = True
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8)))
    for number, (start, stop) in enumerate(pairwise(edges.tolist())):
        if number % 2 == 0:
            yield episode.first + start, episode.first + stop - 1


def _write_shard(dataset: CalvinDataset, packed: Pack, shard: int) -> None:
    """Write the shard's file of each key that is not there yet; all keys of a frame are unpacked at once."""
    keys = [key for key in packed.keys if not packed.path(key, shard).is_file()]
    if not keys:
        return
    rows = packed.shard_rows(shard)
    base, source = shard * packed.rows_per_shard, dataset.episodes[0].source
    with atomic.new_directory(packed.directory / f"shard_{shard:04d}") as folder:
        maps = {}
        for key in keys:
            dtype, shape = packed.layout[key]
            path = folder / packed.path(key, shard).name
            maps[key] = npy_format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, *shape))
        for row, frames in _batches(packed, base, base + rows):
            for key, array in source.read(frames, keys).items():
                maps[key][row - base : row - base + len(frames)] = array
        for array in maps.values():
            array.flush()
    for key in keys:
        made = packed.directory / f"shard_{shard:04d}" / packed.path(key, shard).name
        made.replace(packed.path(key, shard))
    (packed.directory / f"shard_{shard:04d}").rmdir()


def _batches(packed: Pack, start: int, stop: int) -> Iterator[tuple[int, range]]:
    """Yield (row, frames) for the rows ``start:stop``, in pieces that lie in one stretch."""
    row = 0
    for first, last in packed.stretches:
        length = last - first + 1
        low, high = max(row, start), min(row + length, stop)
        for piece in range(low, high, _BATCH):
            yield piece, range(first + piece - row, first + min(piece + _BATCH, high) - row)
        row += length
