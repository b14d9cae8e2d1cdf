"""How fast demonstrations are collected: frames a minute by form and by workers, and what the workers' time went on.

Every figure is of a whole collection, from the first process that starts to the last file in its place.  Not here: the
command line, and what is collected (:mod:`bench.demonstrations`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import atomic
from bench.data.calvin.part import FORMATS, Format
from bench.demonstrations import CollectOptions, collect
from bench.errors import UserError

_PREFIX = "wristbench-perf-collect-"
_KEPT = (
    "format", "episodes", "frames", "seconds", "timings", "frames_per_minute", "shares", "success_rate",
)  # fmt: skip


@contextmanager
def _thrown_away(folder: Path | None) -> Iterator[Path]:
    """Give a place for a data set that goes afterwards; what killed measurements left, gigabytes, goes before."""
    root = Path(tempfile.gettempdir()) if folder is None else atomic.make_directory(folder)
    for left in root.glob(f"{_PREFIX}*"):
        with suppress(UserError, OSError), atomic.locked(left):
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=root) as held, atomic.locked(Path(held)):
        yield Path(held) / "data"


def measure(
    options: CollectOptions,
    *,
    workers: Sequence[int] = (2,),
    formats: Sequence[Format] = FORMATS,
    folder: Path | None = None,
    ray_address: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Collect the same demonstrations once for every form and number of workers, and throw them away.

    Args:
        options: what to collect; its form is replaced.
        workers: numbers of processes; 0 is this one.
        formats: ``calvin`` and/or ``packed``.
        folder: on which disk they are written; None for the system's temporary folder.
        ray_address: a running Ray cluster, or None for this machine.
        progress: draw progress bars on stderr.

    Returns:
        ``scenes``, ``depth`` and ``runs``: of each what :func:`bench.demonstrations.collect` tells, ``workers`` and
        ``megabytes`` on disk.

    Raises:
        UserError: no run is asked for, or one cannot be made.
    """
    if not workers or not formats:
        raise UserError("perf collect: expected at least one number of workers and one format, got none")
    runs = []
    for form in formats:
        chosen = replace(options, format=form)
        for count in workers:
            with _thrown_away(folder) as place:
                made = collect(place, chosen, workers=count, progress=progress, ray_address=ray_address)
                size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            run = {"workers": count, **{key: made[key] for key in _KEPT}, "megabytes": round(size / 1e6, 1)}
            runs.append(run)
    return {"scenes": options.scenes, "depth": options.depth, "runs": runs}
