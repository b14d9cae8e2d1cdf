"""A progress bar for rollouts on standard error: chains done, average length so far, time left."""

from __future__ import annotations

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
        self._solved: list[int] = []
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
        self._solved.append(result.solved)
        mean = sum(self._solved) / len(self._solved)
        self._bar.update(self._task, advance=1, note=f"{result.arm} · average length {mean:.2f}")

    def missing(self, chain_id: int, reason: str) -> None:
        """Count a chain that was given up, and say why."""
        self._bar.console.print(f"chain {chain_id} is missing: {reason}", style="yellow")
        self._bar.update(self._task, advance=1)
