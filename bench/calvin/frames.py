"""Where the renderer draws: one framebuffer that holds every view, so that all of them are read at once.

Reading makes the processor wait for the GPU, and where several processes share a GPU each piece of work costs a turn.
So the GPU itself copies the pictures to the processor (``bench.calvin.gpu_copy``), as the last of the commands that
draw them.  Where the processor draws, its pictures are read straight from the framebuffer.  Rows lie top first: the
cameras' projections are flipped, nothing is turned over afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import gl, gpu_copy
from bench.calvin.camera import CAMERAS

Rectangle = tuple[int, int, int, int]
"""x, y, width and height in pixels, y downwards."""


def _stacked() -> dict[str, Rectangle]:
    places, top = {}, 0
    for camera in CAMERAS.values():
        places[camera.name] = (0, top, camera.size, camera.size)
        top += camera.size
    return places


RECTANGLES: Mapping[str, Rectangle] = MappingProxyType(_stacked())
"""Camera name -> its place in the framebuffer, one below the other."""

_CHANNELS: Mapping[str, int] = {"rgb": 4, "depth": 1}
_WHAT: Mapping[str, Mapping[str, Any]] = {"rgb": {}, "depth": {"attachment": -1, "dtype": "f4"}}

SIZE = (max(camera.size for camera in CAMERAS.values()), sum(camera.size for camera in CAMERAS.values()))


class Frame:
    """A framebuffer of colour and depth that holds all views; ``context`` is moderngl's."""

    def __init__(self, context: Any) -> None:
        self.colour = context.texture(SIZE, 4)
        self.colour.filter = (context.NEAREST, context.NEAREST)
        self.depth = context.depth_texture(SIZE)
        self.depth.compare_func, self.depth.filter = "", (context.NEAREST, context.NEAREST)
        self.target = context.framebuffer([self.colour], self.depth)
        self._context = context
        self._copies: dict[str, gpu_copy.GpuCopy] = {}

    @property
    def copied(self) -> bool:
        """Whether the GPU copies pictures out; if so they are waited for and read without the context."""
        return not gl.on_cpu() and gpu_copy.supported(self._context)

    def copy_out(self, names: Iterable[str], kinds: Iterable[str]) -> None:
        """Let the GPU copy the named views, ``rgb`` and/or ``depth``, for :meth:`pixels` and :meth:`metres`."""
        if not self.copied:
            return
        around = _around(names)
        for kind in kinds:
            if kind not in self._copies:
                self._copies[kind] = gpu_copy.GpuCopy(self._context, SIZE[0] * SIZE[1] * 4)
            copy = self._copies[kind]
            self.target.read_into(copy.buffer, viewport=around, components=_CHANNELS[kind], **_WHAT[kind])
            copy.begun()

    def _read(self, name: str, dtype: type[np.generic], channels: int, kind: str) -> NDArray[Any]:
        """Return a view (H, W, C) as it stands in the framebuffer."""
        left, top, width, height = RECTANGLES[name]
        view = np.empty((height, width, channels), dtype)
        self.target.read_into(
            view, viewport=(left, top, width, height), alignment=1, components=channels, **_WHAT[kind]
        )
        return view

    def _wait(self, kind: str, around: Rectangle) -> NDArray[np.uint8]:
        """Return the bytes (H, 4 W) of the views' rectangle."""
        return self._copies[kind].wait()[: around[2] * around[3] * 4].reshape(around[3], -1)

    def pixels(self, names: Iterable[str]) -> dict[str, NDArray[np.uint8]]:
        """Return camera name -> uint8 (H, W, 3), first row on top, as they were copied out."""
        if not self.copied:
            return {name: self._read(name, np.uint8, 3, "rgb") for name in names}
        around = _around(names)
        picture = self._wait("rgb", around).reshape(around[3], around[2], 4)
        return {name: _opaque(_cut(picture, name, around)) for name in names}

    def metres(self, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return camera name -> float32 (H, W) depth along the camera's z, first row on top, as copied out."""
        if not self.copied:
            depths = {name: self._read(name, np.float32, 1, "depth")[..., 0] for name in names}
        else:
            around = _around(names)
            depth = self._wait("depth", around).view(np.float32)
            depths = {name: _cut(depth, name, around) for name in names}
        return {
            name: CAMERAS[name].metres(depth.astype(np.float64)).astype(np.float32) for name, depth in depths.items()
        }

    def release(self) -> None:
        """Give the GPU's memory back."""
        for item in (self.target, self.colour, self.depth, *self._copies.values()):
            item.release()


def _around(names: Iterable[str]) -> Rectangle:
    """Return the rectangle around several views, as wide as the widest."""
    rectangles = [RECTANGLES[name] for name in names]
    top, bottom = min(y for _, y, _, _ in rectangles), max(y + height for _, y, _, height in rectangles)
    return 0, top, max(width for _, _, width, _ in rectangles), bottom - top


def _cut(picture: NDArray[Any], name: str, around: Rectangle) -> NDArray[Any]:
    """Return a view's part of what was read."""
    _, top, width, height = RECTANGLES[name]
    return picture[top - around[1] : top - around[1] + height, :width]


def _opaque(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, 4) without its last channel; plane by plane, which is five times faster than in one go."""
    colours = np.empty((*picture.shape[:2], 3), np.uint8)
    for channel in range(3):
        colours[..., channel] = picture[..., channel]
    return colours
