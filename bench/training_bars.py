"""Progress bars for trainings that run in other processes, read from the loss history that each of them appends to.

Nothing is asked of the trainings: whoever writes ``history.jsonl`` with ``step`` and ``loss`` is shown.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

HISTORY = "history.jsonl"
EVERY_S = 1.0


def last_row(history: Path) -> tuple[int, float] | None:
    """Return (step, loss) of the newest whole row that has a loss, or None where there is none yet."""
    try:
        lines = history.read_text().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
            return int(row["step"]), float(row["loss"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


@contextmanager
def training_bars(folders: Mapping[str, Path], steps: int, show: bool) -> Iterator[None]:
    """Draw one bar on stderr for each training while the block runs.

    Args:
        folders: name to checkpoint folder.
        steps: how many steps each of them takes.
        show: draw at all.
    """
    bars = Progress(
        TextColumn("train {task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn(), console=Console(stderr=True),
        disable=not show or not folders,
    )  # fmt: skip
    over = threading.Event()

    def follow() -> None:
        tasks = {name: bars.add_task(name, total=steps, loss="–") for name in folders}
        last = False
        while not last:
            last = over.wait(EVERY_S)
            for name, folder in folders.items():
                row = last_row(folder / HISTORY)
                if row is not None:
                    bars.update(tasks[name], completed=row[0], loss=f"{row[1]:.4f}")

    with bars:
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()
