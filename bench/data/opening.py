"""One way into every data set: the folder's own files say which format it is.

CALVIN (frame files or packed), LeRobot v2.0 to v3.0 (DROID and Franka recordings among them), raw DROID episodes, and
folders of plain videos.  Not here: reading any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.data import droid
from bench.data.calvin import SPLITS, CalvinDataset
from bench.data.calvin import describe as describe_calvin
from bench.data.defects import CheckReport
from bench.data.episode import Dataset
from bench.data.lerobot import LeRobotDataset
from bench.errors import UserError

CALVIN, LEROBOT, DROID = "calvin", "lerobot", "droid"
_KNOWN = (
    "a CALVIN data set (training/ or validation/), a LeRobot one (meta/info.json), or raw DROID episodes "
    "(trajectory.h5, or wrist.mp4 beside ext1.mp4)"
)


def detect(directory: Path | str) -> str:
    """Return which reader a folder needs: ``"calvin"``, ``"lerobot"`` or ``"droid"``.

    Raises:
        UserError: it is none of them.
    """
    root = Path(directory)
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise UserError(f"{root}: expected {_KNOWN}, got {found}; check the path")
    if (root / "meta" / "info.json").is_file():
        return LEROBOT
    if any((root / split).is_dir() for split in SPLITS):
        return CALVIN
    if droid.find_episodes(root, limit=1):
        return DROID
    raise UserError(f"{root}: expected {_KNOWN}, got none of them; check the path")


def open_dataset(
    directory: Path | str,
    split: str = "training",
    *,
    mapping: Path | None = None,
    size: tuple[int, int] | None = None,
    workers: int = 1,
) -> Dataset:
    """Open a data set of any known format; no frame is read.

    Args:
        directory: its folder.
        split: ``"training"`` or ``"validation"``, for CALVIN, the one format that has them.
        mapping: a YAML file that names anchors and wrist (:mod:`bench.data.lerobot.rig_file`), for LeRobot folders.
        size: (height, width) to scale pictures of videos to; None keeps the stored size.
        workers: threads that unpack CALVIN's frames.

    Raises:
        UserError: an unknown format, a damaged index, or an argument that the format does not have.
    """
    kind = detect(directory)
    if mapping is not None and kind != LEROBOT:
        raise UserError(f"{directory}: expected a mapping with a LeRobot folder alone, got a {kind} one; leave it out")
    if kind == LEROBOT:
        return LeRobotDataset(directory, mapping=mapping, size=size)
    if kind == DROID:
        return droid.DroidDataset(directory, size=size)
    if size is not None:
        raise UserError(f"{directory}: expected a size with videos alone, got a CALVIN data set; leave it out")
    return CalvinDataset(directory, split, workers=workers)


def describe(directory: Path | str, mapping: Path | None = None) -> dict[str, Any]:
    """Return what a data set of any format holds, as JSON data.

    Raises:
        UserError: an unknown format, or a damaged index.
    """
    if detect(directory) == CALVIN:
        return describe_calvin(directory)
    opened = open_dataset(directory, mapping=mapping)
    told: dict[str, Any] = opened.describe()  # type: ignore[attr-defined]
    return {"directory": str(directory)} | told


def check_dataset(
    directory: Path | str, *, mapping: Path | None = None, each: Callable[[int], object] | None = None
) -> CheckReport:
    """Read everything in a data set of any format and report what is wrong.

    Args:
        directory: its folder.
        mapping: see :func:`open_dataset`.
        each: called with the number of frames done since the last call.

    Raises:
        UserError: an unknown format.
    """
    kind = detect(directory)
    if kind == LEROBOT:
        from bench.data.lerobot.check import check_lerobot

        return check_lerobot(directory, mapping=mapping, each=each)
    if kind == DROID:
        from bench.data.droid.check import check_droid

        return check_droid(directory, each=each)
    from bench.data.calvin.check import check

    return check(directory, each=each)


def count_frames(directory: Path | str) -> int:
    """Return the number of frames of a data set, of all splits; those of a part that does not open are left out."""
    kind = detect(directory)
    splits = [split for split in SPLITS if (Path(directory) / split).is_dir()] if kind == CALVIN else ["training"]
    total = 0
    for split in splits:
        with suppress(UserError):
            total += len(open_dataset(directory, split))
    return total
