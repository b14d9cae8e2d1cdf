"""Condition maps: the anchor's coloured points drawn as the wrist camera would see them.

Not here: where points and poses come from (``stage1.py``), and filling the holes (stage 2).  The drawing rule is
WristWorld's (arXiv 2510.07313; published code ``generate_point_cloud_no_sphere``): every point is a filled disc of a
fixed pixel radius, nearer points hide farther ones, what no point reaches stays black, points nearer than 1 cm are
dropped.  Instead of painting far to near, point by point, a z-buffer keeps the nearest point of every pixel: the
same picture from a few array operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel import geometry

NEAR = 0.01
"""Points whose depth is at most this (in the unit of the points) are not drawn."""


def disc(radius: float) -> list[tuple[int, int]]:
    """Return the offsets (dy, dx) of the pixels of a filled disc."""
    reach = int(radius)
    span = range(-reach, reach + 1)
    return [(dy, dx) for dy in span for dx in span if dy * dy + dx * dx <= radius * radius]


def splat(
    points: Tensor,
    colours: Tensor,
    camera_from_points: Tensor,
    fov: Tensor,
    size: tuple[int, int],
    *,
    radius: float = 2.0,
    near: float = NEAR,
) -> tuple[Tensor, Tensor]:
    """Draw T point clouds, each from its own camera.

    Args:
        points: (T, N, 3); a point with a value that is not finite is not drawn.
        colours: (T, N, 3) uint8.
        camera_from_points: (T, 4, 4), the cameras' extrinsics with respect to the points' frame.
        fov: (T, 2) vertical and horizontal field of view in radians; the principal point is central.
        size: height and width of the picture in pixels.
        radius: of the discs, in pixels; 0 paints single pixels.
        near: points with z at most this are dropped.

    Returns:
        The pictures (T, H, W, 3) uint8, black where no point falls, and their depth (T, H, W) float32, infinite there.
    """
    height, width = size
    frames = len(points)
    reach = int(radius)
    intrinsics = geometry.intrinsics_from_fov(fov.to(points.dtype), size)
    pixels, z = geometry.project(geometry.transform(camera_from_points.to(points.dtype), points), intrinsics)
    # Far outside is clamped before the conversion to integers, which is undefined beyond their range.
    column, row = (pixels.nan_to_num().clamp(-1e6, 1e6).floor().long() + reach).unbind(-1)
    tall, wide = height + 2 * reach, width + 2 * reach
    drawn = (z > near) & torch.isfinite(pixels).all(dim=-1)
    drawn &= (column >= 0) & (column < wide) & (row >= 0) & (row < tall)

    frame, index = drawn.nonzero(as_tuple=True)
    order = z[frame, index].argsort(stable=True)
    frame, index = frame[order], index[order]
    # Points are numbered from near to far: the smallest number in a pixel is the point that it shows.
    cell = (frame * tall + row[frame, index]) * wide + column[frame, index]
    first = torch.full((frames * tall * wide,), len(order), dtype=torch.long, device=points.device)
    first.scatter_reduce_(0, cell, torch.arange(len(order), device=points.device), reduce="amin")
    first = first.view(frames, tall, wide)
    shown = torch.full((frames, height, width), len(order), dtype=torch.long, device=points.device)
    for dy, dx in disc(radius):
        top, left = reach + dy, reach + dx
        shown = torch.minimum(shown, first[:, top : top + height, left : left + width])

    palette = torch.cat([colours[frame, index], colours.new_zeros(1, 3)])
    depth = torch.cat([z[frame, index].float(), torch.full((1,), torch.inf, device=points.device)])
    return palette[shown], depth[shown]
