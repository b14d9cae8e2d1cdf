"""Both cameras: OpenGL and OpenCV agree, and the wrist camera follows from ``robot_obs`` alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.calvin.camera import (
    CAMERAS,
    GRIPPER,
    STATIC,
    STATIC_EYE,
    STATIC_TARGET,
    camera_from_world,
    gripper_view_matrix,
    static_camera_from_world,
    static_view_matrix,
    wrist_camera_from_world,
)
from bench.calvin.env import CalvinEnv
from bench.errors import UserError


@pytest.fixture(scope="module")
def env() -> Iterator[CalvinEnv]:
    env = CalvinEnv("D", renderer="bullet-tiny", depth=True)
    env.reset(seed=0, options={"render_views": False})
    yield env
    env.close()


def test_wrist_camera_follows_from_robot_obs(env: CalvinEnv) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        observation, *_ = env.step(np.append(rng.uniform(-1, 1, 6), 1.0), render_views=False)
        expected = camera_from_world(gripper_view_matrix(env.world.robot.camera()))
        assert np.allclose(wrist_camera_from_world(observation["robot_obs"]), expected, atol=1e-5)


def test_wrist_camera_takes_a_batch(env: CalvinEnv) -> None:
    rows = np.random.default_rng(1).uniform(-1, 1, (2, 3, 15))
    poses = wrist_camera_from_world(rows)
    assert poses.shape == (2, 3, 4, 4)
    assert np.array_equal(poses[1, 2], wrist_camera_from_world(rows[1, 2]))
    with pytest.raises(UserError):
        wrist_camera_from_world(rows[..., :5])


def test_static_camera_looks_at_its_target() -> None:
    pose = static_camera_from_world()
    target = pose @ [*STATIC_TARGET, 1]
    assert np.allclose(target[:2], 0, atol=1e-5)
    assert target[2] == pytest.approx(np.linalg.norm(np.subtract(STATIC_EYE, STATIC_TARGET)), abs=1e-5)
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("camera", [STATIC, GRIPPER], ids=lambda camera: camera.name)
def test_intrinsics_agree_with_the_projection(camera) -> None:  # type: ignore[no-untyped-def]
    projection = np.array(camera.projection_matrix()).reshape(4, 4).T
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-0.1, 0.1, (20, 2)), rng.uniform(0.5, 1.5, 20)])
    clip = (projection @ np.column_stack([points * [1, -1, -1], np.ones(20)]).T).T
    device = clip[:, :2] / clip[:, 3:]
    pixels = np.column_stack([(device[:, 0] + 1) / 2, (1 - device[:, 1]) / 2]) * camera.size
    ours = (camera.intrinsics() @ points.T).T
    assert np.allclose(ours[:, :2] / ours[:, 2:], pixels, atol=1e-3)


def test_depth_and_pose_place_a_block_where_it_is(env: CalvinEnv) -> None:
    """Unproject the pixels of the pink block with depth, intrinsics and pose; they lie on the block."""
    env.reset(seed=2, options={"render_views": False})
    picture, depth = env.views()["rgb_static"].astype(int), env.depth_views()["depth_static"]
    rows, columns = np.nonzero((picture[..., 0] > 150) & (picture[..., 2] > 150) & (picture[..., 1] < 40))
    assert len(rows) > 10
    z = depth[rows, columns].astype(float)
    rays = np.linalg.inv(STATIC.intrinsics()) @ np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
    world = np.linalg.inv(static_camera_from_world()) @ np.vstack([rays * z, np.ones(len(rows))])
    centre = np.median(world[:3], axis=1)
    assert np.linalg.norm(centre - env.state().blocks["block_pink"].position) < 0.05


@pytest.mark.shared
def test_matrices_equal_the_originals_bit_for_bit(shared: Path) -> None:
    frames = json.loads((shared / "calvin/ref/trajectories/seed00_cameras.json").read_text())["frames"]
    for frame in frames.values():
        assert frame["static_view"] == static_view_matrix()
        assert frame["static_proj"] == STATIC.projection_matrix()
        assert frame["gripper_proj"] == GRIPPER.projection_matrix()
    assert set(CAMERAS) == {"static", "gripper"}
