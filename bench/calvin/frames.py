"""Where the renderer draws: one framebuffer that holds every view, so that all of them are read at once.

Reading makes the processor wait for the GPU, and where several processes share a GPU each piece of work costs a turn.
So the GPU itself copies the pictures to the processor (``bench.calvin.gpu_copy``), as the last of the commands that
draw them.  Where the processor draws, its pictures are read straight from the framebuffer.  Rows lie top first: the
cameras' projections are flipped, nothing is turned over afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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

SIZE = (max(camera.size for camera in CAMERAS.values()), sum(camera.size for camera in CAMERAS.values()))

Pictures = dict[str, NDArray[Any]]
"""``rgb_NAME`` -> uint8 (H, W, 3), ``depth_NAME`` -> float32 (H, W) metres along the camera's z, first row on top."""


@dataclass(frozen=True)
class _Kind:
    """How one kind of picture is read: how many numbers of what type a pixel has, and moderngl's words for it."""

    dtype: type[np.generic]
    copied_channels: int
    read_channels: int
    words: Mapping[str, Any]


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {"rgb": _Kind(np.uint8, 4, 3, {}), "depth": _Kind(np.float32, 1, 1, {"attachment": -1, "dtype": "f4"})}
)


class Frame:
    """A framebuffer of colour and depth that holds all views; ``context`` is moderngl's."""

    def __init__(self, context: Any) -> None:
        self.colour = context.texture(SIZE, 4)
        self.colour.filter = (context.NEAREST, context.NEAREST)
        self.depth = context.depth_texture(SIZE)
        self.depth.compare_func, self.depth.filter = "", (context.NEAREST, context.NEAREST)
        self.target = context.framebuffer([self.colour], self.depth)
        self._context = context
        self._copies: dict[tuple[str, int], gpu_copy.GpuCopy] = {}

    def take(self, names: Sequence[str], kinds: Iterable[str], place: int = 0) -> Callable[[], Pictures]:
        """Take the named views, ``rgb`` and/or ``depth``, as they stand; what is returned waits for them.

        Args:
            names: of the cameras.
            kinds: of pictures.
            place: among those on their way from the GPU; what was taken there before must have been fetched.
        """
        if gl.on_cpu():
            pictures = {f"{kind}_{name}": self._read(kind, name) for kind in kinds for name in names}
            return lambda: pictures
        around = _around(names)
        copies = {kind: self._copy(kind, around, place) for kind in kinds}
        return partial(_fetch, names, around, copies)

    def _copy(self, kind: str, around: Rectangle, place: int) -> gpu_copy.GpuCopy:
        """Let the GPU copy a rectangle."""
        copy = self._copies.get((kind, place))
        if copy is None:
            copy = self._copies[kind, place] = gpu_copy.GpuCopy(self._context, SIZE[0] * SIZE[1] * 4)
        how = _KINDS[kind]
        self.target.read_into(copy.buffer, viewport=around, components=how.copied_channels, **how.words)
        copy.begun()
        return copy

    def _read(self, kind: str, name: str) -> NDArray[Any]:
        """Return a view as it stands in the framebuffer."""
        left, top, width, height = RECTANGLES[name]
        how = _KINDS[kind]
        view = np.empty((height, width, how.read_channels), how.dtype)
        self.target.read_into(
            view, viewport=(left, top, width, height), alignment=1, components=how.read_channels, **how.words
        )
        return view if kind == "rgb" else _metres(view[..., 0], name)

    def release(self) -> None:
        """Give the GPU's memory back."""
        for item in (self.target, self.colour, self.depth, *self._copies.values()):
            item.release()


def _fetch(names: Iterable[str], around: Rectangle, copies: Mapping[str, gpu_copy.GpuCopy]) -> Pictures:
    """Wait for a rectangle's copies; return the views in it."""
    pictures: Pictures = {}
    for kind, copy in copies.items():
        how = _KINDS[kind]
        raw = copy.wait()[: around[2] * around[3] * 4].view(how.dtype)
        whole = raw.reshape(around[3], around[2], how.copied_channels)
        for name in names:
            view = _cut(whole, name, around)
            pictures[f"{kind}_{name}"] = _opaque(view) if kind == "rgb" else _metres(view[..., 0], name)
    return pictures


def _metres(depth: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return the depth buffer's 0..1 as metres along the camera's z."""
    return CAMERAS[name].metres(depth.astype(np.float64)).astype(np.float32)


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
