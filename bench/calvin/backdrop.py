"""The still part of a view whose camera never moves: drawn once, copied for every picture.

Most pixels of the static camera show floor and table, and computing them took most of its time.  Moving things change
them in one way only: by their shadows.  So the still parts are drawn twice when they change: in full light, and as
they shade each other.  A picture begins as a copy of the second; where the shadow of a moving part may fall, in cells
of some pixels, the shadow map decides anew how much of the first is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import shaders
from bench.calvin.frames import RECTANGLES, Frame

VIEW = "static"
CELL = 8
"""Pixels along a cell's side."""

_LEFT, _TOP, _WIDTH, _HEIGHT = RECTANGLES[VIEW]
_COLUMNS, _ROWS = _WIDTH // CELL, _HEIGHT // CELL
_LIT_UNIT, _DEPTH_UNIT = 2, 3
_MARGIN = 2.0 / shaders.SHADOW_SIZE
"""How far beyond a caster its softened shadow may reach, in the shadow map's 0..1."""


def _cell_corners() -> NDArray[np.float32]:
    """Return the corners of all cells in clip space ((R+1) (C+1), 2), row by row."""
    y, x = np.mgrid[0 : _ROWS + 1, 0 : _COLUMNS + 1]
    return np.stack([2 * x / _COLUMNS - 1, 2 * y / _ROWS - 1], axis=-1).reshape(-1, 2).astype(np.float32)


def strips(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the triangles (M, 3) that cover the wanted cells (R, C): two for every run of cells in a row."""
    edges = np.diff(np.pad(cells, ((0, 0), (1, 1))).view(np.int8), axis=1)
    row, start = np.nonzero(edges > 0)
    _, stop = np.nonzero(edges < 0)
    first, last = row * (_COLUMNS + 1) + start, row * (_COLUMNS + 1) + stop
    down = _COLUMNS + 1
    corners = np.stack([first, first + down, last + down, first, last + down, last], axis=-1)
    return corners.reshape(-1, 3).astype(np.int32)  # (N, 6) -> (2N, 3)


class Backdrop:
    """What the still parts show in one view.

    Args:
        context: moderngl's.
        program: the program ``relight`` of ``bench.calvin.shaders``.
        clip_from_world: (4, 4) of the view.
    """

    def __init__(self, context: Any, program: Any, clip_from_world: NDArray[np.float64]) -> None:
        self._context, self._program = context, program
        self._lit = Frame(context)
        self._whole = Frame(context)
        corners = context.buffer(_cell_corners().tobytes())
        self._index = context.buffer(reserve=_ROWS * _COLUMNS * 6 * 4, dynamic=True)
        self._array = context.vertex_array(program, [(corners, "2f4", "corner")], self._index)
        everything = strips(np.ones((_ROWS, _COLUMNS), np.bool_))
        whole_index = context.buffer(everything.tobytes())
        self._whole_array = context.vertex_array(program, [(corners, "2f4", "corner")], whole_index)
        self._whole_count = everything.size
        self._held = [self._lit, self._whole, self._array, self._index, self._whole_array, whole_index, corners]
        pixel = np.diag([2 / _WIDTH, 2 / _HEIGHT, 2.0, 1.0])
        pixel[:3, 3] = -1.0
        half = np.diag([0.5, 0.5, 0.5, 1.0])
        half[:3, 3] = 0.5
        self._shadow_from_pixel = half @ shaders.shadow_from_world() @ np.linalg.inv(clip_from_world) @ pixel
        self._low = self._high = np.zeros((3, 1, _ROWS * _COLUMNS))

    def rebuild(self, draw_still: Callable[[], None], shadow_frame: Any, still_shadow: Callable[[], None]) -> None:
        """Draw the still parts anew.

        Args:
            draw_still: draws them into the framebuffer in use, which has the view's rectangle as its viewport.
            shadow_frame: the shadow map's.
            still_shadow: puts their shadow into the shadow map.
        """
        shadow_frame.clear(depth=1.0)
        self._lit.target.use()
        self._lit.target.clear(*shaders.BACKGROUND, 1.0, depth=1.0)
        self._lit.target.viewport = RECTANGLES[VIEW]
        draw_still()
        self._bound_cells()
        still_shadow()
        self._context.copy_framebuffer(self._whole.target, self._lit.target)
        self._whole.target.use()
        self._whole.target.viewport = RECTANGLES[VIEW]
        self.shade_all()

    def _bound_cells(self) -> None:
        """Put a box around what each cell shows, in the shadow map's 0..1."""
        raw = self._lit.target.read(viewport=RECTANGLES[VIEW], components=1, attachment=-1, dtype="f4")
        depth = np.frombuffer(raw, np.float32).reshape(_HEIGHT, _WIDTH).astype(np.float64)
        y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH] + 0.5
        points = np.stack([x, y, depth, np.ones_like(x)], axis=-1) @ self._shadow_from_pixel.T
        points = points[..., :3] / points[..., 3:]
        # (R cell, C cell, 3) -> (R, C, cell, cell, 3) -> (R C, cell cell, 3)
        cells = points.reshape(_ROWS, CELL, _COLUMNS, CELL, 3).swapaxes(1, 2).reshape(-1, CELL * CELL, 3)
        empty = (depth == 1.0).reshape(_ROWS, CELL, _COLUMNS, CELL).swapaxes(1, 2).reshape(-1, CELL * CELL, 1)
        self._low = np.where(empty, np.inf, cells).min(axis=1).T[:, None]  # (R C, 3) -> (3, 1, R C)
        self._high = np.where(empty, -np.inf, cells).max(axis=1).T[:, None]

    def copy_to(self, frame: Frame) -> None:
        """Put the still parts into ``frame``, colour and depth; the other views' rectangles become empty."""
        self._context.copy_framebuffer(frame.target, self._whole.target)

    def shade(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """Light anew what moving parts may shade, in the framebuffer in use; the shadow map must be bound.

        Args:
            low: (3, N) least coordinates of the parts in the shadow map's 0..1.
            high: (3, N) greatest coordinates.
        """
        low, high = low[..., None], high[..., None]
        reached = self._high[2] > low[2]  # (N, R C): what lies below the part
        for axis in (0, 1):
            reached &= self._low[axis] < high[axis] + _MARGIN
            reached &= self._high[axis] > low[axis] - _MARGIN
        triangles = strips(reached.any(axis=0).reshape(_ROWS, _COLUMNS))
        if len(triangles):
            self._index.write(triangles)
            self._relight(self._array, triangles.size)

    def shade_all(self) -> None:
        """Light anew every pixel, in the framebuffer in use; the shadow map must be bound."""
        self._relight(self._whole_array, self._whole_count)

    def _relight(self, cells: Any, corners: int) -> None:
        self._lit.colour.use(_LIT_UNIT)
        self._lit.depth.use(_DEPTH_UNIT)
        self._program["lit"].value, self._program["depth"].value = _LIT_UNIT, _DEPTH_UNIT
        self._program["shadow_from_pixel"].write(self._shadow_from_pixel.T.astype("f4").tobytes())
        self._context.disable(self._context.DEPTH_TEST | self._context.CULL_FACE)
        cells.render(vertices=corners)
        self._context.enable(self._context.DEPTH_TEST | self._context.CULL_FACE)

    def release(self) -> None:
        """Give the GPU's memory back."""
        for item in self._held:
            item.release()
