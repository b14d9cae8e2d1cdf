"""The records that every reader hands out, so that training never knows where data came from.

Not here: any file format.  A reader supplies a :class:`FrameSource`; an episode is otherwise a few numbers and words,
so that a data set of millions of frames stays small in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from bench.data.rig import CALVIN, Rig
from bench.errors import UserError


class FrameSource(Protocol):
    """Reads frames by the numbers that the data set gives them."""

    def read(self, frames: range, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return key to array (T, …) for the T frames, in order.

        Raises:
            UserError: a frame or a key is missing or damaged.
        """
        ...

    def keys(self, frame: int) -> tuple[str, ...]:
        """Return the keys that are recorded in one frame."""
        ...


@dataclass(frozen=True)
class Window:
    """A stretch of an episode in which one instruction was carried out.

    Attributes:
        start: index of its first frame within the episode.
        stop: index after its last frame.
        task: the task's name, e.g. ``"open_drawer"``.
        instruction: the sentence.
    """

    start: int
    stop: int
    task: str
    instruction: str

    def __post_init__(self) -> None:
        """Refuse an empty stretch."""
        if not 0 <= self.start < self.stop:
            raise UserError(f"window of {self.task!r}: expected 0 <= start < stop, got {self.start}..{self.stop}")


@dataclass(frozen=True)
class Episode:
    """An unbroken recording.

    Attributes:
        id: unique within the data set; fit for a file name.
        scene: the scene's letter (``"A"`` to ``"D"``), or ``""`` where the data set does not tell.
        first: number of its first frame in the data set.
        last: number of its last frame, included.
        windows: its instructions, by start.
        source: where its frames are read from.
        rig: which of its keys are which cameras.
    """

    id: str
    scene: str
    first: int
    last: int
    windows: tuple[Window, ...]
    source: FrameSource = field(repr=False, compare=False)
    rig: Rig = field(default=CALVIN, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse an empty range and windows outside of it."""
        if self.last < self.first:
            raise UserError(f"episode {self.id}: expected first <= last, got {self.first}..{self.last}")
        for window in self.windows:
            if window.stop > len(self):
                raise UserError(f"episode {self.id}: {window} ends beyond its {len(self)} frames")

    def __len__(self) -> int:
        """Return T, the number of frames."""
        return self.last - self.first + 1

    def load(
        self, keys: Sequence[str], start: int = 0, stop: int | None = None, stride: int = 1
    ) -> dict[str, NDArray[Any]]:
        """Return key to array (T, …) of the frames ``start:stop:stride``.

        Args:
            keys: what to read, in the data set's own names.
            start: index of the first frame within the episode.
            stop: index after the last one; None means the end.
            stride: episode frames between two that are read.

        Raises:
            UserError: the range leaves the episode, or a frame or key is missing or damaged.
        """
        stop = len(self) if stop is None else stop
        if not (0 <= start < stop <= len(self) and stride >= 1):
            raise UserError(
                f"episode {self.id}: expected 0 <= start < stop <= {len(self)}, got {start}:{stop}:{stride}"
            )
        return self.source.read(range(self.first + start, self.first + stop, stride), keys)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys recorded in its first frame."""
        return self.source.keys(self.first)

    def instruction_at(self, start: int, stop: int) -> str:
        """Return the instruction whose window shares most frames with ``start:stop``, or ``""``."""
        shared = [(min(stop, window.stop) - max(start, window.start), window) for window in self.windows]
        best = max(shared, key=lambda pair: pair[0], default=None)
        return best[1].instruction if best is not None and best[0] > 0 else ""


class Dataset(Protocol):
    """What every reader is: episodes, and a few facts about all of them."""

    @property
    def directory(self) -> Path:
        """Its folder."""
        ...

    @property
    def format(self) -> str:
        """The format's name and version."""
        ...

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """Its episodes, in the order of its own numbers."""
        ...

    @property
    def windows(self) -> tuple[tuple[Episode, Window], ...]:
        """Every language window with its episode."""
        ...

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def __getitem__(self, identifier: str) -> Episode:
        """Return an episode by its id."""
        ...

    def hash(self) -> str:
        """Return what says whether two data sets hold the same recordings."""
        ...
