"""The shadow map: how far the light sees.

Not here: what is drawn into it, and the light itself (``bench.calvin.shaders``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.calvin import shaders

UNIT = 1
"""Texture unit that it is bound to."""


class ShadowMap:
    """Depth as the light sees it.  The still parts are kept in a map of their own and copied."""

    def __init__(self, context: Any) -> None:
        self._context = context
        size = (shaders.SHADOW_SIZE,) * 2
        self.depths = [context.depth_texture(size) for _ in range(2)]
        # Only framebuffers that have a colour are copied.
        self._colours = [context.renderbuffer(size, 1) for _ in range(2)]
        self.frame, self._still = (
            context.framebuffer([colour], depth) for colour, depth in zip(self._colours, self.depths, strict=True)
        )
        for depth in self.depths:
            depth.compare_func = "<="
            depth.repeat_x = depth.repeat_y = False
            depth.filter = (context.LINEAR, context.LINEAR)

    def draw_still(self, draw: Callable[[], None]) -> None:
        """Keep what ``draw`` draws for all maps to come."""
        self._still.use()
        self._still.clear(depth=1.0)
        draw()

    def draw(self, draw: Callable[[], None] | None = None) -> None:
        """Make the map: the still parts, and what ``draw`` adds; bind it."""
        self._context.copy_framebuffer(self.frame, self._still)
        if draw is not None:
            self.frame.use()
            draw()
        self.depths[0].use(UNIT)

    def draw_all(self, draw: Callable[[], None] | None) -> None:
        """Make the map of what ``draw`` draws alone, or of nothing; bind it."""
        self.frame.use()
        self.frame.clear(depth=1.0)
        if draw is not None:
            draw()
        self.depths[0].use(UNIT)

    def release(self) -> None:
        """Give the GPU's memory back."""
        for item in (self.frame, self._still, *self.depths, *self._colours):
            item.release()
