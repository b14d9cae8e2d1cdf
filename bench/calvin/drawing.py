"""A world's parts in the memory of what draws, and the calls that draw them.

Not here: where the parts are and which of them a picture needs (``bench.calvin.render``); the programs
(``bench.calvin.shaders``).  Meshes and images are uploaded once; where parts stand is one small buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import images, shaders
from bench.calvin.gl_calls import calls
from bench.calvin.parts import Part
from bench.calvin.shadow_map import UNIT as SHADOW_UNIT
from bench.calvin.thinning import LEVELS
from bench.calvin.vertices import FORMATS, pack

OBJECT = np.dtype([("world", "f4", (3, 4)), ("tint", "f4", 4)])
"""A row of the uniform block."""
NEAR, FAR, SHADOW = range(len(LEVELS))
_OBJECTS_BINDING = 0
_IMAGE_UNIT = 0
_TEXTURE_2D, _RGB8, _RGB, _UNSIGNED_BYTE = 0x0DE1, 0x8051, 0x1907, 0x1401

Run = tuple[Any, int, int]
"""What one call draws: a texture or None, first corner and number of corners."""


@lru_cache(maxsize=4)
def programs(context: Any) -> dict[str, Any]:
    """Compile the programs of a context once; all renderers share them."""
    compiled = {}
    for name, sources in shaders.program_sources().items():
        program = context.program(**sources)
        if "Objects" in program:
            program["Objects"].binding = _OBJECTS_BINDING
            program["shadow_from_world"].write(shaders.shadow_from_world().T.astype("f4").tobytes())
        if "shadow_map" in program:
            program["shadow_map"].value = SHADOW_UNIT
        if "image" in program:
            program["image"].value = _IMAGE_UNIT
        compiled[name] = program
    calls()["glReleaseShaderCompiler"]()  # 7 MB in Mesa
    return compiled


class Drawing:
    """The parts of one world, ready to be drawn.

    The context must be current in every method.

    Args:
        context: moderngl's.
        parts: what there is to draw, in drawing order.
        rows: of each part, its row in the uniform block.
    """

    def __init__(self, context: Any, parts: Sequence[Part], rows: Sequence[int]) -> None:
        self._context = context
        self._programs = programs(context)
        levels = range(len(LEVELS))
        vertices, corners, ranges = pack(
            [part.levels[level] for level in levels for part in parts], [row for _ in levels for row in rows]
        )
        self._ranges = [ranges[level * len(parts) : (level + 1) * len(parts)] for level in levels]
        buffer = context.buffer(vertices.tobytes())
        index = context.buffer(corners.tobytes())
        self._uniforms = context.buffer(reserve=shaders.MAX_OBJECTS * OBJECT.itemsize)
        self._arrays = {
            name: context.vertex_array(self._programs[name], [(buffer, *layout)], index)
            for name, layout in FORMATS.items()
        }
        self._held = [*self._arrays.values(), buffer, index, self._uniforms]
        worn = {image: self._texture(image) for image in {part.image for part in parts} if image is not None}
        self._textures = [worn.get(part.image) if part.image is not None else None for part in parts]

    def _texture(self, image: str | Path) -> Any:
        levels = images.levels_of(image)
        texture = self._context.texture(levels[0].shape[1::-1], 3, alignment=1)
        texture.use(_IMAGE_UNIT)
        # All levels at once: uploaded one by one, Mesa keeps them twice.
        height, width = levels[0].shape[:2]
        calls()["glTexStorage2D"](_TEXTURE_2D, len(levels), _RGB8, width, height)
        for level, pixels in enumerate(levels):
            place = (_TEXTURE_2D, level, 0, 0, *pixels.shape[1::-1])
            calls()["glTexSubImage2D"](*place, _RGB, _UNSIGNED_BYTE, pixels.tobytes())
        texture.filter = (self._context.LINEAR_MIPMAP_NEAREST, self._context.LINEAR)
        self._held.append(texture)
        return texture

    def begin(self, objects: NDArray[Any]) -> None:
        """Set the state that pictures need.

        Args:
            objects: rows of type ``OBJECT``: where parts stand and their colours.
        """
        context = self._context
        self._uniforms.write(objects)
        self._uniforms.bind_to_uniform_block(_OBJECTS_BINDING)
        context.enable_only(context.DEPTH_TEST | context.CULL_FACE)
        # Views are flipped, the shadow map is not: the same setting culls their back sides and its front sides.  So
        # back sides cast the shadow, and lit sides do not shade themselves.
        context.front_face, context.cull_face = "cw", "back"

    def cast(self, first: int, last: int) -> None:
        """Draw parts ``first`` … ``last`` - 1 as the light sees them."""
        start, stop = self._ranges[SHADOW][first][0], sum(self._ranges[SHADOW][last - 1])
        self._arrays["shadow"].render(first=start, vertices=stop - start)

    def runs(self, parts: Iterable[tuple[int, int]]) -> list[Run]:
        """Return what to draw for parts and their levels: neighbours that share an image become one call."""
        runs: list[Run] = []
        for part, level in parts:
            texture, (first, count) = self._textures[part], self._ranges[level][part]
            if runs and runs[-1][0] is texture and runs[-1][1] + runs[-1][2] == first:
                runs[-1] = (texture, runs[-1][1], runs[-1][2] + count)
            else:
                runs.append((texture, first, count))
        return runs

    def draw(self, clip_from_world: NDArray[np.float64], runs: Iterable[Run]) -> None:
        """Draw what ``runs`` gave, as a camera sees it, into the framebuffer in use."""
        matrix = clip_from_world.T.astype("f4").tobytes()
        for program in ("plain", "textured"):
            self._programs[program]["clip_from_world"].write(matrix)
        for texture, first, count in runs:
            if texture is not None:
                texture.use(_IMAGE_UNIT)
            self._arrays["plain" if texture is None else "textured"].render(vertices=count, first=first)

    def release(self) -> None:
        """Give the memory back."""
        for item in self._held:
            item.release()
