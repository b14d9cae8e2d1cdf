"""Turning actions of one convention into another: the same motion, or a refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from policies.api import CALVIN_ACTIONS, PolicyError
from policies.conventions import (
    METRIC_ACTIONS,
    ROTATION_WIDTH,
    Converted,
    conversion,
    rewrite,
    width,
)
from policies.simple import RandomPolicy

ABSOLUTE = replace(CALVIN_ACTIONS, frame="absolute", metres_per_unit=1.0, radians_per_unit=1.0)
KINDS = sorted(ROTATION_WIDTH)


def turns(count: int = 50) -> Rotation:
    return Rotation.random(count, random_state=0)


def as_matrix(written: np.ndarray, kind: str) -> np.ndarray:
    """The rotation's matrix by definitions of its own, not by the code under test."""
    if kind == "axis_angle":
        return Rotation.from_rotvec(written).as_matrix()
    if kind == "quaternion_xyzw":
        return Rotation.from_quat(written).as_matrix()
    if kind == "rotation_6d":
        first, second = written[..., :3], written[..., 3:]
        return np.stack([first, second, np.cross(first, second)], -1)
    x, y, z = written.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    about_x = np.array([[one, zero, zero], [zero, np.cos(x), -np.sin(x)], [zero, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), zero, np.sin(y)], [zero, one, zero], [-np.sin(y), zero, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), zero], [np.sin(z), np.cos(z), zero], [zero, zero, one]])
    return np.einsum("ijn,jkn,kln->nil", about_z, about_y, about_x)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_a_rotation_stays_the_same_however_it_is_written(source, target):
    matrices = turns().as_matrix()
    written = rewrite(turns().as_quat(), "quaternion_xyzw", source)
    np.testing.assert_allclose(as_matrix(rewrite(written, source, target), target), matrices, atol=1e-10)


def test_the_shape_before_the_rotation_is_kept():
    assert rewrite(np.zeros((2, 5, 3)), "euler_xyz", "rotation_6d").shape == (2, 5, 6)


def test_six_numbers_that_are_not_orthonormal_are_made_so():
    matrix = turns(1).as_matrix()[0]
    crooked = np.concatenate([3 * matrix[:, 0], matrix[:, 1] + 0.5 * matrix[:, 0]])
    np.testing.assert_allclose(as_matrix(rewrite(crooked, "rotation_6d", "rotation_6d"), "rotation_6d"), matrix)


def test_units_and_the_grippers_sign_are_changed():
    theirs = replace(CALVIN_ACTIONS, metres_per_unit=1.0, radians_per_unit=1.0, gripper_open=-1.0)
    actions = np.random.default_rng(0).uniform(-0.01, 0.01, (2, 4, 7))
    ours = conversion(theirs, CALVIN_ACTIONS)(actions)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[..., :3] * 0.02, actions[..., :3], rtol=1e-6)
    np.testing.assert_allclose(ours[..., 3:6] * 0.05, actions[..., 3:6], rtol=1e-6)
    np.testing.assert_allclose(ours[..., 6], -actions[..., 6], rtol=1e-6)


def test_the_same_convention_changes_nothing():
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 7)).astype(np.float32)
    np.testing.assert_array_equal(conversion(CALVIN_ACTIONS, CALVIN_ACTIONS)(actions), actions)


@pytest.mark.parametrize("kind", KINDS)
def test_absolute_poses_become_calvins(kind):
    theirs = replace(ABSOLUTE, rotation=kind)
    assert width(theirs) == 4 + ROTATION_WIDTH[kind]
    rotation = rewrite(turns(10).as_quat(), "quaternion_xyzw", kind)
    actions = np.concatenate([np.arange(30).reshape(10, 3), rotation, np.ones((10, 1))], -1)
    ours = conversion(theirs, replace(ABSOLUTE, radians_per_unit=0.5))(actions)
    assert ours.shape == (10, 7)
    np.testing.assert_allclose(as_matrix(ours[:, 3:6] * 0.5, "euler_xyz"), turns(10).as_matrix(), atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (ABSOLUTE, "running target"),
        (replace(CALVIN_ACTIONS, rotation="axis_angle"), "relative rotations"),
        (replace(CALVIN_ACTIONS, rotation="euler_zyx"), "expected one of"),
        (replace(CALVIN_ACTIONS, control_hz=10.0), "10 actions a second"),
        (replace(CALVIN_ACTIONS, gripper_open=0.0), "opens at 0"),
        (replace(CALVIN_ACTIONS, metres_per_unit=0.0), "positive"),
        (replace(CALVIN_ACTIONS, radians_per_unit=float("nan")), "positive"),
    ],
)
def test_what_is_not_exact_is_refused(theirs, reason):
    with pytest.raises(PolicyError, match=reason):
        conversion(theirs, CALVIN_ACTIONS)


def test_a_policy_can_be_served_in_metres_and_radians(observations):
    policy = Converted(RandomPolicy(), METRIC_ACTIONS)
    assert policy.spec.actions == METRIC_ACTIONS
    ours, metric = RandomPolicy().act(observations, range(5)), policy.act(observations, range(5))
    np.testing.assert_allclose(metric, ours * np.array([0.02] * 3 + [0.05] * 3 + [1]), rtol=1e-6)
    np.testing.assert_allclose(Converted(policy, CALVIN_ACTIONS).act(observations, range(5)), ours, rtol=1e-6)
    with pytest.raises(PolicyError, match="relative rotations"):
        Converted(RandomPolicy(), replace(CALVIN_ACTIONS, rotation="quaternion_xyzw"))
