"""One row of a check: what is wrong, where."""

from __future__ import annotations

from dataclasses import dataclass


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
