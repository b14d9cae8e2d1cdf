"""What robot policy servers and their clients say to each other: two protocols as data, and both ways of translating.

openpi (``serving/websocket_policy_server.py``): metadata on connecting, then a map of observations for a map with
``actions`` (K, A); a text frame is an error.  vla-eval (``protocol/messages.py``): maps of ``type``, ``payload``,
``seq`` and ``timestamp``; hello, episode_start, observation, action, episode_end, error.

Neither carries a seed or says what an action means.  Ours add both under names that others ignore: ``seed`` in a
request, and the policy's spec in the greeting.  Not here: sockets (:mod:`policies.remote`, :mod:`policies.server`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import ANCHOR, PROPRIO_DIM, WRIST, ActionConvention, Observation, PolicyError, PolicySpec
from policies.wire import WireError, pack_openpi, pack_vla_eval

SPEC_KEY = "wristworld_bench"
"""Where our own servers' greeting carries the policy's spec."""
WEIGHTS_KEY = "wristworld_bench_weights"
"""And there, the hash of its weights: what tells two checkpoints behind one address apart."""
SEED_KEY = "seed"
CHUNKS_KEY = "whole_chunks"
"""In a vla-eval hello of ours: answer with whole chunks, not with one action after the other."""
MOST_SEED = 2**64 - 1
LONGEST_INSTRUCTION = 1000
SIDES = (16, 2048)
"""Smallest and largest side of a view, pixels."""


@dataclass(frozen=True)
class Keys:
    """What the things in an observation are called on the wire; ``a/b`` is the key ``a/b`` or ``b`` in the map ``a``.

    Attributes:
        views: view name to key.
        instruction: key of the sentence.
        proprio: key of the robot's state.
        proprio_entries: which entries of CALVIN's ``robot_obs`` a client sends, in order.
    """

    views: Mapping[str, str]
    instruction: str
    proprio: str
    proprio_entries: tuple[int, ...] = tuple(range(PROPRIO_DIM))

    def renamed(self, names: Mapping[str, str]) -> Keys:
        """Return these keys with other names: of views, of ``instruction``, of ``proprio``."""
        views = dict(self.views)
        fields: dict[str, Any] = {}
        for name, key in names.items():
            if name in ("instruction", "proprio"):
                fields[name] = key
            else:
                views[name] = key
        return replace(self, views=views, **fields)


@dataclass(frozen=True)
class Dialect:
    """One protocol.

    Attributes:
        name: as typed by the user.
        keys: what it calls things by default.
        nested: whether a client sends ``a/b`` as a map in a map.
        pack: message to bytes.
    """

    name: str
    keys: Keys
    nested: bool
    pack: Callable[[Any], bytes]


OPENPI = Dialect(
    "openpi",
    Keys({ANCHOR: "observation/image", WRIST: "observation/wrist_image"}, "prompt", "observation/state"),
    nested=False,
    pack=pack_openpi,
)
VLA_EVAL = Dialect(
    "vla-eval",
    Keys({ANCHOR: "images/rgb_static", WRIST: "images/rgb_gripper"}, "task_description", "states"),
    nested=True,
    pack=pack_vla_eval,
)
"""Camera names are those of vla-eval's CALVIN benchmark."""
DIALECTS = {dialect.name: dialect for dialect in (OPENPI, VLA_EVAL)}


def to_payload(observation: Observation, seed: int, dialect: Dialect, keys: Keys) -> dict[str, Any]:
    """Return an observation as the map that is sent; views without a key are left out."""
    if not 0 <= int(seed) <= MOST_SEED:
        raise PolicyError(f"seed {seed}: a seed of 0 to 2^64 - 1 can be sent to a server")
    things: dict[str, Any] = {key: observation.views[v] for v, key in keys.views.items() if v in observation.views}
    things[keys.instruction] = observation.instruction
    if observation.proprio is not None:
        things[keys.proprio] = np.ascontiguousarray(observation.proprio[list(keys.proprio_entries)])
    payload: dict[str, Any] = {SEED_KEY: int(seed)}
    for key, value in things.items():
        head, slash, tail = key.partition("/")
        if dialect.nested and slash:
            payload.setdefault(head, {})[tail] = value
        else:
            payload[key] = value
    return payload


def from_payload(payload: Any, spec: PolicySpec, keys: Keys) -> tuple[Observation, int]:
    """Return the observation and the seed in a map that a client sent; what the policy does not read is dropped.

    A request without a seed gets one made from its content, so that the same question has the same answer.

    Raises:
        WireError: not a map, or something in it is not what it has to be; the message names the key.
    """
    if not isinstance(payload, dict):
        raise WireError(f"expected a map of observations, got {type(payload).__name__}")
    views = {}
    for view, key in keys.views.items():
        if view in spec.views and (image := find(payload, key)) is not None:
            views[view] = _image(image, key)
    lacking = [f"{view} (key {keys.views.get(view)!r})" for view in spec.missing_views(list(views))]
    if lacking:
        raise WireError(f"the policy needs view {', '.join(lacking)}; got keys {sorted(map(str, payload))[:12]}")
    instruction = find(payload, keys.instruction)
    if not isinstance(instruction, str) or len(instruction) > LONGEST_INSTRUCTION:
        raise WireError(f"{keys.instruction!r}: expected a sentence of at most {LONGEST_INSTRUCTION} characters")
    proprio = _proprio(find(payload, keys.proprio), keys.proprio) if spec.uses_proprio else None
    observation = Observation(views, instruction, proprio)
    seed = payload.get(SEED_KEY)
    if seed is None:
        seed = content_seed(observation)
    if type(seed) is not int or not 0 <= seed <= MOST_SEED:
        raise WireError(f"{SEED_KEY!r}: expected a whole number from 0 to 2^64 - 1")
    return observation, seed


def find(payload: Mapping[Any, Any], key: str) -> Any:
    """Return what stands under ``key``, or under its parts one in the other, or None."""
    if key in payload:
        return payload[key]
    head, slash, tail = key.partition("/")
    inner = payload.get(head) if slash else None
    return find(inner, tail) if isinstance(inner, Mapping) else None


def content_seed(observation: Observation) -> int:
    """Return a 63-bit seed made from an observation's content."""
    digest = hashlib.blake2b(observation.instruction.encode("utf-8", "surrogatepass"), digest_size=8)
    for name in sorted(observation.views):
        digest.update(name.encode() + observation.views[name].tobytes())
    if observation.proprio is not None:
        digest.update(observation.proprio.tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def _image(image: Any, key: str) -> NDArray[np.uint8]:
    least, most = SIDES
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise WireError(f"{key!r}: expected a uint8 image (H, W, 3), got {what}")
    if not all(least <= side <= most for side in image.shape[:2]):
        raise WireError(f"{key!r}: expected sides of {least} to {most} pixels, got {image.shape[:2]}")
    return image


def _proprio(state: Any, key: str) -> NDArray[np.float32]:
    try:
        values = np.asarray(state, np.float32)
    except (TypeError, ValueError):
        values = np.empty(0, np.float32)
    if values.shape != (PROPRIO_DIM,) or not np.isfinite(values).all():
        raise WireError(f"{key!r}: the policy needs {PROPRIO_DIM} finite numbers laid out as CALVIN's robot_obs")
    return values


def vla_eval_message(kind: str, payload: Mapping[str, Any], seq: int = 0) -> dict[str, Any]:
    """Return a vla-eval message; ``kind`` is its type's word."""
    return {"type": kind, "payload": dict(payload), "seq": seq, "timestamp": time.time()}


def read_vla_eval(message: Any) -> tuple[str, dict[Any, Any], int]:
    """Return type, payload and seq of a vla-eval message.

    Raises:
        WireError: it is none.
    """
    if not isinstance(message, dict):
        raise WireError(f"expected a vla-eval message (a map), got {type(message).__name__}")
    kind, payload, seq = message.get("type"), message.get("payload"), message.get("seq", 0)
    if not isinstance(kind, str) or not isinstance(payload, dict) or type(seq) is not int:
        raise WireError("expected a vla-eval message: type (text), payload (a map), seq (a whole number)")
    return kind, payload, seq


_POSITIONS = {"relative": "delta_xyz", "absolute": "absolute_xyz"}
_ROTATIONS = {"euler_xyz": ("euler_xyz", 3), "axis_angle": ("axis_angle", 3), "quaternion_xyzw": ("quaternion_xyzw", 4)}


def vla_eval_action_spec(actions: ActionConvention) -> dict[str, dict[str, Any]]:
    """Return an action convention as far as vla-eval's ``DimSpec`` can say it (it has no units and no rate)."""
    rotation, dims = _ROTATIONS.get(actions.rotation, ("raw", 0))
    gripper = "binary_close_negative" if actions.gripper_open > 0 else "binary_close_positive"
    return {
        "position": {"name": "position", "dims": 3, "format": _POSITIONS[actions.frame]},
        "rotation": {"name": "rotation", "dims": dims, "format": rotation},
        "gripper": {"name": "gripper", "dims": 1, "format": gripper, "range": [-1.0, 1.0]},
    }


def vla_eval_contradictions(declared: Any, actions: ActionConvention) -> list[str]:
    """Return where a vla-eval server's own ``action_spec`` contradicts ``actions``; ``raw`` contradicts nothing."""
    if not isinstance(declared, Mapping):
        return []
    found = []
    for part, wanted in vla_eval_action_spec(actions).items():
        said = declared.get(part)
        said = said.get("format") if isinstance(said, Mapping) else None
        if isinstance(said, str) and "raw" not in (said, wanted["format"]) and said != wanted["format"]:
            found.append(f"{part}: server says {said[:40]!r}, declared {wanted['format']!r}")
    return found
