"""The progress bar of whatever counts something: frames checked, demonstrations collected, views generated.

Trainings in other processes are followed by ``bench/training_bars.py``, rollouts by ``bench/rollout/progress.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """What the counting code calls as it gets on."""

    def __call__(self, done: int = 1, /, worked: int | None = None) -> None:
        """Count ``done`` more; ``worked`` is what the rate is shown of, where that is something else."""
        ...


@contextmanager
def counting(what: str, total: int | Callable[[], int], unit: str, *, show: bool) -> Iterator[Advance]:
    """Draw a bar on stderr while the block runs: done, out of how many, how many a second, time left.

    Args:
        what: what goes on.
        total: how many there are; a function is called only if the bar is drawn.
        unit: what the rate counts.
        show: draw at all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started, rated = time.monotonic(), 0
    rate = TextColumn("{task.fields[rate]:.0f} " + unit + "/s")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    console, known = Console(stderr=True), total if isinstance(total, int) else total() if show else 0
    bar = Progress(*columns, console=console, disable=not show)
    task = bar.add_task(what, total=known, rate=0.0)

    def advance(done: int = 1, /, worked: int | None = None) -> None:
        nonlocal rated
        bar.start()
        rated += done if worked is None else worked
        bar.update(task, advance=done, rate=rated / (time.monotonic() - started))

    if console.is_terminal:
        bar.start()  # elsewhere it is drawn when it ends, and not at all where nothing was counted
    try:
        yield advance
    except BaseException:
        bar.live.transient = bar.tasks[task].completed == 0  # the error must be the one line that stands there
        raise
    finally:
        if bar.live.is_started:
            bar.stop()
