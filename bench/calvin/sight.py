"""Which parts a camera may see, and which of them from near: judged by a sphere around each part.

Not here: what is in front of what; the depth buffer knows.  A sphere that only touches the picture counts as seen, so
a picture never depends on this choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.calvin.camera import Camera
from bench.calvin.meshes import Mesh

_FAR_PIXEL = 0.003
"""Metres a pixel from which on a thinner mesh shows the same."""
_SIDES = np.array([[1, 0, 0, 1], [-1, 0, 0, 1], [0, 1, 0, 1], [0, -1, 0, 1], [0, 0, 1, 1], [0, 0, -1, 1]], np.float64)
"""A point lies before a side of the picture where the side's product with its clip coordinates is positive."""


def spheres(meshes: Sequence[Mesh]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centres (N, 4), homogeneous, and radii (N,) of spheres around meshes, in their frames, metres."""
    centres, radii = np.ones((len(meshes), 4)), np.zeros(len(meshes))
    for row, mesh in enumerate(meshes):
        centres[row, :3] = (mesh.position.min(axis=0) + mesh.position.max(axis=0)) / 2
        radii[row] = np.linalg.norm(mesh.position - centres[row, :3], axis=1).max()
    return centres, radii


class Sight:
    """Judges spheres before one camera.

    Args:
        camera: its inner numbers.
        projection: (4, 4) from the camera's space to clip space.
        radii: (N,) metres.
    """

    def __init__(self, camera: Camera, projection: NDArray[np.float64], radii: NDArray[np.float64]) -> None:
        planes = _SIDES @ projection
        self._planes = _SIDES / np.linalg.norm(planes[:, :3], axis=1, keepdims=True)
        self._radii = radii
        self._near = _FAR_PIXEL * camera.size / 2 / np.tan(np.radians(camera.field_of_view) / 2) + radii

    def __call__(
        self, clip_from_world: NDArray[np.float64], centres: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return (N,) which spheres reach into the picture, and which of them are near.

        Args:
            clip_from_world: (4, 4).
            centres: (N, 4) in the world, homogeneous.
        """
        clip = clip_from_world @ centres.T  # (4, N)
        return (self._planes @ clip > -self._radii).all(axis=0), clip[3] < self._near
