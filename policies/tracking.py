"""Where a training's curves go besides ``history.jsonl``: TensorBoard, Weights & Biases or Trackio, each optional.

A tracker is told numbers by step and nothing else; it never decides anything.  None of the three packages is imported,
or has to be installed, unless its name is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from policies.api import PolicyError

NONE = "none"
PROJECT = "wristworld-bench"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""Tracker to the package that it needs, which is also this package's extra."""

TRACKERS = (NONE, *PACKAGES)


class Tracker(Protocol):
    """Takes the numbers of a training as they come."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


class _TensorBoard:
    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the one that a killed run continues from are taken again: what was said of them is dropped.
        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Hosted:
    """Weights & Biases, and Trackio, which took over its calls."""

    def __init__(self, package: Any, run: Mapping[str, Any]) -> None:
        self._package = package
        package.init(project=PROJECT, **run)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._package.log(dict(values), step=step)

    def close(self) -> None:
        self._package.finish()


def check_tracker(name: str) -> None:
    """Refuse a tracker that is not known or not installed, before anything is trained.

    Raises:
        PolicyError: with the command that installs it.
    """
    if name not in TRACKERS:
        raise PolicyError(f"log: expected one of {', '.join(TRACKERS)}, got {name!r}")
    if name != NONE and find_spec(PACKAGES[name]) is None:
        raise PolicyError(f"log {name!r}: not installed; pip install {PACKAGES[name]}, or log 'none'")


def open_tracker(name: str, directory: Path, step: int, run: str, config: Mapping[str, Any]) -> Tracker | None:
    """Return the tracker called ``name`` for one training, None for ``none``.

    Args:
        name: one of :data:`TRACKERS`.
        directory: the training's folder; TensorBoard writes into ``tensorboard/`` of it.
        step: the step that the training continues from, 0 for a new one.
        run: what the run is called there.
        config: the training's settings, for those that show them.

    Raises:
        PolicyError: no such tracker, or it is not installed.
    """
    check_tracker(name)
    if name == NONE:
        return None
    if name == "tensorboard":
        return _TensorBoard(directory, step)
    if name == "trackio":
        import trackio

        return _Hosted(trackio, {"name": run, "config": dict(config), "resume": "allow", "embed": False})
    import wandb

    identity = hashlib.blake2b(str(directory.resolve()).encode(), digest_size=8).hexdigest()
    return _Hosted(
        wandb, {"name": run, "config": dict(config), "resume": "allow", "id": identity, "dir": str(directory)}
    )


def scalars(values: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """Return the fractional numbers of nested JSON data by path: ``validation/task_error/open_drawer``."""
    found: dict[str, float] = {}
    for name, value in values.items():
        path = f"{above}/{name}" if above else name
        if isinstance(value, Mapping):
            found |= scalars(value, path)
        elif isinstance(value, float):
            found[path] = value
    return found
