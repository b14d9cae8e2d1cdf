"""Published VGGT weights into our network: by name and shape, with a report, and never half by accident.

Not here: checkpoints that this project writes itself (``worldmodel/checkpoint.py``).  Only safetensors are read.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldmodel.api import WorldModelError
from worldmodel.vggt.model import Vggt

FILE = "model.safetensors"
ENOUGH = 0.9
"""Share of the network's own tensors, wrist head aside, that must be found."""

OURS = ("wrist_head.", "camera_head.base_pose")
"""Tensors that VGGT does not have."""


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a source.

    Attributes:
        source: folder or id.
        matched: how many were taken over.
        missing: tensors of our network that the source lacks (wrist head aside).
        reshaped: tensors whose shapes differ, ``name: ours != theirs``.
        unused: tensors of the source that our network has no place for.
    """

    source: str
    matched: int
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    unused: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data for a checkpoint's provenance."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def load_pretrained(model: Vggt, source: str) -> LoadReport:
    """Copy the weights of ``source`` into ``model`` wherever name and shape agree.

    Args:
        model: changed in place.
        source: a local folder that holds ``model.safetensors`` (or its index and shards), or a Hugging Face id.

    Raises:
        WorldModelError: the source cannot be read, or fewer than nine tenths of the network's tensors are in it.
    """
    theirs = _read(source)
    ours = model.state_dict()
    wanted = {name for name in ours if not name.startswith(OURS)}
    taken = {name: theirs[name] for name in ours if name in theirs and theirs[name].shape == ours[name].shape}
    report = LoadReport(
        source=source,
        matched=len(taken),
        missing=tuple(sorted(wanted - set(theirs))),
        reshaped=tuple(
            f"{name}: {tuple(ours[name].shape)} != {tuple(theirs[name].shape)}"
            for name in sorted(wanted & set(theirs))
            if name not in taken
        ),
        unused=tuple(sorted(set(theirs) - set(ours))),
    )
    found = len(wanted & set(taken))
    if found < ENOUGH * len(wanted):
        example = (*report.reshaped, *report.missing)[0]
        raise WorldModelError(
            f"{source} fits only {found} of the {len(wanted)} VGGT tensors of this size (for example {example}): "
            "name weights of the same size"
        )
    with torch.no_grad():
        for name, value in taken.items():
            ours[name].copy_(value)
    return report


def _read(source: str) -> dict[str, Tensor]:
    folder = Path(source)
    if folder.is_dir():
        return _read_folder(folder)
    if source.count("/") != 1 or source.startswith(("/", ".")):
        raise WorldModelError(
            f"pretrained weights: {source!r} is neither a folder nor a Hugging Face id like owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(source, allow_patterns=["*.safetensors", "*.safetensors.index.json"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WorldModelError(
            f"cannot fetch {source!r} from Hugging Face ({reason}): give a local folder with {FILE}"
        ) from error
    return _read_folder(Path(found))


def _read_folder(folder: Path) -> dict[str, Tensor]:
    index = folder / f"{FILE}.index.json"
    if (folder / FILE).is_file():
        names = [FILE]
    elif index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        raise WorldModelError(f"{folder} holds no {FILE}: convert the weights to safetensors or name another folder")
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors.update(load_file(folder / name))
        except (OSError, SafetensorError) as error:
            raise WorldModelError(f"cannot read {folder / name}: {error}; copy it again") from error
    return tensors
