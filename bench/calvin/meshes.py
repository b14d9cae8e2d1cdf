"""Triangle meshes for drawing: what one is, primitives, moving and joining.

Not here: files (``bench.calvin.mesh_files``), thinning (``bench.calvin.thinning``), OpenGL, PyBullet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in its own frame.

    Attributes:
        position: float32 (N, 3), metres.
        normal: float32 (N, 3), unit length.
        uv: float32 (N, 2), OpenGL convention (v points up).
        colour: uint8 (N, 3), multiplied with the texture and the shape's colour.
        triangles: int32 (M, 3), counter-clockwise seen from outside.
        texture: image that ``uv`` refers to, or None.
    """

    position: NDArray[np.float32]
    normal: NDArray[np.float32]
    uv: NDArray[np.float32]
    colour: NDArray[np.uint8]
    triangles: NDArray[np.int32]
    texture: Path | None = None


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def flat_normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (M, 3, 3) normals of (M, 3, 3) triangle corners: each triangle's own normal at its three corners."""
    normal = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    return np.repeat(normal[:, None], 3, axis=1)


def from_corners(
    corners: NDArray[np.floating],
    normals: NDArray[np.floating],
    uv: NDArray[np.floating] | None = None,
    colours: NDArray[np.uint8] | None = None,
    texture: Path | None = None,
) -> Mesh:
    """Build an indexed mesh from M triangles given corner by corner; equal corners become one vertex.

    Args:
        corners: (M, 3, 3) positions.
        normals: (M, 3, 3).
        uv: (M, 3, 2), or None for the middle of the texture.
        colours: (M, 3) uint8, one a triangle, or None for white.
        texture: image that ``uv`` refers to, or None.
    """
    count = len(corners)
    uv = np.full((count, 3, 2), 0.5) if uv is None else uv
    colours = np.full((count, 3), 255, np.uint8) if colours is None else colours
    table = np.concatenate(
        [corners, normals, uv, np.repeat(colours[:, None].astype(np.float64), 3, axis=1)], axis=-1
    ).reshape(count * 3, 11)  # (M, 3, 11) -> (3M, 11)
    table = np.ascontiguousarray(table, np.float32) + np.float32(0)  # +0 turns -0 into 0, so that equal bytes are equal
    _, first, inverse = np.unique(table.view("V44").ravel(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    table = table[first[order]]
    return Mesh(
        position=table[:, 0:3].copy(),
        normal=table[:, 3:6].copy(),
        uv=table[:, 6:8].copy(),
        colour=table[:, 8:11].astype(np.uint8),
        triangles=rank[inverse.ravel()].reshape(count, 3).astype(np.int32),  # (3M,) -> (M, 3)
        texture=texture,
    )


def box(size: tuple[float, float, float], *, radial: bool = False) -> Mesh:
    """Return a box around the origin with edge lengths ``size`` (metres).

    Args:
        size: edge lengths along x, y, z.
        radial: normals point from the centre through the corners, as PyBullet's OpenGL renderer gives a box.
    """
    corners = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            square = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if sign > 0 else [(-1, -1), (-1, 1), (1, 1), (1, -1)]
            face = np.zeros((4, 3))
            face[:, axis] = sign
            face[:, [(axis + 1) % 3, (axis + 2) % 3]] = square
            corners += [face[[0, 1, 2]], face[[0, 2, 3]]]
    positions = np.array(corners) * np.asarray(size) / 2
    return from_corners(positions, _unit(positions) if radial else flat_normals(positions))


def cylinder(radius: float, length: float, *, radial: bool = False, sides: int = 24) -> Mesh:
    """Return a cylinder along z around the origin (metres); ``radial`` as for :func:`box`."""
    angle = np.arange(sides + 1) * (2 * np.pi / sides)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    corners, normals = [], []
    for (x0, y0), (x1, y1) in pairwise(ring):
        low0, low1 = (x0 * radius, y0 * radius, -length / 2), (x1 * radius, y1 * radius, -length / 2)
        top0, top1 = (*low0[:2], length / 2), (*low1[:2], length / 2)
        out0, out1 = (x0, y0, 0.0), (x1, y1, 0.0)
        corners += [
            (low0, low1, top1),
            (low0, top1, top0),
            ((0, 0, length / 2), top0, top1),
            ((0, 0, -length / 2), low1, low0),
        ]
        normals += [(out0, out1, out1), (out0, out1, out0), ((0, 0, 1),) * 3, ((0, 0, -1),) * 3]
    positions = np.array(corners, np.float64)
    return from_corners(positions, _unit(positions) if radial else np.array(normals, np.float64))


def sphere(radius: float) -> Mesh:
    """Return a sphere around the origin (metres)."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    corners = np.asarray(ball.vertices)[ball.faces]
    return from_corners(corners, _unit(corners))


def scaled(mesh: Mesh, scale: tuple[float, float, float]) -> Mesh:
    """Return the mesh stretched by ``scale`` along x, y, z; normals stay, as PyBullet leaves them."""
    return replace(mesh, position=mesh.position * np.asarray(scale, np.float32))


def moved(mesh: Mesh, frame: NDArray[np.float64]) -> Mesh:
    """Return the mesh in another frame; ``frame`` (4, 4) is rigid."""
    rotation, translation = frame[:3, :3].astype(np.float32), frame[:3, 3].astype(np.float32)
    return replace(mesh, position=mesh.position @ rotation.T + translation, normal=mesh.normal @ rotation.T)


def joined(parts: Sequence[Mesh]) -> Mesh:
    """Return several meshes of one image as one."""
    starts = np.cumsum([0] + [len(part.position) for part in parts[:-1]])
    return Mesh(
        position=np.concatenate([part.position for part in parts]),
        normal=np.concatenate([part.normal for part in parts]),
        uv=np.concatenate([part.uv for part in parts]),
        colour=np.concatenate([part.colour for part in parts]),
        triangles=np.concatenate([part.triangles + start for part, start in zip(parts, starts, strict=True)]),
        texture=parts[0].texture,
    )


def wrapped(mesh: Mesh, tile: float) -> Mesh:
    """Return the mesh with texture coordinates projected along the axis that each triangle faces.

    The grain (u) runs along x wherever a triangle does not face x.

    Args:
        mesh: any mesh; its own coordinates and image are dropped.
        tile: metres that the image spans.
    """
    corners = mesh.position[mesh.triangles].astype(np.float64)  # (M, 3, 3)
    facing = np.abs(flat_normals(corners)[:, 0]).argmax(axis=1)
    along, across = np.array([1, 0, 0])[facing], np.array([2, 2, 1])[facing]
    row = np.arange(len(corners))
    uv = np.stack([corners[row, :, along], corners[row, :, across] + facing[:, None] * 0.37 * tile], axis=-1) / tile
    return from_corners(corners, mesh.normal[mesh.triangles], uv, mesh.colour[mesh.triangles[:, 0]])
