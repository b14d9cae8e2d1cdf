"""The spatial projection consistency (SPC) loss: points seen by an anchor must land where the wrist image shows them.

Not here: the pixel pairs (``tracks.py``) and the points (``stage1.py``).  No wrist pose is ever a label: a pose is
right when it carries each anchor point to the wrist pixel that shows the same spot.

Source: WristWorld (arXiv 2510.07313; published code ``training/loss.py``, ``compute_projection_loss``).  For a point
(x, y, z) in the predicted wrist frame, its pixel p and the paired pixel u on an image of H x W::

    30 * mean over x, y of (p - u)²  / (H² + W²)     where z > 0
    behind_weight * relu(-z)                         otherwise

and the mean over all pairs.  Differences from the release: all pairs at once instead of a loop; ``robust`` can bound
the pull of a wrong pair (off: exactly the release's formula); depths are divided by at least ``NEAR``, where the
release divides by whatever comes; the unit of ``behind_weight`` is the unit of the points, which here is the scene's
scale instead of VGGT's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel import geometry

WEIGHT = 30.0
NEAR = 1e-2


def spc_loss(
    points: Tensor,
    pixels: Tensor,
    valid: Tensor,
    wrist_from_points: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    *,
    behind_weight: float = 1.0,
    robust: float | None = None,
) -> Tensor:
    """Return the mean loss over all valid pairs (a scalar; 0 where there is none).

    Args:
        points: (B, K, 3), the anchor's points.
        pixels: (B, K, 2), their wrist pixels.
        valid: (B, K) bool, which of the K are real pairs.
        wrist_from_points: (B, 4, 4), the predicted pose.
        intrinsics: (B, 3, 3) of the wrist camera, in the pixels of ``size``.
        size: height and width of the wrist image.
        behind_weight: weight of the depth term of points behind the camera.
        robust: None, or the error, as a share of the image's diagonal, beyond which the squared error goes over into
            a linear one (pseudo-Huber).
    """
    error, depth = reprojection(points, pixels, wrist_from_points, intrinsics)
    height, width = size
    squared = error.square().sum(dim=-1) / (height**2 + width**2)
    if robust is not None:
        squared = 2 * robust**2 * (torch.sqrt(1 + squared / robust**2) - 1)
    loss = torch.where(depth > 0, 0.5 * WEIGHT * squared, behind_weight * torch.relu(-depth))
    return (loss * valid).sum() / valid.sum().clamp_min(1)


def reprojection(
    points: Tensor, pixels: Tensor, wrist_from_points: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor]:
    """Return where points land minus where they should, (B, K, 2) pixels, and their depth (B, K) in the wrist frame."""
    landed, depth = geometry.project(geometry.transform(wrist_from_points, points), intrinsics, near=NEAR)
    return landed - pixels, depth


def median_pixels(
    points: Tensor, pixels: Tensor, valid: Tensor, wrist_from_points: Tensor, intrinsics: Tensor
) -> Tensor:
    """Return the median distance in pixels between where points land and where they should: a scalar to watch."""
    error, _ = reprojection(points, pixels, wrist_from_points, intrinsics)
    distances = error.norm(dim=-1)[valid]
    return distances.median() if len(distances) else distances.new_zeros(())


def ray_loss(points: Tensor, pixels: Tensor, valid: Tensor, wrist_from_points: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the mean distance of points from the rays of their wrist pixels: the same consistency, in space.

    The pixel error has a trap for a network that still predicts nearly the same pose for every image: the constant
    pose that fits best is a camera far away, to which everything is near the image's centre.  The distance in space
    (object-space error: Lu, Hager and Mjolsness, "Fast and globally convergent pose estimation from video images",
    2000) has its best constant pose among the true ones.  A training from scratch begins with it.

    Args:
        points: (B, K, 3).
        pixels: (B, K, 2), their wrist pixels.
        valid: (B, K) bool.
        wrist_from_points: (B, 4, 4), the predicted pose.
        intrinsics: (B, 3, 3) of the wrist camera.
    """
    seen = geometry.transform(wrist_from_points, points)  # (B, K, 3)
    rays = torch.nn.functional.normalize(
        geometry.unproject(pixels, torch.ones_like(pixels[..., 0]), intrinsics), dim=-1
    )
    # A ray ends at the camera: a point behind it is as far as its distance from the camera, and more.
    along = (seen * rays).sum(dim=-1, keepdim=True)
    off = (seen - along.clamp_min(0) * rays).square().sum(dim=-1)
    distance = torch.sqrt(off + 1e-4)
    return (distance * valid).sum() / valid.sum().clamp_min(1)
