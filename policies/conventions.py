"""Turning actions of one convention into those of another, where that is exact, and refusing where it is not.

Exact are: other units, the other sign of the gripper, and, of absolute poses, another way to write a rotation.  Not
exact are: another rate; relative rotations written otherwise (small Euler steps are not small turns about an axis); and
absolute targets for relative ones, which takes the controller's running target.  Rotations are scipy's; Euler angles
turn about the fixed axes x, y, z in that order, as PyBullet's do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policies.api import ACTION_DIM, CALVIN_ACTIONS, ActionConvention, Observation, Policy, PolicyError, PolicySpec

ROTATION_WIDTH = {"euler_xyz": 3, "axis_angle": 3, "quaternion_xyzw": 4, "rotation_6d": 6}
"""How many numbers a rotation takes; ``rotation_6d`` is a matrix' first column, then its second."""

METRIC_ACTIONS = replace(CALVIN_ACTIONS, metres_per_unit=1.0, radians_per_unit=1.0)
"""Steps in metres and radians, as vla-eval's CALVIN benchmark adds them to its target (``benchmarks/calvin``)."""

NAMED = {"calvin": CALVIN_ACTIONS, "metric": METRIC_ACTIONS}
"""Conventions that users may call by name."""

Conversion = Callable[[NDArray[np.floating]], NDArray[np.float32]]


def width(convention: ActionConvention) -> int:
    """Return how many numbers an action of ``convention`` has.

    Raises:
        PolicyError: an unknown kind of rotation.
    """
    if convention.rotation not in ROTATION_WIDTH:
        raise PolicyError(f"rotation {convention.rotation!r}: expected one of {sorted(ROTATION_WIDTH)}")
    return ACTION_DIM - 3 + ROTATION_WIDTH[convention.rotation]


def conversion(theirs: ActionConvention, ours: ActionConvention) -> Conversion:
    """Return what turns (…, A) actions meant as ``theirs`` into the same motions as (…, A') of ``ours``.

    Raises:
        PolicyError: it cannot be done exactly; the message names every reason.
    """
    _refuse(theirs, ours)
    metres = theirs.metres_per_unit / ours.metres_per_unit
    radians = theirs.radians_per_unit / ours.radians_per_unit
    sign = ours.gripper_open / theirs.gripper_open

    def convert(actions: NDArray[np.floating]) -> NDArray[np.float32]:
        actions = np.asarray(actions, np.float64)
        position, rotation, gripper = actions[..., :3], actions[..., 3:-1], actions[..., -1:]
        if theirs.rotation == ours.rotation:
            turned = rotation * radians if theirs.rotation in ("euler_xyz", "axis_angle") else rotation
        else:
            turned = rewrite(_in_radians(rotation, theirs), theirs.rotation, ours.rotation)
            turned = turned / ours.radians_per_unit if ROTATION_WIDTH[ours.rotation] == 3 else turned
        return np.concatenate([position * metres, turned, gripper * sign], -1).astype(np.float32)

    return convert


def _in_radians(rotation: NDArray[np.floating], convention: ActionConvention) -> NDArray[np.floating]:
    return rotation * convention.radians_per_unit if ROTATION_WIDTH[convention.rotation] == 3 else rotation


def _refuse(theirs: ActionConvention, ours: ActionConvention) -> None:
    width(theirs), width(ours)
    reasons = []
    if theirs.frame != ours.frame:
        reasons.append(f"{theirs.frame} for {ours.frame} needs the controller's running target")
    elif theirs.frame == "relative" and theirs.rotation != ours.rotation:
        reasons.append(f"relative rotations as {theirs.rotation} are not those as {ours.rotation}")
    if theirs.control_hz != ours.control_hz:
        reasons.append(f"{theirs.control_hz:g} actions a second are not {ours.control_hz:g}")
    units = (theirs.metres_per_unit, theirs.radians_per_unit, ours.metres_per_unit, ours.radians_per_unit)
    if not all(np.isfinite(unit) and unit > 0 for unit in units):
        reasons.append(f"units must be positive, got {units}")
    if theirs.gripper_open == 0 or ours.gripper_open == 0:
        reasons.append("a gripper that opens at 0 has no other sign to close at")
    if reasons:
        raise PolicyError(f"actions cannot be converted exactly: {'; '.join(reasons)}; convert them in the policy")


def rewrite(rotation: NDArray[np.floating], source: str, target: str) -> NDArray[np.float64]:
    """Return rotations (…, n) written as ``source`` (angles in radians) written as ``target``."""
    from scipy.spatial.transform import Rotation

    rotation = np.asarray(rotation, np.float64)
    flat = rotation.reshape(-1, ROTATION_WIDTH[source])
    made = {
        "euler_xyz": lambda: Rotation.from_euler("xyz", flat),
        "axis_angle": lambda: Rotation.from_rotvec(flat),
        "quaternion_xyzw": lambda: Rotation.from_quat(flat),
        "rotation_6d": lambda: Rotation.from_matrix(_matrix_from_columns(flat)),
    }[source]()
    written = {
        "euler_xyz": lambda: made.as_euler("xyz"),
        "axis_angle": made.as_rotvec,
        "quaternion_xyzw": made.as_quat,
        "rotation_6d": lambda: made.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(-1, 6),
    }[target]()
    return np.asarray(written, np.float64).reshape(*rotation.shape[:-1], ROTATION_WIDTH[target])


def _matrix_from_columns(columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (N, 3, 3) from (N, 6): the columns made orthonormal, the third their cross product."""
    first, second = columns[:, :3], columns[:, 3:]
    first = first / np.linalg.norm(first, axis=-1, keepdims=True)
    second = second - (first * second).sum(-1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=-1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=-1)


class Converted:
    """A policy whose actions are given in another convention.

    Args:
        policy: any policy.
        actions: the convention that its actions are turned into; seven numbers long.

    Raises:
        PolicyError: that cannot be done exactly.
    """

    def __init__(self, policy: Policy, actions: ActionConvention) -> None:
        self._policy, self._convert = policy, conversion(policy.spec.actions, actions)
        if width(actions) != ACTION_DIM:
            raise PolicyError(f"rotation {actions.rotation!r}: a policy's actions have {ACTION_DIM} numbers")
        self._spec = replace(policy.spec, actions=actions)

    @property
    def spec(self) -> PolicySpec:
        """The policy's spec with the other convention."""
        return self._spec

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (B, K, 7)."""
        return self._convert(self._policy.act(batch, seeds))
