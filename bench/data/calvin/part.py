"""A part: some episodes of a split written by one process, to be taken into the split by another.

A part is a folder of frames under numbers of its own and ``part.json``, its entries; it appears whole or not at all.
:class:`~bench.data.calvin.split_writer.SplitWriter` strings parts together by renaming files, so that any number of
processes write frames and the numbering still hangs on the order of the parts alone.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from bench import atomic
from bench.data.calvin.packed import Layout, stored
from bench.data.calvin.recorded import Entry, complete, entry_of
from bench.data.episode import Window
from bench.errors import UserError

Format = Literal["calvin", "packed"]
FORMATS: tuple[Format, ...] = get_args(Format)

PART_FILE = "part.json"


@lru_cache(maxsize=64)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    stream = BytesIO()
    npy_format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def write_frame(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one frame as CALVIN does: a zip of ``KEY.npy``."""
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for key, array in arrays.items():
            # The fastest level: a twentieth more bytes, half of the time.  Numbers are too few to be worth it.
            method = zipfile.ZIP_DEFLATED if array.ndim > 1 else zipfile.ZIP_STORED
            content = _header(array.dtype.str, array.shape) + array.tobytes()
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), content, method, compresslevel=1)
    path.write_bytes(whole.getbuffer())


class _CalvinFrames:
    """Writes a part's frames as one compressed file each."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._frames = folder, 0

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for index in range(len(arrays["robot_obs"])):
            write_frame(self._folder / f"{self._frames:06d}.npz", {key: array[index] for key, array in arrays.items()})
            self._frames += 1

    def close(self) -> None:
        # One call instead of an fsync for each of hundreds of small files, which costs five times as much.
        os.sync()


class _PackedFrames:
    """Writes a part's frames as one growing array of each key."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._rows = folder, 0
        self._streams: dict[str, BinaryIO] = {}
        self._layout: Layout = {}

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for key, array in arrays.items():
            kept = np.ascontiguousarray(stored(key, array))
            if key not in self._streams:
                self._layout[key] = (kept.dtype, kept.shape[1:])
                self._streams[key] = (self._folder / f"{key}.npy").open("wb")
                self._write_header(key)
            if (kept.dtype, kept.shape[1:]) != self._layout[key]:
                raise UserError(f"{key}: expected {self._layout[key]} as before, got {kept.dtype} {kept.shape[1:]}")
            self._streams[key].write(kept.data)
        if set(arrays) != set(self._layout):
            raise UserError(f"episode: expected the keys {', '.join(self._layout)} as before, got {', '.join(arrays)}")
        self._rows += len(arrays["robot_obs"])

    def _write_header(self, key: str) -> None:
        dtype, shape = self._layout[key]
        # NumPy leaves room in the header for the first axis to grow, so that it can be written again in place.
        header = {"descr": dtype.str, "fortran_order": False, "shape": (self._rows, *shape)}
        npy_format.write_array_header_1_0(self._streams[key], header)

    def close(self) -> None:
        for key, stream in self._streams.items():
            stream.seek(0)
            self._write_header(key)
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()


class PartWriter:
    """Takes the episodes of a part one by one; nothing of them stays in memory."""

    def __init__(self, folder: Path, form: Format) -> None:
        """Use :func:`new_part`."""
        self._frames = _CalvinFrames(folder) if form == "calvin" else _PackedFrames(folder)
        self._folder, self._form, self._entries = folder, form, list[Entry]()
        self.notes: dict[str, Any] = {}

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._entries)

    @property
    def frames(self) -> int:
        """Number of frames written."""
        return sum(entry["frames"] for entry in self._entries)

    def add_episode(
        self, frames: Mapping[str, NDArray[Any]], windows: Sequence[Window] = (), scene: str = "D", name: str = ""
    ) -> None:
        """Write one episode.

        Args:
            frames: see :func:`bench.data.calvin.recorded.complete`.
            windows: its instructions, in indices of the T written frames.
            scene: the scene's letter.
            name: what to find it by.

        Raises:
            UserError: an array is missing or of another shape or type, or a window ends outside.
        """
        arrays = complete(frames)
        entry = entry_of(name, scene, arrays, windows)
        self._frames.add(arrays)
        self._entries.append(entry)

    def _close(self) -> None:
        self._frames.close()
        content = {"format": self._form, "entries": self._entries, "notes": self.notes}
        atomic.write_text(self._folder / PART_FILE, json.dumps(content))


@contextmanager
def new_part(folder: Path, form: Format) -> Iterator[PartWriter]:
    """Give a writer; when the block ends well, ``folder`` appears with all that was written, else nothing does."""
    with atomic.new_directory(folder) as temporary:
        part = PartWriter(temporary, form)
        yield part
        part._close()


def read_part(folder: Path) -> dict[str, Any]:
    """Return ``format``, ``entries`` and ``notes`` of a part.

    Raises:
        UserError: there is no whole part.
    """
    path = folder / PART_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(f"{path}: expected a part's entries, got none; delete {folder} to make it again") from None
    return content
