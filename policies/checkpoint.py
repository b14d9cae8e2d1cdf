"""A policy as a folder: ``config.json`` and ``model.safetensors``, nothing pickled.

``config.json`` is written last and holds the weights' hash, so a folder that has it and matches is whole.  Which policy
fits which rollout (arm, views, action convention) is decided here, before anything runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.api import CALVIN_ACTIONS, ActionConvention, PolicyError, PolicySpec

if TYPE_CHECKING:
    import torch

    from policies.flow import FlowPolicy

FORMAT = "wristworld-policy"
VERSION = 2
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SENTENCES_KEY = "sentence_table.embeddings"


def write_whole(path: Path, data: bytes) -> None:
    """Write beside ``path``, sync, rename: ``path`` is never half-written.  A full disk is a ``PolicyError``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PolicyError(
            f"cannot write {path}: {reason}; free space or choose another folder, then run again"
        ) from error


def check_fit(
    spec: PolicySpec,
    *,
    where: Path | str,
    expect_arm: str | None = None,
    views: Sequence[str] | None = None,
    actions: ActionConvention | None = None,
) -> None:
    """Refuse a policy that does not fit a rollout, saying both sides.

    Args:
        spec: the policy's.
        where: named in the message.
        expect_arm: the arm that is to be scored.
        views: the views that the rollout offers.
        actions: the action convention of the world.
    """
    if expect_arm is not None and spec.arm is not None and spec.arm != expect_arm:
        raise PolicyError(
            f"{where}: trained for arm {spec.arm!r}, but arm {expect_arm!r} is to be scored; give that arm's checkpoint"
        )
    missing = spec.missing_views(views) if views is not None else []
    if missing:
        raise PolicyError(
            f"{where}: the policy (arm {spec.arm!r}) needs views {list(spec.views)}, the rollout offers "
            f"{list(views or ())}; missing: {missing}"
        )
    differences = spec.actions.differences(actions) if actions is not None else []
    if differences:
        raise PolicyError(f"{where}: action convention differs (policy != world): {'; '.join(differences)}")


def save(policy: FlowPolicy, directory: Path | str) -> None:
    """Write ``policy`` to ``directory`` (made if absent); a checkpoint that is there is replaced."""
    from safetensors.torch import save as to_bytes

    directory = Path(directory)
    tensors = {name: tensor.contiguous() for name, tensor in policy.network.state_dict().items()}
    tensors[SENTENCES_KEY] = _as_tensor(policy.sentences.embeddings)
    weights = to_bytes(tensors)
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": policy.config.kind,
        "spec": policy.spec.to_json(),
        "architecture": policy.config.to_json(),
        "parameters": policy.network.parameters_count(),
        "normaliser": policy.normaliser.to_json(),
        "sentences": {"encoder": policy.sentences.encoder, "sentences": list(policy.sentences.sentences)},
        "view_sizes": {name: list(size) for name, size in policy.view_sizes.items()},
        "data_hash": policy.data_hash,
        "training": policy.training,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    (directory / CONFIG_FILE).unlink(missing_ok=True)
    config["beside"] = policy.network.save_beside(directory)
    write_whole(directory / WEIGHTS_FILE, weights)
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    write_whole(directory / CONFIG_FILE, text.encode())


def read_config(directory: Path | str) -> dict[str, Any]:
    """Return ``config.json`` after checking that it is one of ours and of this version."""
    path = Path(directory) / CONFIG_FILE
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise PolicyError(
            f"{directory}: no {CONFIG_FILE}: not a finished policy; train it (again) or give its folder"
        ) from None
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: unreadable ({str(error).splitlines()[0]}); restore it or train again") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PolicyError(f"{path}: expected format {FORMAT!r}; this is not a policy checkpoint of this project")
    if data.get("version") != VERSION:
        raise PolicyError(
            f"{path}: expected version {VERSION}, got {data.get('version')!r}; use the release that wrote it"
        )
    return data


def load(
    directory: Path | str,
    *,
    device: str | torch.device = "cpu",
    expect_arm: str | None = None,
    views: Sequence[str] | None = None,
    actions: ActionConvention | None = CALVIN_ACTIONS,
    pad_to: int | None = None,
) -> FlowPolicy:
    """Read a folder written by :func:`save` and check that it fits (see :func:`check_fit`).

    Raises:
        PolicyError: the folder is missing, incomplete, corrupt, of another version, arm or convention.
    """
    from policies.flow import FlowPolicy
    from policies.kinds import config_class, new_network
    from policies.normalise import Normaliser
    from policies.text import SentenceTable

    directory = Path(directory)
    data = read_config(directory)
    try:
        spec = PolicySpec.from_json(data["spec"])
        check_fit(spec, where=directory, expect_arm=expect_arm, views=views, actions=actions)
        config = config_class(data["kind"]).from_json(data["architecture"])
        normaliser = Normaliser.from_json(data["normaliser"])
        sentences = tuple(data["sentences"]["sentences"])
        encoder, weights_hash = data["sentences"]["encoder"], data["weights_sha256"]
        view_sizes = {name: (int(size[0]), int(size[1])) for name, size in data["view_sizes"].items()}
    except PolicyError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise PolicyError(f"{directory / CONFIG_FILE}: damaged entry ({error!r}); restore it or train again") from None
    tensors = read_weights(directory / WEIGHTS_FILE, weights_hash)
    embeddings = tensors.pop(SENTENCES_KEY, None)
    if embeddings is None:
        raise PolicyError(f"{directory / WEIGHTS_FILE}: no sentence table; restore the file or train again")
    network = new_network(config)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise PolicyError(
            f"{directory}: weights do not fit config.json ({_short(error)}); restore the folder"
        ) from None
    network.load_beside(directory, data.get("beside") or {})
    return FlowPolicy(
        network,
        spec,
        normaliser,
        SentenceTable(encoder, sentences, np.array(embeddings.numpy())),
        data_hash=str(data.get("data_hash", "")),
        training=data.get("training"),
        view_sizes=view_sizes,
        device=device,
        weights_hash=str(weights_hash),
        pad_to=pad_to,
    )


def read_weights(path: Path, expected_hash: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file; one whose hash (SHA-256) is another is refused."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != expected_hash:
            raise PolicyError(
                f"{path}: truncated or changed (hash differs from {CONFIG_FILE}); restore it or train again"
            )
        return from_bytes(data)
    except PolicyError:
        raise
    except FileNotFoundError:
        raise PolicyError(f"{path}: missing; restore it or train again") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise PolicyError(f"{path}: unreadable ({_short(error)}); restore it or train again") from None


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:157] + "..."


def same_training(record: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Return ``name: there != wanted`` for each entry of ``identity`` that a recorded training does not share.

    Of settings within settings only those that differ are named.
    """
    differing = []
    for name, wanted in identity.items():
        there = record.get(name)
        if isinstance(there, Mapping) and isinstance(wanted, Mapping):
            everything = dict.fromkeys(there) | dict(wanted)
            differing += [f"{name}.{one}" for one in same_training(there, everything)]
        elif there != wanted:
            differing.append(f"{name}: {there!r} != {wanted!r}")
    return differing
