"""The SPC loss equals the written formula, its gradient leads to the pose, and the start needs no label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from worldmodel import geometry, spc
from worldmodel.start_pose import central_pose, cube_rotations, solve_poses

SIZE = (60, 80)
INTRINSICS = torch.tensor([[50.0, 0, 40], [0, 50, 30], [0, 0, 1]])


def _scene(moments: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return poses near one another, points around 0 and the pixels where they land."""
    random = np.random.default_rng(seed)
    base = Rotation.from_euler("xyz", [2.6, 0.3, 1.2])
    turns = Rotation.from_rotvec(random.normal(size=(moments, 3)) * 0.15) * base
    shift = random.normal(size=(moments, 3)) * 0.1 + np.array([0, 0, 2.0])
    poses = geometry.compose(torch.from_numpy(turns.as_matrix()), torch.from_numpy(shift)).float()
    points = torch.from_numpy(random.normal(size=(moments, 60, 3)) * 0.4).float()
    pixels, depth = geometry.project(geometry.transform(poses, points), INTRINSICS.expand(moments, 3, 3))
    assert (depth > 0).all()
    return poses, points, pixels


def test_equals_the_formula_point_by_point() -> None:
    poses, points, pixels = _scene(2)
    wrong = poses.clone()
    wrong[1, 2, 3] -= 2.0  # puts points of the second moment behind the camera
    valid = torch.rand(2, 60) > 0.3
    total = 0.0
    for b in range(2):
        for k in range(60):
            if not valid[b, k]:
                continue
            x, y, z = (wrong[b, :3, :3] @ points[b, k] + wrong[b, :3, 3]).tolist()
            if z > 0:
                near = max(z, spc.NEAR)
                u, v = 50 * x / near + 40, 50 * y / near + 30
                mean = ((u - pixels[b, k, 0]) ** 2 + (v - pixels[b, k, 1]) ** 2).item() / 2
                total += 30 * mean / (60**2 + 80**2)
            else:
                total += 0.7 * -z
    loss = spc.spc_loss(points, pixels, valid, wrong, INTRINSICS.expand(2, 3, 3), SIZE, behind_weight=0.7)
    assert loss.item() == pytest.approx(total / valid.sum().item(), rel=1e-4)


def test_the_true_pose_costs_nothing_and_no_pair_costs_nothing() -> None:
    poses, points, pixels = _scene(3)
    intrinsics, valid = INTRINSICS.expand(3, 3, 3), torch.ones(3, 60, dtype=torch.bool)
    assert spc.spc_loss(points, pixels, valid, poses, intrinsics, SIZE).item() == pytest.approx(0, abs=1e-8)
    assert spc.ray_loss(points, pixels, valid, poses, intrinsics).item() == pytest.approx(0.01, abs=1e-4)
    assert spc.spc_loss(points, pixels, ~valid, poses + 1, intrinsics, SIZE).item() == 0
    assert spc.median_pixels(points, pixels, ~valid, poses, intrinsics).item() == 0


def test_a_robust_loss_bounds_the_pull_of_a_wrong_pair() -> None:
    poses, points, pixels = _scene(1)
    valid = torch.ones(1, 60, dtype=torch.bool)
    pixels[0, 0] += 1e4
    arguments = (points, pixels, valid, poses, INTRINSICS[None], SIZE)
    assert spc.spc_loss(*arguments, robust=0.1) < 0.01 * spc.spc_loss(*arguments)


def test_poses_are_found_from_pairs_alone() -> None:
    poses, points, pixels = _scene(4)
    found, losses = solve_poses(points, pixels, INTRINSICS.expand(4, 3, 3), SIZE)
    distance, angle = geometry.pose_error(found, poses)
    assert distance.max() < 0.02
    assert angle.max() < 1.0
    assert losses.max() < 1e-3


def test_the_central_pose_ignores_an_outlier() -> None:
    poses, _, _ = _scene(6)
    poses[3, :3, 3] += 50.0
    centre = central_pose(poses)
    assert not torch.equal(centre, poses[3])
    assert any(torch.equal(centre, pose) for pose in poses)


def test_a_cube_has_24_rotations() -> None:
    rotations = cube_rotations()
    assert rotations.shape == (24, 3, 3)
    assert len({tuple(rotation.flatten().tolist()) for rotation in rotations}) == 24
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(24))
