"""Convex hulls of some dozens of points, and hulls with every face moved inwards.

Not a general hull code: every worker builds its table anew, and importing SciPy for that costs half a second and 30 MB.
The points are added one by one (the incremental method, de Berg et al., Computational Geometry, chapter 11).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_FLAT = 1e-9
"""Metres up to which a point counts as lying in a face."""

Faces = NDArray[np.int64]
"""(M, 3) corners of triangles as indices of points, counter-clockwise seen from outside."""


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cross products (M, 3) of vectors; NumPy's own takes five times as long for a handful."""
    turned: NDArray[np.float64] = a[:, [1, 2, 0]] * b[:, [2, 0, 1]] - a[:, [2, 0, 1]] * b[:, [1, 2, 0]]
    return turned


def _planes(points: NDArray[np.float64], faces: Faces) -> NDArray[np.float64]:
    """Return (M, 4) outward unit normals and offsets: a point p lies outside where normal @ p > offset."""
    first, second, third = points[faces].swapaxes(0, 1)
    normals = _cross(second - first, third - first)
    normals /= np.sqrt((normals * normals).sum(axis=1, keepdims=True))
    return np.concatenate([normals, (normals * first).sum(axis=1, keepdims=True)], axis=1)


def _first_four(points: NDArray[np.float64]) -> list[int]:
    """Return four points that span a volume, the first of them the first point."""
    from_first = points - points[0]
    second = int(np.argmax(np.linalg.norm(from_first, axis=1)))
    away = np.linalg.norm(np.cross(from_first, from_first[second]), axis=1)
    third = int(np.argmax(away))
    heights = from_first @ np.cross(from_first[second], from_first[third])
    fourth = int(np.argmax(np.abs(heights)))
    if abs(heights[fourth]) < _FLAT**2:
        raise ValueError(f"hull: expected points that span a volume, got {len(points)} in one plane")
    return [0, second, third, fourth] if heights[fourth] < 0 else [0, third, second, fourth]


def convex_hull(points: NDArray[np.float64]) -> tuple[Faces, NDArray[np.float64]]:
    """Return the triangles (M, 3) around points (N, 3), and their outward unit normals (M, 3).

    Raises:
        ValueError: the points lie in one plane.
    """
    a, b, c, d = four = _first_four(points)
    faces = np.array([(a, b, c), (a, c, d), (a, d, b), (b, d, c)])
    planes = _planes(points, faces)
    for number, point in enumerate(points):
        seen = planes[:, :3] @ point > planes[:, 3] + _FLAT
        if number in four or not seen.any():
            continue
        edges = {edge for face in faces[seen].tolist() for edge in pairwise((*face, face[0]))}
        rim = [(start, end, number) for start, end in sorted(edges) if (end, start) not in edges]
        new = np.array(rim)
        faces = np.concatenate([faces[~seen], new])
        planes = np.concatenate([planes[~seen], _planes(points, new)])
    return faces, planes[:, :3]


def shrunk(points: NDArray[np.float64], inset: float) -> NDArray[np.float64]:
    """Return the corners (K, 3) of the hull of points (N, 3) after each face has moved inwards by ``inset`` metres.

    Raises:
        ValueError: a corner joins more than three faces: it would become several.
    """
    faces, _ = convex_hull(points)
    planes = _planes(points, faces).round(7) + 0.0  # + 0 turns -0 into 0
    corners = []
    for corner in sorted(set(faces.ravel().tolist())):
        around = np.array(sorted({tuple(plane) for plane in planes[(faces == corner).any(axis=1)].tolist()}))
        if len(around) != 3:
            raise ValueError(f"inset: expected corners of three faces, got one of {len(around)}; use simpler pieces")
        corners.append(np.linalg.solve(around[:, :3], around[:, 3] - inset))
    return np.array(corners)
