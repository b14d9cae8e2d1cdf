"""A progress bar for rollouts on standard error: chains done, average length so far, time left."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.rollout.chain import ChainResult


class RolloutProgress:
    """Shows a bar on a terminal and nothing anywhere else.

    Args:
        total: chains altogether.
        before: chains that an earlier run finished.
        show: False for no bar even on a terminal.
    """

    def __init__(self, total: int, before: int = 0, *, show: bool = True) -> None:
        console = Console(stderr=True)
        self._solved: dict[str, list[int]] = {}
        self._bar = Progress(
            TextColumn("chains"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (show and console.is_terminal),
        )
        self._task = self._bar.add_task("chains", total=total, completed=before, note="")

    def __enter__(self) -> RolloutProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def done(self, result: ChainResult) -> None:
        """Count a finished chain."""
        solved = self._solved.setdefault(result.arm, [])
        solved.append(result.solved)
        self._bar.update(self._task, advance=1, note=f"{result.arm} · average length {running(solved)}")

    def missing(self, chain_id: int, reason: str) -> None:
        """Count a chain that was given up, and say why."""
        self._bar.console.print(f"chain {chain_id} is missing: {reason}", style="yellow")
        self._bar.update(self._task, advance=1)


def running(solved: Sequence[int]) -> str:
    """Return the mean of some chains' scores with its 95 % interval by the normal approximation, for a glance."""
    mean = statistics.fmean(solved)
    if len(solved) < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {1.96 * statistics.stdev(solved) / math.sqrt(len(solved)):.2f}"
