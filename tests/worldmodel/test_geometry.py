"""Geometry against SciPy, against itself there and back, and against matrices recorded from the original CALVIN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from worldmodel import geometry


def _poses(n: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    rotation = torch.from_numpy(Rotation.random(n, rng=random).as_matrix())
    return geometry.compose(rotation, torch.from_numpy(random.normal(size=(n, 3))))


def test_quaternions_agree_with_scipy() -> None:
    poses = _poses(200)
    expected = torch.from_numpy(Rotation.from_matrix(poses[:, :3, :3].numpy()).as_quat(canonical=True))
    ours = geometry.quaternion_from_matrix(poses[:, :3, :3])
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(geometry.matrix_from_quaternion(3.7 * ours), poses[:, :3, :3])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, np.pi / 2, np.pi, -np.pi, 1e-9, 3.14159]), min_size=3, max_size=3))
def test_half_turns_survive_the_quaternion(angles: list[float]) -> None:
    rotation = torch.from_numpy(Rotation.from_euler("xyz", angles).as_matrix())
    there_and_back = geometry.matrix_from_quaternion(geometry.quaternion_from_matrix(rotation))
    torch.testing.assert_close(there_and_back, rotation, atol=1e-7, rtol=0)


def test_an_encoding_comes_back() -> None:
    poses, fov = _poses(20), torch.rand(20, 2, dtype=torch.float64) + 0.2
    encoding = geometry.encode_pose(poses, fov)
    assert encoding.shape == (20, geometry.ENCODING_DIM)
    decoded, decoded_fov = geometry.decode_pose(encoding)
    torch.testing.assert_close(decoded, poses)
    torch.testing.assert_close(decoded_fov, fov)


def test_field_of_view_is_vertical_first() -> None:
    intrinsics = geometry.intrinsics_from_fov(torch.tensor([np.deg2rad(40.0), np.deg2rad(90.0)]), (60, 100))
    assert intrinsics[0, 0].item() == pytest.approx(50.0)
    assert intrinsics[1, 1].item() == pytest.approx(30 / np.tan(np.deg2rad(20.0)), rel=1e-5)
    fov = geometry.fov_from_intrinsics(intrinsics, (60, 100))
    torch.testing.assert_close(torch.rad2deg(fov).float(), torch.tensor([40.0, 90.0]))


def test_inverse_and_transform() -> None:
    poses = _poses(5)
    points = torch.randn(5, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(geometry.invert(poses) @ poses, torch.eye(4, dtype=torch.float64).expand(5, 4, 4))
    back = geometry.transform(geometry.invert(poses), geometry.transform(poses, points))
    torch.testing.assert_close(back, points)


def test_projection_undoes_unprojection_also_after_resizing() -> None:
    intrinsics = torch.tensor([[100.0, 0, 31], [0, 90, 22], [0, 0, 1]])
    depth = torch.rand(2, 40, 60) + 1.0
    points = geometry.unproject_map(depth, intrinsics.expand(2, 3, 3))
    pixels, z = geometry.project(points.flatten(1, 2), intrinsics.expand(2, 3, 3))
    torch.testing.assert_close(pixels[0].reshape(40, 60, 2), geometry.pixel_centres(40, 60), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.reshape(2, 40, 60), depth)
    half = geometry.resize_intrinsics(intrinsics, (40, 60), (20, 120))
    smaller, _ = geometry.project(points.flatten(1, 2), half.expand(2, 3, 3))
    torch.testing.assert_close(smaller, pixels * torch.tensor([2.0, 0.5]), atol=1e-4, rtol=0)


def test_sampling_at_pixel_centres_reads_the_pixels() -> None:
    values = torch.randn(2, 5, 6, 3)
    centres = geometry.pixel_centres(5, 6).reshape(1, -1, 2).expand(2, -1, -1)
    torch.testing.assert_close(geometry.sample_map(values, centres), values.flatten(1, 2))


def test_pose_error_measures_centres_and_angles() -> None:
    true = _poses(50)
    turn = torch.from_numpy(Rotation.from_euler("z", 0.01, degrees=True).as_matrix())
    shift = geometry.compose(turn.expand(50, 3, 3), torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64).expand(50, 3))
    distance, angle = geometry.pose_error(shift @ true, true)
    torch.testing.assert_close(distance, torch.full((50,), 5.0, dtype=torch.float64))
    torch.testing.assert_close(angle, torch.full((50,), 0.01, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.shared
def test_recorded_depth_lies_on_the_recorded_table(shared: Path) -> None:
    """Unprojected with the original's static camera, the most frequent height of a depth image is the table's."""
    folder = shared / "calvin" / "ref" / "trajectories"
    frame = json.loads((folder / "seed00_cameras.json").read_text())["frames"]["0"]
    view = torch.tensor(frame["static_view"], dtype=torch.float64).reshape(4, 4).T
    camera_from_world = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)) @ view
    depth = torch.from_numpy(np.load(folder.parents[1] / "calvin_debug_D/training/episode_0358482.npz")["depth_static"])
    fov = torch.full((2,), np.deg2rad(10.0), dtype=torch.float64)
    points = geometry.unproject_map(depth.double(), geometry.intrinsics_from_fov(fov, (200, 200)))
    world = geometry.transform(geometry.invert(camera_from_world), points.flatten(0, 1))
    near_table = world[(world[:, :2].abs() < 0.15).all(dim=1)]
    assert near_table[:, 2].median().item() == pytest.approx(0.46, abs=0.05)
