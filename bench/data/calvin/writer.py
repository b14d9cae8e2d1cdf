"""CALVIN's on-disk format, written: the files, keys and types of the original, readable by its own loader.

One compressed file a frame, numbered over the whole data set.  The journal and the index files are those of every
split (:mod:`bench.data.calvin.split_writer`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bench.data.calvin.part import write_frame
from bench.data.calvin.reader import frame_path
from bench.data.calvin.recorded import complete, entry_of
from bench.data.calvin.split_writer import SplitWriter
from bench.data.episode import Window

_WORKERS = 4


class CalvinWriter(SplitWriter):
    """Writes one split, episode by episode or part by part."""

    form = "calvin"

    def __init__(self, directory: Path | str, split: str = "training", *, first_frame: int = 0) -> None:
        """Open a new split, or one that an earlier run left unfinished; see :class:`SplitWriter`."""
        super().__init__(directory, split, first_frame=first_frame)
        written = {entry["first"] + index for entry in self._entries for index in range(entry["frames"])}
        for path in self._partial.glob("episode_*.npz"):
            if int(path.stem.removeprefix("episode_")) not in written:
                path.unlink()

    def add_episode(
        self, frames: Mapping[str, NDArray[Any]], windows: Sequence[Window] = (), scene: str = "D", name: str = ""
    ) -> str:
        """Write one episode and return its id.

        Args:
            frames: see :func:`bench.data.calvin.recorded.complete`.
            windows: its instructions, in indices of the T written frames.
            scene: the scene's letter; the episodes of a scene must follow one another.
            name: what to find it by in :attr:`done`.

        Raises:
            UserError: an array is missing or of another shape or type, a window ends outside, or a scene returns.
        """
        arrays = complete(frames)
        entry = entry_of(name, scene, arrays, windows)
        self._check_scenes([entry])
        first = self._next_frame

        def write(index: int) -> None:
            path = frame_path(self._partial, first + index)
            write_frame(path, {key: array[index] for key, array in arrays.items()})
            _sync(path)

        with ThreadPoolExecutor(_WORKERS) as pool:
            for _ in pool.map(write, range(entry["frames"])):
                pass
        self._enter([entry], "")
        return f"{first:07d}"

    def _take(self, folder: Path) -> None:
        first = self._parts[folder.name]
        with os.scandir(folder) as files:
            left = [file.name for file in files if file.name.endswith(".npz")]
        for name in left:
            (folder / name).rename(frame_path(self._partial, first + int(name.removesuffix(".npz"))))

    def _complete(self) -> None:
        """Nothing: CALVIN's frames need no more than the index."""


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
