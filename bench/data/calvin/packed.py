"""Reading a packed split: its frames in memory-mapped arrays instead of one compressed file per frame.

A packed split is a folder with CALVIN's index files; ``plan.json`` says which frames and keys are packed, and each key
lies in shards ``KEY_NNNN.npy`` of plain, uncompressed rows.  :class:`~bench.data.calvin.CalvinDataset` opens it like
any other split.  Not here: writing (:mod:`bench.data.calvin.pack`, :mod:`bench.data.calvin.pack_writer`).

Depth is packed as uint16 in steps of :data:`DEPTH_STEP`: half the bytes, off by at most half a step, 0.12 mm.  CALVIN's
own static depth comes in steps of two centimetres and more.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.arrays import read_npy_header
from bench.errors import UserError

PLAN_FILE = "plan.json"

DEPTH_STEP = 2.0**-12
"""Metres; uint16 reaches 16 m, beyond the far plane of CALVIN's cameras (10 m).  A power of two: float32 is exact."""

Layout = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Key to the type and shape of one stored row."""

_DEPTH = ("depth_static", "depth_gripper")
_OPEN_MAPS = 256
"""Each holds a file handle, of which a process usually has 1024."""


def depth_steps(key: str, depth: NDArray[Any]) -> NDArray[np.uint16]:
    """Return depth images (T, H, W) in metres as a pack keeps them.

    Raises:
        UserError: a depth that sixteen bits cannot hold.
    """
    steps = np.empty(depth.shape, np.uint16)
    for image, kept in zip(depth, steps, strict=True):  # one by one, in the processor's cache
        numbers = np.rint(image * (1 / DEPTH_STEP))
        low, high = numbers.min(), numbers.max()
        if not (low >= 0 and high <= np.iinfo(np.uint16).max):
            came = f"{low * DEPTH_STEP:.4g} to {high * DEPTH_STEP:.4g}"
            limit = np.iinfo(np.uint16).max * DEPTH_STEP
            raise UserError(f"{key}: expected 0 to {limit:.1f} m, got {came}; leave it out")
        kept[...] = numbers
    return steps


def depth_metres(steps: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return float32 metres of what :func:`depth_steps` gave."""
    return steps * np.float32(DEPTH_STEP)


def stored(key: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of frames (T, …) as a pack keeps it.

    Raises:
        UserError: a depth that sixteen bits cannot hold.
    """
    return depth_steps(key, array) if key in _DEPTH else array


def restored(key: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return what :func:`stored` was given, depth as float32 metres."""
    return depth_metres(array) if key in _DEPTH else array


def shard_name(key: str, shard: int) -> str:
    """Return the file name of a shard."""
    return f"{key}_{shard:04d}.npy"


def make_plan(
    layout: Layout, stretches: Sequence[tuple[int, int]], shards: Sequence[int], dataset: str | None
) -> dict[str, Any]:
    """Return the content of ``plan.json``.

    Args:
        layout: what is stored of one frame.
        stretches: (first, last) of every unbroken run of frames, in the order of the rows.
        shards: rows of each shard.
        dataset: hash of the data set that the frames were unpacked from; None where there never was one.
    """
    return {
        "dataset": dataset,
        "shards": list(shards),
        "stretches": [list(stretch) for stretch in stretches],
        "keys": {key: {"dtype": dtype.name, "shape": list(shape)} for key, (dtype, shape) in layout.items()},
    }


class Pack:
    """A folder of unpacked frames.

    Attributes:
        directory: its folder.
        dataset: hash of the data set that it was made from, or None.
        layout: key to the type and shape of one stored row.
        stretches: (first, last) frame of every unbroken run.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any]) -> None:
        """Use :meth:`open`, unless the shards are still to be written."""
        self.directory = directory
        self.dataset: str | None = plan["dataset"]
        self.layout: Layout = {
            key: (np.dtype(entry["dtype"]), tuple(entry["shape"])) for key, entry in plan["keys"].items()
        }
        self.stretches = [(int(first), int(last)) for first, last in plan["stretches"]]
        lengths = [last - first + 1 for first, last in self.stretches]
        self._first_frames = np.array([first for first, _last in self.stretches])
        self._first_rows = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._shard_starts = np.concatenate([[0], np.cumsum(plan["shards"])]).astype(np.int64)
        if self._shard_starts[-1] != self._first_rows[-1] or not self.stretches:
            raise ValueError("the shards do not hold the stretches")
        self._offsets: dict[tuple[str, int], int] = {}
        self._maps: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def open(cls, directory: Path | str) -> Pack:
        """Open a finished pack.

        Raises:
            UserError: there is none, it is unfinished, or a shard is truncated.
        """
        directory = Path(directory)
        plan = read_plan(directory / PLAN_FILE)
        try:
            result = cls(directory, plan)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{directory}: expected a pack's plan.json, got another content; pack again") from None
        for shard in range(result.shards):
            for key in result.keys:
                result._offsets[key, shard] = result._locate(key, shard)
        return result

    @property
    def keys(self) -> tuple[str, ...]:
        """The arrays that it holds."""
        return tuple(self.layout)

    def __len__(self) -> int:
        """Return the number of packed frames."""
        return int(self._first_rows[-1])

    @property
    def shards(self) -> int:
        """Number of files of each key."""
        return len(self._shard_starts) - 1

    def shard_rows(self, shard: int) -> range:
        """Return which rows a shard holds, counted over all shards."""
        return range(int(self._shard_starts[shard]), int(self._shard_starts[shard + 1]))

    def shard_of(self, row: int) -> int:
        """Return the shard in which a row lies."""
        return int(np.searchsorted(self._shard_starts, row, side="right")) - 1

    def path(self, key: str, shard: int) -> Path:
        """Return the file of a shard."""
        return self.directory / shard_name(key, shard)

    def rows(self, frames: range) -> range:
        """Return where the frames lie, counted over all shards.

        Raises:
            UserError: some of them are not packed.
        """
        index = int(np.searchsorted(self._first_frames, frames[0], side="right")) - 1
        if index < 0 or frames[-1] > self.stretches[index][1]:
            raise UserError(
                f"{self.directory}: expected packed frames, got {frames[0]} to {frames[-1]}, which are not all packed; "
                "ask for frames of one episode, or pack all frames"
            )
        start = int(self._first_rows[index]) + frames[0] - self.stretches[index][0]
        return range(start, start + frames[-1] - frames[0] + 1, frames.step)

    def map_shard(self, key: str, shard: int) -> NDArray[Any]:
        """Return a shard as a read-only memory map."""
        with self._lock:
            found = self._maps.get((key, shard))
            if found is None:
                found = self._maps[key, shard] = self._map(key, shard)
                if len(self._maps) > _OPEN_MAPS:
                    self._maps.popitem(last=False)
            else:
                self._maps.move_to_end((key, shard))
            return found

    def _map(self, key: str, shard: int) -> NDArray[Any]:
        # Not np.memmap, which takes forty times as long to open a file: shards come and go where access is random.
        path = shard_name(key, shard)
        try:
            handle = os.open(f"{self.directory}/{path}", os.O_RDONLY)
            try:
                mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(handle)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.directory}/{path}: cannot read the shard ({error}); pack again") from None
        dtype, shape = self.layout[key]
        rows = len(self.shard_rows(shard))
        offset = len(mapped) - rows * math.prod(shape) * dtype.itemsize
        if offset != self._offsets.get((key, shard), offset):
            raise UserError(f"{self.directory}/{path}: the file has changed since the pack was opened; open it again")
        return np.frombuffer(mapped, dtype, rows * math.prod(shape), offset).reshape(rows, *shape)

    def _locate(self, key: str, shard: int) -> int:
        """Return where a shard's rows begin in its file, which is checked."""
        path = self.path(key, shard)
        dtype, shape = self.layout[key]
        expected = (len(self.shard_rows(shard)), *shape)
        try:
            with path.open("rb") as stream:
                found = read_npy_header(stream, str(path))
                offset, size = stream.tell(), os.fstat(stream.fileno()).st_size
        except OSError as error:
            raise UserError(f"{path}: expected a shard of the pack, got {error.strerror}; pack again") from None
        if found != (expected, dtype, False) or size != offset + math.prod(expected) * dtype.itemsize:
            raise UserError(f"{path}: expected {dtype} {expected}, got a truncated or foreign file; pack again")
        return offset


class PackedFrames:
    """The frames of a pack as a source for episodes."""

    def __init__(self, packed: Pack) -> None:
        self.pack = packed

    def keys(self, frame: int) -> tuple[str, ...]:
        """Return the packed keys; ``frame`` must be packed."""
        self.pack.rows(range(frame, frame + 1))
        return self.pack.keys

    def path(self, frame: int) -> Path:
        """Return a file in which the frame lies."""
        shard = self.pack.shard_of(self.pack.rows(range(frame, frame + 1))[0])
        return self.pack.path(self.pack.keys[0], shard)

    def read(self, frames: range, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return key to array (T, …): a read-only view of the map where that is possible, else a copy."""
        missing = [key for key in keys if key not in self.pack.layout]
        if missing:
            raise UserError(
                f"{self.pack.directory}: expected keys among {', '.join(self.pack.keys)}, got {', '.join(missing)}; "
                "collect or pack them too"
            )
        rows = self.pack.rows(frames)
        first, last = self.pack.shard_of(rows[0]), self.pack.shard_of(rows[-1])
        return {key: restored(key, self._rows(key, rows, range(first, last + 1))) for key in keys}

    def _rows(self, key: str, rows: range, shards: range) -> NDArray[Any]:
        parts = []
        for shard in shards:
            inside = self.pack.shard_rows(shard)
            start = rows.start + max(0, -(-(inside.start - rows.start) // rows.step)) * rows.step
            own = slice(start - inside.start, min(rows.stop, inside.stop) - inside.start, rows.step)
            parts.append(self.pack.map_shard(key, shard)[own])
        return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)


def read_plan(path: Path) -> dict[str, Any]:
    """Return the content of a pack's ``plan.json``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        plan = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: expected a pack, got {error.strerror}; make one first") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: expected a pack's plan, got damaged JSON; pack into a new folder") from None
    if not isinstance(plan, dict):
        raise UserError(f"{path}: expected a pack's plan, got {type(plan).__name__}; pack into a new folder")
    return plan
