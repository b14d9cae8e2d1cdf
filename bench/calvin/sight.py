"""Which parts a camera may see: judged by a box around each part.

Not here: what is in front of what; the depth buffer knows.  A box that only touches the picture counts as seen, so
a picture never depends on this choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.calvin.meshes import Mesh

_SIDES = np.array([[1, 0, 0, 1], [-1, 0, 0, 1], [0, 1, 0, 1], [0, -1, 0, 1], [0, 0, 1, 1], [0, 0, -1, 1]])
"""What a point's clip coordinates are multiplied with: before the picture's six sides all are positive."""


class Boxes:
    """Boxes in frames that move.

    Args:
        corners: low and high corner (3,) of each.
    """

    def __init__(self, corners: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> None:
        low, high = np.array(corners, np.float64).swapaxes(0, 1)  # (N, 2, 3) -> (2, N, 3)
        self._middles = np.concatenate([(low + high) / 2, np.ones((len(low), 1))], axis=1)[..., None]  # (N, 4, 1)
        self._halves = (high - low)[..., None] / 2  # (N, 3, 1)

    def along(self, rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (K, N) where the boxes' middles lie, and how far each reaches to both sides.

        Args:
            rows: (N, K, 4) measures, such as a plane's numbers, for homogeneous points in each box's frame.
        """
        return (rows @ self._middles)[..., 0].T, (np.abs(rows[..., :3]) @ self._halves)[..., 0].T


class Sight:
    """Judges the parts before a camera.

    Args:
        parts: their meshes, in their frames.
    """

    def __init__(self, parts: Sequence[Mesh]) -> None:
        self._boxes = Boxes([(mesh.position.min(axis=0), mesh.position.max(axis=0)) for mesh in parts])

    def __call__(self, clip_from_world: NDArray[np.float64], world: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return (N,) which parts reach into the picture.

        Args:
            clip_from_world: (4, 4).
            world: (N, 4, 4) ``world_from_part``.
        """
        middles, reach = self._boxes.along((_SIDES @ clip_from_world) @ world)
        seen: NDArray[np.bool_] = np.logical_and.reduce(middles > -reach)
        return seen
