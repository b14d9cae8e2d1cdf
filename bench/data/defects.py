"""What a check finds: rows that say what is wrong where, and the report they stand in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Defect:
    """One fault in a data set.

    Attributes:
        file: the file or folder at fault.
        frame: number of the (first) frame that it concerns, or None.
        what: the fault, in words.
    """

    file: str
    frame: int | None
    what: str


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and what is wrong with it.

    Attributes:
        frames: in the ranges of all splits.
        episodes: of all splits.
        windows: language windows that lie in an episode.
        defects: by file and frame; none for a sound data set.
    """

    frames: int
    episodes: int
    windows: int
    defects: tuple[Defect, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON data."""
        return asdict(self) | {"defects": [asdict(defect) for defect in self.defects]}
