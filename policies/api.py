"""What a policy is: the types that cross the border between a policy and whoever rolls it out.

Not here: any network, any simulator, any file format. Only NumPy and the standard library are imported,
so a policy server or another repository can depend on this file alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

ACTION_DIM = 7
"""x, y, z, euler x, y, z, gripper."""

PROPRIO_DIM = 15
"""CALVIN's ``robot_obs``: TCP xyz (m), TCP euler xyz (rad), gripper width (m), 7 joints (rad), last gripper action."""

ANCHOR = "anchor"
WRIST = "wrist"


class PolicyError(ValueError):
    """A mistake the user can mend: wrong checkpoint, missing view, unknown preset. One line, no traceback."""


@dataclass(frozen=True)
class ActionConvention:
    """How the seven numbers of an action are meant; compared before a run, never guessed.

    Attributes:
        frame: ``"relative"`` (added to the controller's running target) or ``"absolute"`` (world frame).
        metres_per_unit: translation that 1.0 stands for.  CALVIN ``calvin_env/robot/robot.py``: 0.02.
        radians_per_unit: Euler angle that 1.0 stands for.  CALVIN: 0.05.
        rotation: order and kind of the rotation entries.
        gripper_open: the value that opens the gripper; the other sign closes it.
        control_hz: actions per second.
    """

    frame: str = "relative"
    metres_per_unit: float = 0.02
    radians_per_unit: float = 0.05
    rotation: str = "euler_xyz"
    gripper_open: float = 1.0
    control_hz: float = 30.0

    def differences(self, other: ActionConvention) -> list[str]:
        """Return one ``name: mine != theirs`` for each field in which the two conventions differ."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {mine[name]!r} != {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]


CALVIN_ACTIONS = ActionConvention()


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one moment.

    Attributes:
        views: camera name (``"anchor"``, ``"wrist"``, …) to uint8 image (H, W, 3), RGB, at the camera's own size.
            A view that does not exist is a missing key, never a black image.
        instruction: the sentence that says what to do.
        proprio: (15,) float32 in the layout of CALVIN's ``robot_obs``, or None.
    """

    views: Mapping[str, NDArray[np.uint8]]
    instruction: str
    proprio: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Refuse what is not an observation, by name."""
        for name, image in self.views.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise PolicyError(
                    f"view {name!r}: expected uint8 (H, W, 3), got {image.dtype} {image.shape}; convert it first"
                )
        if self.proprio is not None and self.proprio.shape != (PROPRIO_DIM,):
            raise PolicyError(f"proprio: expected ({PROPRIO_DIM},), got {self.proprio.shape}; pass robot_obs or None")


@dataclass(frozen=True)
class PolicySpec:
    """What a policy needs and gives; compared with the arm and the world before a rollout starts.

    Attributes:
        name: short name for tables.
        views: the views that the policy can read.  One that is absent at test must be in ``optional_views``.
        optional_views: views that may be missing (the network has a learned "absent view" token for them).
        chunk: K, actions predicted at a time.
        execute: how many of the K are carried out before the policy is asked again.
        arm: name of the experiment arm that it was trained for, or None where that has no meaning (scripted, random).
        actions: the action convention.
        uses_proprio: whether ``Observation.proprio`` is read.
    """

    name: str
    views: tuple[str, ...] = (ANCHOR, WRIST)
    optional_views: tuple[str, ...] = ()
    chunk: int = 10
    execute: int = 10
    arm: str | None = None
    actions: ActionConvention = field(default_factory=ActionConvention)
    uses_proprio: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible combinations, naming both values."""
        if not 1 <= self.execute <= self.chunk:
            raise PolicyError(f"execute {self.execute} must lie in 1..chunk ({self.chunk})")
        unknown = set(self.optional_views) - set(self.views)
        if unknown:
            raise PolicyError(f"optional views {sorted(unknown)} are not among the policy's views {list(self.views)}")

    def missing_views(self, available: Sequence[str]) -> list[str]:
        """Return the views that the policy must have and ``available`` lacks."""
        return [view for view in self.views if view not in available and view not in self.optional_views]

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PolicySpec:
        """Build a spec from :meth:`to_json`'s data."""
        values = dict(data)
        values["views"] = tuple(values["views"])
        values["optional_views"] = tuple(values.get("optional_views", ()))
        values["actions"] = ActionConvention(**values.get("actions", {}))
        return cls(**values)


@runtime_checkable
class Policy(Protocol):
    """A pure function from observations and seeds to action chunks.

    No hidden state and no reset: the same observation and seed give the same chunk whoever asks, in any order and
    in any batch, so any rollout worker may call it and a lost worker's chain can be run again elsewhere.
    """

    @property
    def spec(self) -> PolicySpec:
        """What the policy needs and gives."""
        ...

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (B, K, 7): one chunk for each observation, in ``spec.actions``' convention.

        Args:
            batch: B observations.
            seeds: B seeds, the only source of randomness.
        """
        ...


@runtime_checkable
class StatefulPolicy(Protocol):
    """A policy that remembers what it saw earlier in the same subtask; only where a model leaves no other way.

    It is asked in the worker's own process, once every ``spec.execute`` steps and in order; it can be neither batched
    nor served.
    """

    spec: PolicySpec

    def begin(self, seed: int) -> AbstractContextManager[Policy]:
        """Lend a policy for one subtask; all it remembers is forgotten when the subtask ends."""
        ...
