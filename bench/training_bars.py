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
def training_bars(folders: Mapping[str, Path], stages: Mapping[str, int], show: bool) -> Iterator[None]:
    """Draw one bar on stderr for each stage of each training while the block runs.

    Args:
        folders: name to checkpoint folder.
        stages: folder of each stage of a training, within the training's (``.`` for itself), and its steps.
        show: draw at all.
    """
    bars = Progress(
        TextColumn("train {task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn(), console=Console(stderr=True),
        disable=not show or not folders,
    )  # fmt: skip
    over = threading.Event()

    def follow() -> None:
        tasks = {
            folder / stage / HISTORY: bars.add_task(f"{name} {stage.strip('.')}".rstrip(), total=steps, loss="–")
            for name, folder in folders.items()
            for stage, steps in stages.items()
        }
        last = False
        while not last:
            last = over.wait(EVERY_S)
            for history, task in tasks.items():
                row = last_row(history)
                if row is not None:
                    bars.update(task, completed=row[0], loss=f"{row[1]:.4f}")

    with bars:
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()
