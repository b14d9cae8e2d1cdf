"""Writing a split: episodes and parts in their order, a journal of what is whole, and the index at the end.

Frames go to a hidden folder beside the split; ``finish`` writes the index files and renames the folder, so a split that
exists is complete and a killed run goes on where it stopped.  The two forms of frames are
:class:`~bench.data.calvin.CalvinWriter` and :class:`~bench.data.calvin.pack_writer.PackWriter`.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from bench import atomic
from bench.data.calvin.index import Embed, write_index
from bench.data.calvin.part import Format, read_part
from bench.data.calvin.reader import CalvinDataset
from bench.data.calvin.recorded import Entry
from bench.errors import UserError

JOURNAL_FILE = "journal.jsonl"


class SplitWriter(ABC):
    """Strings together the parts of one split.

    Attributes:
        directory: folder of the finished split.
    """

    form: Format

    def __init__(self, directory: Path | str, split: str = "training", *, first_frame: int = 0) -> None:
        """Open a new split, or one that an earlier run left unfinished.

        Args:
            directory: root of the data set.
            split: ``"training"`` or ``"validation"``.
            first_frame: number of the first frame of a new split; the splits of a data set share one numbering.

        Raises:
            UserError: the split is already finished.
        """
        self.directory = Path(directory) / split
        if self.directory.exists():
            raise UserError(f"{self.directory}: expected a new split, it exists already; choose another folder")
        self._partial = atomic.make_directory(Path(directory) / f".{split}.partial")
        self._journal = self._partial / JOURNAL_FILE
        self._entries = _read_journal(self._journal)
        self._names = {entry["name"] for entry in self._entries}
        self._scenes = {entry["scene"] for entry in self._entries}
        self._parts: dict[str, int] = {}
        for entry in self._entries:
            self._parts.setdefault(entry["part"], entry["first"])
        self._first_frame = first_frame

    @property
    def done(self) -> frozenset[str]:
        """Names of the episodes that are already written."""
        return frozenset(self._names)

    def __len__(self) -> int:
        """Return the number of frames written."""
        return sum(entry["frames"] for entry in self._entries)

    @property
    def _next_frame(self) -> int:
        return self._entries[-1]["first"] + self._entries[-1]["frames"] if self._entries else self._first_frame

    def adopt(self, folder: Path) -> None:
        """Take over the frames of a part, as the next in order; one that was taken over before is not taken twice.

        The journal is written before the files are moved: a run that is killed in between adopts the part again and
        moves what is left of it.

        Raises:
            UserError: no whole part of this writer's form is there, or a scene returns.
        """
        part = read_part(folder)
        if part["format"] != self.form:
            raise UserError(f"{folder}: expected a part in the form {self.form}, got {part['format']}; delete it")
        if folder.name not in self._parts:
            self._enter(part["entries"], folder.name)
        self._take(folder)

    @abstractmethod
    def _take(self, folder: Path) -> None:
        """Move the files of an entered part, as far as they are still there."""

    def _enter(self, entries: Sequence[Entry], part: str) -> None:
        """Put episodes into the journal; their frames follow those of the episode before."""
        self._check_scenes(entries)
        numbered, first = [], self._next_frame
        for entry in entries:
            numbered.append({**entry, "first": first, "part": part})
            first += entry["frames"]
        _append(self._journal, json.dumps(numbered) + "\n")
        self._entries += numbered
        self._names |= {entry["name"] for entry in numbered}
        self._scenes |= {entry["scene"] for entry in numbered}
        self._parts.setdefault(part, numbered[0]["first"])

    def _check_scenes(self, entries: Sequence[Entry]) -> None:
        before = self._entries[-1]["scene"] if self._entries else ""
        for scene in [entry["scene"] for entry in entries]:
            if scene != before and scene in self._scenes:
                raise UserError(
                    f"scene {scene}: expected its episodes in a row, got them after {before}; sort by scene"
                )
            before = scene

    def finish(self, embed: Embed | None = None) -> CalvinDataset:
        """Write the index files, give the split its name and return it opened.

        Args:
            embed: sentences to embeddings (N, D); without one the file's embeddings are NaN.

        Raises:
            UserError: no episode was written.
        """
        if not self._entries:
            raise UserError(f"{self.directory}: expected at least one episode, got none; collect some first")
        write_index(self._partial, self._entries, self._entries[0]["first"], embed)
        self._complete()
        self._journal.unlink()
        self._partial.rename(self.directory)
        return CalvinDataset(self.directory.parent, self.directory.name)

    @abstractmethod
    def _complete(self) -> None:
        """Write what this form of frames needs besides the index."""


def _append(path: Path, line: str) -> None:
    """Add a line to the journal, whole or not at all: on a full disk the journal is as before."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("a") as journal:
            journal.write(line)
            journal.flush()
            os.fsync(journal.fileno())
    except OSError:
        if path.is_file():
            os.truncate(path, size)
        raise


def _read_journal(path: Path) -> list[Entry]:
    """Return the entries of the whole lines of the journal and cut off a torn last one."""
    if not path.is_file():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        atomic.write_text(path, whole)
    try:
        return [entry for line in whole.splitlines() for entry in json.loads(line)]
    except ValueError:
        raise UserError(
            f"{path}: expected JSON lines, got damaged ones; delete {path.parent} and begin again"
        ) from None
