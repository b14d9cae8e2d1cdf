"""What a training leaves on disk while it runs, the state to continue from and the history of its loss; and its bar.

The state is one safetensors file (weights, averaged weights, AdamW's moments; step and identity in its header),
replaced whole, so a kill at any moment leaves the previous state.  The loop itself is in :mod:`policies.loop`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from policies.api import PolicyError
from policies.checkpoint import CONFIG_FILE, load, read_config, same_training, write_whole
from policies.flow import FlowPolicy
from policies.tracking import Tracker, scalars

STATE_FILE = "resume.safetensors"
HISTORY_FILE = "history.jsonl"


def training_bar(show: bool) -> Progress:
    """Return a bar of steps on stderr; its tasks have a field ``loss``."""
    return Progress(
        TextColumn("train {task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not show,
    )  # fmt: skip


class History:
    """``history.jsonl``: one row per logged step; rows after the step that a run continues from are dropped.

    Args:
        directory: the training's folder.
        step: the step that the training continues from.
        tracker: also told of every row, or None.
    """

    def __init__(self, directory: Path, step: int, tracker: Tracker | None = None) -> None:
        self.path = directory / HISTORY_FILE
        self.rows: list[dict[str, Any]] = []
        self.last_loss: float | None = None
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                if row["step"] <= step:
                    self._keep(row)
        self._tracker = tracker

    def _keep(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.last_loss = row.get("loss", self.last_loss)

    def add(self, step: int, **values: Any) -> None:
        """Keep one row; it reaches the disk with :meth:`flush`."""
        self._keep({"step": step, **values})
        if self._tracker is not None:
            self._tracker.add(step, scalars(values))

    def flush(self) -> None:
        """Write the file, whole."""
        write_whole(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows).encode())

    def close(self) -> None:
        """Write the file and end the tracker."""
        self.flush()
        if self._tracker is not None:
            self._tracker.close()


def finished(directory: Path, identity: dict[str, Any], device: torch.device) -> FlowPolicy | None:
    """Return the policy that ``directory`` holds, None if there is none; one of another training is refused."""
    if not (directory / CONFIG_FILE).exists():
        return None
    data = read_config(directory)
    refuse_other(directory, dict(data.get("training") or {}, config=data.get("architecture")), identity)
    return load(directory, device=device)


def refuse_other(directory: Path, found: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse to continue where ``found`` is the record of a training other than ``identity``."""
    there, wanted = dict(found), dict(identity)
    there_config, wanted_config = there.pop("config") or {}, wanted.pop("config")
    changed = same_training(there, wanted) + same_training(there_config, wanted_config)
    if changed:
        raise PolicyError(
            f"{directory} holds another training ({'; '.join(changed)}); "
            "choose another folder, or resume=False to replace it"
        )


def save_state(
    directory: Path,
    identity: dict[str, Any],
    step: int,
    elapsed: float,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.AdamW,
) -> None:
    """Replace the state by that after ``step`` steps and ``elapsed`` seconds of training."""
    from safetensors.torch import save as to_bytes

    tensors = {f"network.{name}": value.contiguous() for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value.contiguous() for name, value in average.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value.contiguous() for name, value in state.items()}
    metadata = {"identity": json.dumps(identity), "step": str(step), "elapsed_s": repr(elapsed)}
    write_whole(directory / STATE_FILE, to_bytes(tensors, metadata))


def _match_layout(states: dict[int, dict[str, Tensor]], optimiser: torch.optim.AdamW) -> None:
    """Give each moment its parameter's memory order: AdamW's fused step pairs them value by value in memory."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, state in states.items():
        for name, value in state.items():
            if value.shape == parameters[number].shape:
                state[name] = torch.empty_like(parameters[number]).copy_(value)


def restore_state(
    directory: Path,
    identity: dict[str, Any],
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.AdamW,
) -> tuple[int, float]:
    """Put the saved state back and return its step and training time; (0, 0.0) if there is none."""
    from safetensors import SafetensorError, safe_open

    path = directory / STATE_FILE
    if not path.exists():
        return 0, 0.0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            refuse_other(directory, json.loads(metadata["identity"]), identity)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            number, key = name.split(".", 1)
            states.setdefault(int(number), {})[key] = value
        network.load_state_dict(parts["network"])
        average.load_state_dict(parts["average"])
        _match_layout(states, optimiser)
        optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
        return int(metadata["step"]), float(metadata["elapsed_s"])
    except PolicyError:
        raise
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise PolicyError(f"{path}: unreadable ({reason}); delete it to start this training again") from None


def remove_state(directory: Path) -> None:
    """Delete the state of a training that has ended: it is four times as large as the policy."""
    (directory / STATE_FILE).unlink(missing_ok=True)
