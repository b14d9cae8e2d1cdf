"""Condition maps equal a picture painted point by point, far to near, and keep their rules at the edges."""

from __future__ import annotations

import numpy as np
import torch

from worldmodel import geometry
from worldmodel.splat import disc, splat

EYE = torch.eye(4)
FOV = torch.tensor([[1.3, 1.1]])


def _painted(
    points: np.ndarray, colours: np.ndarray, fov: torch.Tensor, size: tuple[int, int], radius: float
) -> np.ndarray:
    """Paint discs one after the other, farthest first: the rule as WristWorld's release carries it out."""
    intrinsics = geometry.intrinsics_from_fov(fov, size).numpy()
    picture = np.zeros((*size, 3), dtype=np.uint8)
    for index in np.argsort(-points[:, 2], kind="stable"):
        x, y, z = points[index]
        if z <= 0.01:
            continue
        column = int(np.floor(intrinsics[0, 0] * x / z + intrinsics[0, 2]))
        row = int(np.floor(intrinsics[1, 1] * y / z + intrinsics[1, 2]))
        for dy, dx in disc(radius):
            if 0 <= row + dy < size[0] and 0 <= column + dx < size[1]:
                picture[row + dy, column + dx] = colours[index]
    return picture


def test_equals_painting_far_to_near() -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(400, 3)).astype(np.float32) + np.array([0, 0, 1.0], dtype=np.float32)
    colours = random.integers(1, 256, size=(400, 3)).astype(np.uint8)
    for radius in (0, 1, 2, 2.5):
        picture, depth = splat(
            torch.from_numpy(points)[None], torch.from_numpy(colours)[None], EYE[None], FOV, (30, 40), radius=radius
        )
        expected = _painted(points, colours, FOV[0], (30, 40), radius)
        np.testing.assert_array_equal(picture[0].numpy(), expected)
        assert torch.equal(torch.isinf(depth[0]), torch.from_numpy(expected.sum(axis=2) == 0))


def test_every_frame_has_its_own_camera() -> None:
    points = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(2, 1, 3)
    colours = torch.full((2, 1, 3), 255, dtype=torch.uint8)
    poses = torch.stack([EYE, EYE]).clone()
    poses[1, 0, 3] = 100.0
    picture, _ = splat(points, colours, poses, FOV.expand(2, 2), (20, 20))
    assert picture[0, 10, 10].tolist() == [255, 255, 255]
    assert picture[1].sum() == 0


def test_points_that_cannot_be_drawn_leave_it_black() -> None:
    points = torch.tensor([[[0.0, 0, -1], [0, 0, 0.005], [float("nan"), 0, 1], [float("inf"), 0, 1], [1e30, 0, 1e-1]]])
    picture, depth = splat(points, torch.full((1, 5, 3), 9, dtype=torch.uint8), EYE[None], FOV, (8, 8))
    assert picture.sum() == 0
    assert torch.isinf(depth).all()


def test_a_disc_of_two_pixels() -> None:
    assert len(disc(2)) == 13
    assert disc(0) == [(0, 0)]
