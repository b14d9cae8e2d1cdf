"""Cameras and rigid motions: projection, unprojection, rotations, and the nine numbers that stand for a camera.

Not here: networks, losses, drawing.  Everything works on torch tensors with any leading dimensions and is
differentiable unless said otherwise.

Conventions.  A camera looks along +z, x to the right, y down (OpenCV).  ``b_from_a`` is a 4x4 that maps points of
frame a into frame b.  Pixels: the centre of the upper left pixel is (0.5, 0.5).  A camera's encoding
``absT_quaR_FoV`` is VGGT's (Wang et al., "VGGT: Visual Geometry Grounded Transformer", CVPR 2025): translation (3),
unit quaternion x, y, z, w (4, scalar last), then the *vertical* and the *horizontal* field of view in radians.
"""

from __future__ import annotations

import torch
from torch import Tensor

ENCODING_DIM = 9
"""Translation 3, quaternion 4, field of view 2."""


def transform(b_from_a: Tensor, points: Tensor) -> Tensor:
    """Map points of frame a into frame b.

    Args:
        b_from_a: (..., 4, 4).
        points: (..., N, 3), the same leading dimensions or ones that broadcast.

    Returns:
        (..., N, 3).
    """
    return points @ b_from_a[..., :3, :3].transpose(-1, -2) + b_from_a[..., None, :3, 3]


def invert(b_from_a: Tensor) -> Tensor:
    """Return ``a_from_b`` (..., 4, 4) of a rigid motion, by transposing its rotation."""
    rotation = b_from_a[..., :3, :3].transpose(-1, -2)
    return compose(rotation, -(rotation @ b_from_a[..., :3, 3:])[..., 0])


def compose(rotation: Tensor, translation: Tensor) -> Tensor:
    """Build (..., 4, 4) from a rotation (..., 3, 3) and a translation (..., 3)."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    last = torch.zeros_like(top[..., :1, :])
    last[..., 3] = 1.0
    return torch.cat([top, last], dim=-2)


def matrix_from_quaternion(quaternion: Tensor) -> Tensor:
    """Return the rotation (..., 3, 3) of a quaternion (..., 4), scalar last; its length does not matter."""
    x, y, z, w = torch.nn.functional.normalize(quaternion, dim=-1, eps=1e-8).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion_from_matrix(rotation: Tensor) -> Tensor:
    """Return the unit quaternion (..., 4), scalar last and not negative, of a rotation (..., 3, 3).

    All four ways of dividing by one component are written out and the best conditioned one is taken, so no rotation
    is near a division by zero (Shepperd, "Quaternion from rotation matrix", 1978).
    """
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz, 1 + xx + yy + zz], dim=-1)
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    candidates = torch.stack(
        [
            torch.stack([squares[..., 0], xy, xz, wx], dim=-1),
            torch.stack([xy, squares[..., 1], yz, wy], dim=-1),
            torch.stack([xz, yz, squares[..., 2], wz], dim=-1),
            torch.stack([wx, wy, wz, squares[..., 3]], dim=-1),
        ],
        dim=-2,
    )  # (..., 4, 4)
    best = squares.argmax(dim=-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = torch.nn.functional.normalize(candidates.gather(-2, best)[..., 0, :], dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def fov_from_intrinsics(intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (..., 2): vertical and horizontal field of view in radians, as if the principal point were central.

    Args:
        intrinsics: (..., 3, 3) in pixels.
        size: height and width of the image in pixels.
    """
    height, width = size
    vertical = 2 * torch.atan(0.5 * height / intrinsics[..., 1, 1])
    horizontal = 2 * torch.atan(0.5 * width / intrinsics[..., 0, 0])
    return torch.stack([vertical, horizontal], dim=-1)


def intrinsics_from_fov(fov: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (..., 3, 3): the pinhole camera with a central principal point that has this field of view.

    Args:
        fov: (..., 2) vertical, horizontal, radians; kept within (0.001, 3.1) so that the focal length stays finite.
        size: height and width of the image in pixels.
    """
    height, width = size
    half = 0.5 * fov.clamp(1e-3, 3.1)
    focal_y, focal_x = 0.5 * height / torch.tan(half[..., 0]), 0.5 * width / torch.tan(half[..., 1])
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    rows = [
        torch.stack([focal_x, zero, zero + 0.5 * width], dim=-1),
        torch.stack([zero, focal_y, zero + 0.5 * height], dim=-1),
        torch.stack([zero, zero, one], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def resize_intrinsics(intrinsics: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return the intrinsics (..., 3, 3) after an image of ``old`` (H, W) pixels is resized to ``new`` (H, W)."""
    scale = torch.tensor([new[1] / old[1], new[0] / old[0], 1.0], dtype=intrinsics.dtype, device=intrinsics.device)
    return intrinsics * scale[:, None]


def encode_pose(camera_from_world: Tensor, fov: Tensor) -> Tensor:
    """Return the encoding (..., 9) of extrinsics (..., 4, 4) and a field of view (..., 2)."""
    quaternion = quaternion_from_matrix(camera_from_world[..., :3, :3])
    return torch.cat([camera_from_world[..., :3, 3], quaternion, fov], dim=-1)


def decode_pose(encoding: Tensor) -> tuple[Tensor, Tensor]:
    """Return extrinsics (..., 4, 4) and field of view (..., 2) of an encoding (..., 9)."""
    return compose(matrix_from_quaternion(encoding[..., 3:7]), encoding[..., :3]), encoding[..., 7:9]


def pixel_centres(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Return (H, W, 2) float32: x and y of every pixel's centre."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y], dim=-1).float() + 0.5


def project(points: Tensor, intrinsics: Tensor, near: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Project points of the camera's frame.

    Args:
        points: (..., N, 3).
        intrinsics: (..., 3, 3).
        near: depths are divided by at least this; what lies behind has to be told by the returned depth.

    Returns:
        pixels (..., N, 2) and depth z (..., N).
    """
    depth = points[..., 2]
    flat = points[..., :2] / depth.clamp_min(near)[..., None]
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)
    return flat * focal[..., None, :] + intrinsics[..., None, :2, 2], depth


def unproject(pixels: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the points (..., N, 3), in the camera's frame, at these pixels (..., N, 2) and depths z (..., N)."""
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)
    flat = (pixels - intrinsics[..., None, :2, 2]) / focal[..., None, :]
    return torch.cat([flat * depth[..., None], depth[..., None]], dim=-1)


def unproject_map(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the point map (..., H, W, 3), in the camera's frame, of a depth map (..., H, W)."""
    height, width = depth.shape[-2:]
    pixels = pixel_centres(height, width, depth.device).to(depth.dtype).reshape(-1, 2)
    pixels = pixels.expand(*depth.shape[:-2], height * width, 2)
    return unproject(pixels, depth.flatten(-2), intrinsics).unflatten(-2, (height, width))


def sample_map(values: Tensor, pixels: Tensor) -> Tensor:
    """Sample maps bilinearly at pixels; beyond the border the border's value is taken.

    Args:
        values: (B, H, W, C).
        pixels: (B, N, 2) x, y in the pixels of that map.

    Returns:
        (B, N, C).
    """
    height, width = values.shape[1:3]
    scale = torch.tensor([2.0 / width, 2.0 / height], dtype=values.dtype, device=values.device)
    grid = (pixels * scale - 1.0)[:, :, None]  # (B, N, 1, 2)
    sampled = torch.nn.functional.grid_sample(
        values.permute(0, 3, 1, 2), grid, mode="bilinear", padding_mode="border", align_corners=False
    )  # (B, C, N, 1)
    return sampled[..., 0].transpose(1, 2)


def pose_error(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Compare camera poses.

    Args:
        predicted: (..., 4, 4) ``camera_from_world``.
        true: (..., 4, 4), the same frames.

    Returns:
        Distance of the two camera centres in the world's unit, and the angle between the orientations in degrees.
    """
    centres = invert(predicted)[..., :3, 3], invert(true)[..., :3, 3]
    difference = predicted[..., :3, :3].transpose(-1, -2) @ true[..., :3, :3]
    sine = torch.stack(
        [
            difference[..., 2, 1] - difference[..., 1, 2],
            difference[..., 0, 2] - difference[..., 2, 0],
            difference[..., 1, 0] - difference[..., 0, 1],
        ],
        dim=-1,
    ).norm(dim=-1)
    cosine = difference.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1.0
    # The two-argument form keeps its precision for tiny angles, where arccos of the trace loses half its digits.
    return (centres[0] - centres[1]).norm(dim=-1), torch.rad2deg(torch.atan2(sine, cosine))
