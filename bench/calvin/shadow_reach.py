"""Where the shadows of moving parts may fall in a picture whose camera stands still.

Not here: the shadows themselves.  Light comes from far away, so a part shades what lies in its outline seen from there.
Boxes around the parts mark squares of a grid over the shadow map, and each cell of the picture knows which squares the
surfaces that it shows lie in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.calvin import shaders
from bench.calvin.meshes import Mesh
from bench.calvin.sight import Boxes

CELL = 8
"""Pixels along the side of a picture's cell."""
_GRID = 80
"""Squares along the shadow map's side."""
_LONG = 0.2
"""Metres beyond which a box is divided."""
_SOFT = 2.0 * _GRID / shaders.SHADOW_SIZE
"""Squares that a softened shadow reaches beyond its caster: two texels."""
_GRID_FROM_WORLD = (shaders.shadow_from_world()[:2] + [[0, 0, 0, 1]] * 2) * (_GRID / 2)


def boxes(triangles: NDArray[np.floating]) -> list[tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Return the low and high corners (3,) of boxes that together hold triangles, given as (M, 3, 3) corners."""
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    axis = int((high - low).argmax())
    first = triangles[:, :, axis].mean(axis=1) < (low + high)[axis] / 2
    if (high - low)[axis] <= _LONG or first.all() or not first.any():
        return [(low, high)]
    return [*boxes(triangles[first]), *boxes(triangles[~first])]


class ShadowReach:
    """Finds the cells of one picture that moving parts may shade.

    Args:
        casters: the mesh of each moving part, in its frame.
        size: the picture's side in pixels.
    """

    def __init__(self, casters: Sequence[Mesh], size: int) -> None:
        held = [(part, box) for part, mesh in enumerate(casters) for box in boxes(mesh.position[mesh.triangles])]
        self._parts = np.array([part for part, _ in held])
        self._boxes = Boxes([box for _, box in held])
        self._cells = size // CELL
        self._corners = np.zeros((4, self._cells**2), np.intp)

    def show(self, points: NDArray[np.float32], still: NDArray[np.bool_]) -> None:
        """Learn where the surfaces lie that the pixels show.

        Args:
            points: (2, H, W) in the shadow map's 0..1.
            still: (H, W) pixels that no shadow changes.
        """
        blocks = (2, self._cells, CELL, self._cells, CELL)
        low = np.where(still, np.inf, points).reshape(blocks).min(axis=2).min(axis=3)
        high = np.where(still, -np.inf, points).reshape(blocks).max(axis=2).max(axis=3)
        first = np.clip(np.floor(low * _GRID), 0, _GRID - 1)
        last = np.where(high < low, first, np.clip(np.floor(high * _GRID) + 1, 1, _GRID))
        (x0, y0), (x1, y1) = first.astype(np.intp).reshape(2, -1), last.astype(np.intp).reshape(2, -1)
        row = _GRID + 1
        self._corners = np.stack([x0 * row + y0, x1 * row + y1, x1 * row + y0, x0 * row + y1])

    def cells(self, world: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return (R, C) which cells the moving parts may shade.

        Args:
            world: (N, 4, 4) ``world_from_part``.
        """
        at, half = self._boxes.along((_GRID_FROM_WORLD @ world)[self._parts])
        half += _SOFT
        x0, y0 = np.clip(at - half, 0, _GRID - 1).astype(int).tolist()
        x1, y1 = np.clip(at + half + 1, 1, _GRID).astype(int).tolist()
        # Sums from one corner of the grid: four of them tell whether a rectangle holds a marked square.
        sums = np.zeros((_GRID + 1, _GRID + 1), np.int32)
        grid = sums[1:, 1:]
        for left, top, right, bottom in zip(x0, y0, x1, y1, strict=True):
            grid[top:bottom, left:right] = 1
        sums = np.ascontiguousarray(sums.cumsum(axis=1).T).cumsum(
            axis=1
        )  # along rows twice: columns take twice as long
        both, outer, left_of, above = sums.ravel()[self._corners]
        return (both + outer != left_of + above).reshape(self._cells, self._cells)
