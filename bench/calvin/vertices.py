"""The vertices of all meshes in one array, as the GPU's buffers hold them and its programs read them.

Not here: the buffers themselves (``bench.calvin.render``) and the programs (``bench.calvin.shaders``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.calvin.meshes import Mesh

VERTEX = np.dtype([("position", "f4", 3), ("normal", "f4", 3), ("uv", "f4", 2), ("colour_and_object", "u1", 4)])
FORMATS: Mapping[str, tuple[str, ...]] = {
    "plain": ("3f4 3f4 8x 4f1", "position", "normal", "colour_and_object"),
    "textured": ("3f4 3f4 2f4 4f1", "position", "normal", "uv", "colour_and_object"),
    "shadow": ("3f4 20x 4f1", "position", "colour_and_object"),
}
"""Program -> moderngl's name for the layout of ``VERTEX``, and the program's names for what it reads of it."""
Range = tuple[int, int]
"""First corner and number of corners in the index buffer."""


def pack(levels: Sequence[Mesh], objects: Sequence[int]) -> tuple[NDArray[np.void], NDArray[np.int32], list[Range]]:
    """Return the meshes' vertices in one array of type ``VERTEX``, their corners in one int32 (3M,), and whose is what.

    Args:
        levels: what to draw.
        objects: for each mesh, its row in the uniform block.
    """
    vertices = np.zeros(sum(len(mesh.position) for mesh in levels), VERTEX)
    corners, ranges, start, first = [], [], 0, 0
    for mesh, number in zip(levels, objects, strict=True):
        rows = slice(start, start + len(mesh.position))
        vertices["position"][rows], vertices["normal"][rows], vertices["uv"][rows] = mesh.position, mesh.normal, mesh.uv
        vertices["colour_and_object"][rows, :3] = mesh.colour
        vertices["colour_and_object"][rows, 3] = number
        corners.append(mesh.triangles.ravel() + start)
        ranges.append((first, mesh.triangles.size))
        start, first = rows.stop, first + mesh.triangles.size
    return vertices, np.concatenate(corners).astype(np.int32), ranges
