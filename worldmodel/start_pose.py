"""Where the wrist head starts: a pose that the pixel pairs alone give, so that training need not cross false minima.

Not here: training.  A squared reprojection error has false minima: a camera behind the scene, upside down, or far
away.  A network that starts in one of them stays there.  So a few moments are solved one by one, each from 24
orientations at once, by gradient descent on the SPC loss itself; the solution closest to all others is the start.
Only pairs and points are used, never a wrist pose.  (WristWorld starts from zero, which VGGT's pretrained features
and a metric scene near its prior seem to allow; a scene 4 m away seen through a 10 degree lens does not.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel import geometry
from worldmodel.spc import WEIGHT, reprojection


def solve_poses(
    points: Tensor,
    pixels: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    *,
    steps: int = 200,
    robust: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Find the camera pose of each of M moments from its pairs.

    Args:
        points: (M, K, 3), in a scene that measures about 1.
        pixels: (M, K, 2), their wrist pixels.
        intrinsics: (M, 3, 3) of the wrist camera.
        size: height and width of the wrist image.
        steps: optimizer steps.
        robust: error, as a share of the image's diagonal, beyond which the squared error becomes linear.

    Returns:
        Poses (M, 4, 4), ``wrist_from_points``, and their remaining loss (M,).
    """
    starts = cube_rotations().to(points)  # (24, 3, 3)
    moments, restarts = len(points), len(starts)
    middle = points.median(dim=1).values  # (M, 3)
    spread = 3 * (points - middle[:, None]).abs().median()
    ahead = torch.stack([torch.zeros_like(spread), torch.zeros_like(spread), 2 * spread])
    translation = (ahead - torch.einsum("rij,mj->mri", starts, middle)).flatten(0, 1).requires_grad_()
    quaternion = geometry.quaternion_from_matrix(starts).repeat(moments, 1).requires_grad_()
    every = (points, pixels, intrinsics)
    points, pixels, intrinsics = (value.repeat_interleave(restarts, dim=0) for value in every)
    optimizer = torch.optim.Adam([translation, quaternion], lr=0.08)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    diagonal = size[0] ** 2 + size[1] ** 2
    losses = points.new_zeros(len(points))
    for _ in range(steps):
        pose = geometry.compose(geometry.matrix_from_quaternion(quaternion), translation)
        error, depth = reprojection(points, pixels, pose, intrinsics)
        squared = error.square().sum(dim=-1) / diagonal
        bounded = 2 * robust**2 * (torch.sqrt(1 + squared / robust**2) - 1)
        # A point behind must cost more than any point in front, or hiding points behind the camera would pay.
        losses = torch.where(depth > 0, 0.5 * WEIGHT * bounded, WEIGHT * robust - depth).mean(dim=1)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        schedule.step()
    final = losses.detach().nan_to_num(torch.inf).view(moments, restarts)
    best = final.argmin(dim=1) + torch.arange(moments, device=final.device) * restarts
    pose = geometry.compose(geometry.matrix_from_quaternion(quaternion.detach()[best]), translation.detach()[best])
    return pose, final.min(dim=1).values


def central_pose(poses: Tensor) -> Tensor:
    """Return the one of (M, 4, 4) poses that is closest to all others: no average, so no outlier bends it."""
    count = len(poses)
    first, second = poses[:, None].expand(-1, count, -1, -1), poses[None].expand(count, -1, -1, -1)
    metres, degrees = geometry.pose_error(first, second)
    total = metres / metres.median().clamp_min(1e-6) + degrees / degrees.median().clamp_min(1e-6)
    return poses[total.sum(dim=1).argmin()]


def cube_rotations() -> Tensor:
    """Return the 24 rotations (24, 3, 3) of a cube: signed permutation matrices of determinant 1."""
    basis = torch.eye(3)
    rotations = []
    for order in [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)]:
        for signs in torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * 3):
            candidate = basis[list(order)] * signs[:, None]
            if torch.linalg.det(candidate) > 0:
                rotations.append(candidate)
    return torch.stack(rotations)
