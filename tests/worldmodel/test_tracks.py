"""Pairs of the simulator tracker show the same spot, respect visibility, and say clearly what they lack."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from worldmodel import geometry
from worldmodel.api import Camera, Clip, WorldModelError
from worldmodel.tracks import Pairs, SimulatorTracker, query_grid

SIZE = (40, 50)
INTRINSICS = np.array([[40.0, 0, 25], [0, 40, 20], [0, 0, 1]])


def _plane_depth(camera_from_world: np.ndarray) -> np.ndarray:
    """Return the depth image of the plane z = 0 of the world."""
    rays = geometry.unproject_map(torch.ones(SIZE, dtype=torch.float64), torch.from_numpy(INTRINSICS)).numpy()
    world_from_camera = np.linalg.inv(camera_from_world)
    directions = rays @ world_from_camera[:3, :3].T
    return (-world_from_camera[2, 3] / directions[..., 2]).astype(np.float32)


def _looking_down(x: float, tilt: float, turn: float) -> np.ndarray:
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = Rotation.from_euler("zx", [turn, np.pi + tilt]).as_matrix()
    world_from_camera[:3, 3] = [x, 0.1, 1.0]
    return np.linalg.inv(world_from_camera)


@pytest.fixture
def clip() -> Clip:
    wrist = np.stack([_looking_down(0.1 * t, 0.2, 0.5) for t in range(3)])
    anchor = np.stack([_looking_down(-0.1, -0.2, 0.0)] * 3)
    images = np.zeros((3, *SIZE, 3), dtype=np.uint8)
    return Clip(
        views={"anchor": images, "wrist": images},
        cameras={"anchor": Camera(INTRINSICS, anchor), "wrist": Camera(INTRINSICS, wrist)},
        depth={
            "anchor": np.stack([_plane_depth(pose) for pose in anchor]),
            "wrist": np.stack([_plane_depth(pose) for pose in wrist]),
        },
    )


def _on_plane(pixels: np.ndarray, camera_from_world: np.ndarray) -> np.ndarray:
    rays = np.concatenate([(pixels - INTRINSICS[:2, 2]) / 40.0, np.ones((len(pixels), 1))], axis=1)
    world_from_camera = np.linalg.inv(camera_from_world)
    directions = rays @ world_from_camera[:3, :3].T
    scale = -world_from_camera[2, 3] / directions[:, 2:]
    return (world_from_camera[:3, 3] + scale * directions)[:, :2]


def test_both_pixels_see_the_same_spot(clip: Clip) -> None:
    found = SimulatorTracker(count=12, tolerance_m=0.1).pairs(clip)
    assert [len(pairs) > 30 for pairs in found] == [True] * 3
    for t, pairs in enumerate(found):
        wrist_pose, anchor_pose = (clip.cameras[name].camera_from_world for name in ("wrist", "anchor"))
        assert wrist_pose is not None
        assert anchor_pose is not None
        difference = _on_plane(pairs.wrist, wrist_pose[t]) - _on_plane(pairs.anchor, anchor_pose[t])
        # The wrist's depth is read at the nearest pixel, so up to half a pixel (2 cm here) may lie between them.
        assert np.abs(difference).max() < 0.03


def test_what_the_anchor_does_not_see_is_left_out(clip: Clip) -> None:
    hidden = clip.depth["anchor"].copy()
    hidden[:, :, :25] -= 0.5
    blocked = dataclasses.replace(clip, depth={**clip.depth, "anchor": hidden})
    for free, pairs in zip(SimulatorTracker().pairs(clip), SimulatorTracker().pairs(blocked), strict=True):
        assert (free.anchor[:, 0] < 25).any()
        assert (pairs.anchor[:, 0] >= 25).all()


def test_noise_and_drop_out_are_repeatable(clip: Clip) -> None:
    noisy = SimulatorTracker(noise_px=1.0, drop=0.5)
    first, again, clean = noisy.pairs(clip)[0], noisy.pairs(clip)[0], SimulatorTracker().pairs(clip)[0]
    np.testing.assert_array_equal(first.anchor, again.anchor)
    assert 0.35 * len(clean) < len(first) < 0.65 * len(clean)


def test_missing_recordings_are_named(clip: Clip) -> None:
    with pytest.raises(WorldModelError, match="no 'wrist' view"):
        SimulatorTracker().pairs(clip.without("wrist"))
    with pytest.raises(WorldModelError, match="no depth for view 'wrist'"):
        SimulatorTracker().pairs(dataclasses.replace(clip, depth={"anchor": clip.depth["anchor"]}))
    with pytest.raises(WorldModelError, match="no camera matrices for view 'anchor'"):
        SimulatorTracker().pairs(dataclasses.replace(clip, cameras={"wrist": clip.cameras["wrist"]}))


def test_settings_and_shapes_are_checked() -> None:
    with pytest.raises(WorldModelError, match="no pairs"):
        SimulatorTracker(drop=1.0)
    with pytest.raises(WorldModelError, match="pairs"):
        Pairs(
            np.zeros((2, 2), np.float32), np.zeros((3, 2), np.float32), np.zeros(2, np.int64), np.zeros(2, np.float32)
        )


def test_queries_keep_their_margin() -> None:
    grid = query_grid((518, 518), 32, 32 / 518)
    assert grid.shape == (1024, 2)
    assert grid.min().item() == pytest.approx(32.0)
    assert grid.max().item() == pytest.approx(486.0)
