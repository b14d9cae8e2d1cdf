"""The still part of a view whose camera never moves: drawn once, copied for every picture.

Most pixels of the static camera show floor and table, and computing them took most of its time.  Moving things change
them in one way only: by their shadows.  So the still parts are drawn twice when they change: in full light, and as
they shade each other; those that no joint carries are drawn in full light only once.  A picture begins as a copy of
the second; where the shadow of a moving part may fall, in cells of some pixels (``bench.calvin.shadow_reach``), the
shadow map decides anew how much of the first is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import shaders
from bench.calvin.frames import RECTANGLES, Frame
from bench.calvin.meshes import Mesh
from bench.calvin.shadow_reach import CELL, ShadowReach

VIEW = "static"

_LEFT, _TOP, _WIDTH, _HEIGHT = RECTANGLES[VIEW]
_COLUMNS, _ROWS = _WIDTH // CELL, _HEIGHT // CELL
_LIT_UNIT, _DEPTH_UNIT = 2, 3
_DOWN = _COLUMNS + 1
"""From a cell's corner to the one below it."""


def _cell_corners() -> NDArray[np.float32]:
    """Return the corners of all cells in clip space ((R+1) (C+1), 2), row by row."""
    y, x = np.mgrid[0 : _ROWS + 1, 0 : _COLUMNS + 1]
    return np.stack([2 * x / _COLUMNS - 1, 2 * y / _ROWS - 1], axis=-1).reshape(-1, 2).astype(np.float32)


def strips(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the triangles (M, 3) that cover the wanted cells (R, C): two for every run of cells in a row."""
    # One unwanted cell more in each row, and one before them all: runs end where rows do.
    wanted = np.zeros(_ROWS * _DOWN + 1, np.bool_)
    wanted[1:].reshape(_ROWS, _DOWN)[:, :_COLUMNS] = cells
    ends = np.flatnonzero(wanted[1:] != wanted[:-1]).astype(np.int32).reshape(-1, 2)  # first corner, last corner
    triangles: NDArray[np.int32] = ends[:, [0, 0, 1, 0, 1, 1]] + np.array([0, _DOWN, _DOWN, 0, _DOWN, 0], np.int32)
    return triangles.reshape(-1, 3)  # (N, 6) -> (2N, 3)


class Backdrop:
    """What the still parts show in one view.

    Args:
        context: moderngl's.
        program: the program ``relight`` of ``bench.calvin.shaders``.
        clip_from_world: (4, 4) of the view.
        casters: the mesh of each moving part, in its frame.
    """

    def __init__(
        self, context: Any, program: Any, clip_from_world: NDArray[np.float64], casters: Sequence[Mesh]
    ) -> None:
        self._context = context
        self._lit = Frame(context)
        self._whole = Frame(context)
        self._fixed = Frame(context)
        self._fixed_state = b""
        corners = context.buffer(_cell_corners().tobytes())
        self._index = context.buffer(reserve=_ROWS * _COLUMNS * 6 * 4, dynamic=True)
        self._array = context.vertex_array(program, [(corners, "2f4", "corner")], self._index)
        everything = strips(np.ones((_ROWS, _COLUMNS), np.bool_))
        whole_index = context.buffer(everything.tobytes())
        self._whole_array = context.vertex_array(program, [(corners, "2f4", "corner")], whole_index)
        self._whole_count = everything.size
        self._held = [
            self._lit,
            self._whole,
            self._fixed,
            self._array,
            self._index,
            self._whole_array,
            whole_index,
            corners,
        ]
        pixel = np.diag([2 / _WIDTH, 2 / _HEIGHT, 2.0, 1.0])
        pixel[:3, 3] = -1.0
        half = np.diag([0.5, 0.5, 0.5, 1.0])
        half[:3, 3] = 0.5
        self._shadow_from_pixel = half @ shaders.shadow_from_world() @ np.linalg.inv(clip_from_world) @ pixel
        program["lit"].value, program["depth"].value = _LIT_UNIT, _DEPTH_UNIT
        program["shadow_from_pixel"].write(self._shadow_from_pixel.T.astype("f4").tobytes())
        self._reach = ShadowReach(casters, _WIDTH)

    def rebuild(
        self,
        fixed_state: bytes,
        draw_fixed: Callable[[], None],
        draw_carried: Callable[[], None],
        no_shadow: Callable[[], None],
        still_shadow: Callable[[], None],
    ) -> None:
        """Draw the still parts anew; those that are fixed only if ``fixed_state`` is another than the last time.

        Args:
            fixed_state: all that the fixed parts' picture depends on.
            draw_fixed: draws them into the framebuffer in use, which has the view's rectangle as its viewport.
            draw_carried: draws the other still parts.
            no_shadow: empties the shadow map.
            still_shadow: puts the shadow of all still parts into the shadow map.
        """
        no_shadow()
        if fixed_state != self._fixed_state:
            self._fixed_state = fixed_state
            self._fixed.target.use()
            self._fixed.target.clear(*shaders.BACKGROUND, 1.0, depth=1.0)
            self._fixed.target.viewport = RECTANGLES[VIEW]
            draw_fixed()
        self._context.copy_framebuffer(self._lit.target, self._fixed.target)
        self._lit.target.use()
        self._lit.target.viewport = RECTANGLES[VIEW]
        draw_carried()
        still_shadow()
        self._context.copy_framebuffer(self._whole.target, self._lit.target)
        self._whole.target.use()
        self._whole.target.viewport = RECTANGLES[VIEW]
        self.shade_all()
        self._reach.show(*self._surfaces())

    def _surfaces(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return where surfaces lie in the shadow map's 0..1 (2, H, W), and which a shadow does not change (H, W)."""
        raw = self._lit.target.read(viewport=RECTANGLES[VIEW], components=1, attachment=-1, dtype="f4")
        depth = np.frombuffer(raw, np.float32).reshape(_HEIGHT, _WIDTH)
        raw = self._whole.target.read(viewport=RECTANGLES[VIEW], components=4)
        changes = np.frombuffer(raw, np.uint8).reshape(_HEIGHT, _WIDTH, 4)[..., 3]
        x, y, to_depth, start = self._shadow_from_pixel[[0, 1, 3]].astype(np.float32).T[..., None, None]  # of (3, 1, 1)
        column, row = np.float32(np.arange(_WIDTH) + 0.5), np.float32(np.arange(_HEIGHT)[:, None] + 0.5)
        points = x * column + (y * row + start) + to_depth * depth
        return points[:2] / points[2], changes == 0

    def copy_to(self, frame: Frame) -> None:
        """Put the still parts into ``frame``, colour and depth; the other views' rectangles become empty."""
        self._context.copy_framebuffer(frame.target, self._whole.target)

    def shade(self, world: NDArray[np.float64]) -> None:
        """Light anew what moving parts may shade, in the framebuffer in use; the shadow map must be bound.

        Args:
            world: (N, 4, 4) ``world_from_part`` of the moving parts.
        """
        triangles = strips(self._reach.cells(world))
        if len(triangles):
            self._index.write(triangles)
            self._relight(self._array, triangles.size)

    def shade_all(self) -> None:
        """Light anew every pixel, in the framebuffer in use; the shadow map must be bound."""
        self._relight(self._whole_array, self._whole_count)

    def _relight(self, cells: Any, corners: int) -> None:
        self._lit.colour.use(_LIT_UNIT)
        self._lit.depth.use(_DEPTH_UNIT)
        self._context.disable(self._context.DEPTH_TEST | self._context.CULL_FACE)
        cells.render(vertices=corners)
        self._context.enable(self._context.DEPTH_TEST | self._context.CULL_FACE)

    def release(self) -> None:
        """Give the GPU's memory back."""
        for item in self._held:
            item.release()
