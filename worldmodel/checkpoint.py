"""Checkpoints of both stages: one folder of safetensors and JSON, whole or not there at all.

Not here: what is in a checkpoint (each stage decides).  Two kinds of folder share the format:

* a *checkpoint* (:func:`save`, :func:`load`): configuration, weights, and what else must be remembered;
* a *training state* (:func:`save_training_state`, :func:`load_training_state`): the same plus optimizer and random
  number generators, so that a run that was killed continues as if it had not been.

Nothing is pickled: reading a folder of unknown origin cannot run code.  The data is written first under a name that
carries its hash, then ``checkpoint.json``, which names it, is renamed into place: that one rename is the commit, so
a reader sees the old checkpoint or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from worldmodel.api import WorldModelError

FORMAT = "wristworld-checkpoint/1"
INDEX = "checkpoint.json"


def _replace(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, flush it to disk and rename it over ``path``."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def save(
    directory: Path | str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], extra: Mapping[str, Any]
) -> None:
    """Write a checkpoint folder; an earlier checkpoint there stays valid until the new one is complete.

    Args:
        directory: the folder, made if need be.
        config: JSON data that rebuilds the model.
        tensors: name to tensor, any device; shared storage is copied out.
        extra: JSON data to keep beside it (provenance, history, scene scale, …).

    Raises:
        WorldModelError: ``config`` or ``extra`` is not JSON data or holds a NaN.
    """
    directory = Path(directory)
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    data = dump_tensors(plain)
    digest = hashlib.sha256(data).hexdigest()
    index: dict[str, Any] = {
        "format": FORMAT,
        "config": dict(config),
        "extra": dict(extra),
        "tensors": f"tensors-{digest[:16]}.safetensors",
        "sha256": digest,
    }
    try:
        text = json.dumps(index, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WorldModelError(f"checkpoint {directory}: config and extra must be finite JSON data: {error}") from error
    directory.mkdir(parents=True, exist_ok=True)
    _replace(directory / index["tensors"], data)
    _replace(directory / INDEX, (text + "\n").encode())
    for old in directory.glob("tensors-*.safetensors"):
        if old.name != index["tensors"]:
            old.unlink(missing_ok=True)


def load(directory: Path | str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint folder.

    Args:
        directory: a folder that :func:`save` wrote.

    Returns:
        The configuration, the tensors (on the CPU) and the extra data.

    Raises:
        WorldModelError: there is no checkpoint, or its data is damaged.
    """
    directory = Path(directory)
    path = directory / INDEX
    if not path.is_file():
        raise WorldModelError(f"no checkpoint in {directory}: expected {INDEX}; train the stage or name another folder")
    try:
        index = json.loads(path.read_text())
        version, name, digest = index["format"], index["tensors"], index["sha256"]
        config, extra = index["config"], index["extra"]
    except (ValueError, KeyError, TypeError) as error:
        raise WorldModelError(f"{path} is not a checkpoint index ({error!r}): fetch it again or train anew") from error
    if version != FORMAT:
        raise WorldModelError(f"{path}: expected format {FORMAT!r}, got {version!r}; use the release that wrote it")
    if Path(name).name != name or not (directory / name).is_file():
        raise WorldModelError(f"{path} names {name!r}, which is not in {directory}: copy the whole folder")
    data = (directory / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise WorldModelError(f"{directory / name} differs from its recorded hash: the file is damaged, copy it again")
    try:
        return config, load_tensors(data), extra
    except SafetensorError as error:
        raise WorldModelError(f"{directory / name} is not a safetensors file ({error}): train anew") from error


def weights_hash(directory: Path | str) -> str:
    """Return the SHA-256 of a checkpoint's tensors, for provenance.

    Raises:
        WorldModelError: there is no checkpoint in ``directory``.
    """
    path = Path(directory) / INDEX
    try:
        return str(json.loads(path.read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorldModelError(f"no readable checkpoint in {directory}: {error!r}") from error


@dataclass(frozen=True)
class TrainingState:
    """Everything a training run needs to go on.

    Attributes:
        config: JSON data of the run; a run with another configuration must refuse to continue from it.
        tensors: the model's weights.
        extra: JSON data: step, history, ….
        optimizer: tensors of the optimizer, flat names; given to :meth:`restore_optimizer`.
        optimizer_meta: the optimizer's parameter groups and scalar state.
        rng: random number generators, given to :meth:`restore_rng`.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    extra: dict[str, Any]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    optimizer_meta: dict[str, Any] = field(default_factory=dict)
    rng: dict[str, Any] = field(default_factory=dict)

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the saved moments and settings into ``optimizer``, built over the same parameters in the same order.

        Raises:
            WorldModelError: the optimizer has other parameters.
        """
        state: dict[int, dict[str, Any]] = {}
        for name, value in self.optimizer.items():
            index, key = name.split("/", 1)
            state.setdefault(int(index), {})[key] = value
        for index_text, scalars in self.optimizer_meta.get("scalars", {}).items():
            state.setdefault(int(index_text), {}).update(scalars)
        try:
            optimizer.load_state_dict({"state": state, "param_groups": self.optimizer_meta["param_groups"]})
        except (KeyError, ValueError) as error:
            raise WorldModelError(f"the saved optimizer does not fit this model ({error}): start anew") from error

    def restore_rng(self, numpy_generator: np.random.Generator | None = None) -> None:
        """Put torch's generators, and ``numpy_generator`` if given, back to where they were."""
        torch.set_rng_state(self.tensors_of_rng("torch"))
        if "cuda" in self.rng["tensors"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors_of_rng("cuda"))
        if numpy_generator is not None and self.rng.get("numpy") is not None:
            numpy_generator.bit_generator.state = self.rng["numpy"]

    def tensors_of_rng(self, name: str) -> Tensor:
        """Return one saved torch generator state as the byte tensor that torch wants."""
        return torch.tensor(list(bytes.fromhex(self.rng["tensors"][name])), dtype=torch.uint8)


def _generators(numpy_generator: np.random.Generator | None) -> dict[str, Any]:
    states = {"torch": torch.get_rng_state().numpy().tobytes().hex()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return {"tensors": states, "numpy": numpy_generator.bit_generator.state if numpy_generator is not None else None}


def save_training_state(
    directory: Path | str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    extra: Mapping[str, Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    numpy_generator: np.random.Generator | None = None,
) -> None:
    """Write a training state: weights, optimizer, random number generators, ``extra`` (step, history, …).

    Args:
        directory: the folder; an earlier state there stays valid until this one is complete.
        config: JSON data of the run.
        tensors: the model's weights.
        extra: JSON data.
        optimizer: its moments and settings are kept.
        numpy_generator: its state is kept beside torch's global ones (a PCG64 or another one with JSON-able state).

    Raises:
        WorldModelError: something is not JSON data.
    """
    packed = {f"model/{name}": value for name, value in tensors.items()}
    meta: dict[str, Any] = {}
    if optimizer is not None:
        state = optimizer.state_dict()
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    packed[f"optimizer/{index}/{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        meta = {"param_groups": state["param_groups"], "scalars": scalars}
    run = {"extra": dict(extra), "optimizer": meta, "rng": _generators(numpy_generator)}
    save(directory, config, packed, run)


def load_training_state(directory: Path | str) -> TrainingState | None:
    """Read a training state, or return None where none was ever completed.

    Raises:
        WorldModelError: there is one, but it is damaged.
    """
    if not (Path(directory) / INDEX).is_file():
        return None
    config, packed, run = load(directory)
    if "rng" not in run or "optimizer" not in run:
        raise WorldModelError(f"{directory} holds a finished checkpoint, not a training state: choose another folder")

    def below(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in packed.items() if name.startswith(prefix)}

    return TrainingState(
        config=config,
        tensors=below("model/"),
        extra=run["extra"],
        optimizer=below("optimizer/"),
        optimizer_meta=run["optimizer"],
        rng=run["rng"],
    )
