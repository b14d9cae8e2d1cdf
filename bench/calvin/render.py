"""The fast renderer: PyBullet's bodies drawn by OpenGL, all views of a moment in one context.

Not here: physics, what the cameras are (``bench.calvin.camera``), PyBullet's own renderers
(``bench.calvin.bullet_render``).  Meshes are uploaded once; a draw asks PyBullet where its links are, draws one shadow
map and then each view that somebody wants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import backdrop, gl, shaders, textures
from bench.calvin.backdrop import Backdrop
from bench.calvin.bullet import pybullet
from bench.calvin.camera import CAMERAS, Camera, gripper_view_matrix, static_view_matrix
from bench.calvin.frames import RECTANGLES, Frame
from bench.calvin.parts import LIGHTS, Part, PoseReader, collect_parts
from bench.calvin.scene import SceneSpec
from bench.calvin.shadow_map import UNIT as SHADOW_UNIT
from bench.calvin.shadow_map import ShadowMap
from bench.calvin.sight import Sight
from bench.calvin.thinning import LEVELS
from bench.calvin.vertices import FORMATS, pack
from bench.errors import UserError

OBJECT = np.dtype([("world", "f4", (3, 4)), ("tint", "f4", 4)])
"""A row of the uniform block."""
_OBJECTS_BINDING = 0
_IMAGE_UNIT = 0
_NEAR, _FAR, _SHADOW = range(len(LEVELS))
_LARGE = 5.0
"""Metres beyond which a part is a floor."""
_STILL_DIGITS = 4
"""Still parts stand at whole tenths of a millimetre: furniture that only trembles is not drawn anew."""


@lru_cache(maxsize=32)
def _pixels(image: str | Path) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8, first row at the bottom as OpenGL has it."""
    if isinstance(image, str):
        return np.ascontiguousarray(textures.material(image)[::-1])
    from PIL import Image as Pillow

    return np.ascontiguousarray(np.asarray(Pillow.open(image).convert("RGB"))[::-1])


Run = tuple[Any, int, int]
"""What one call draws: a texture or None, first corner and number of corners."""


def _in_drawing_order(parts: Sequence[Part]) -> list[Part]:
    """Return what moves first; then what is near, and the floor last, so that hidden pixels are not computed."""
    return sorted(
        parts,
        key=lambda part: (
            part.still,
            part.image is not None,
            part.fixed,
            np.ptp(part.levels[_NEAR].position, axis=0).max() > _LARGE,
            -part.body,
            str(part.image),
        ),
    )


def _projection(camera: Camera) -> NDArray[np.float64]:
    """Return (4, 4) the camera's projection with y pointing down: rows are read top first."""
    projection = np.array(camera.projection_matrix()).reshape(4, 4).T
    projection[1] *= -1
    return projection


@lru_cache(maxsize=4)
def _programs(context: Any) -> dict[str, Any]:
    """Compile the programs of a context once; all renderers share them."""
    programs = {}
    for name, sources in shaders.program_sources().items():
        program = context.program(**sources)
        if "Objects" in program:
            program["Objects"].binding = _OBJECTS_BINDING
            program["shadow_from_world"].write(shaders.shadow_from_world().T.astype("f4").tobytes())
        if "shadow_map" in program:
            program["shadow_map"].value = SHADOW_UNIT
        if "image" in program:
            program["image"].value = _IMAGE_UNIT
        programs[name] = program
    return programs


class GlRenderer:
    """Draws the static and the wrist view of one PyBullet client.

    Args:
        client: PyBullet's physics client id; everything must be loaded.
        scene: says which procedural material a link has; None for none.
        assets: where meshes that bring their own images come from; with them no procedural material is used.
        urdfs: body id to URDF and ``globalScaling`` of bodies that were loaded without their visual shapes.

    Raises:
        UserError: no EGL here, or a visual shape that cannot be drawn.
    """

    def __init__(
        self,
        client: int,
        scene: SceneSpec | None = None,
        assets: Path | str | None = None,
        urdfs: Mapping[int, tuple[Path, float]] | None = None,
    ) -> None:
        self.client = client
        parts = collect_parts(client, {} if scene is None or assets is not None else scene.materials, urdfs)
        self.parts = parts = _in_drawing_order(parts)
        self._moving = sum(not part.still for part in parts)
        places = list(dict.fromkeys((part.body, part.link, part.rgba) for part in parts))
        if len(places) > shaders.MAX_OBJECTS:
            raise UserError(f"renderer gl: expected at most {shaders.MAX_OBJECTS} links, got {len(places)}")
        self._rows = np.array([places.index((part.body, part.link, part.rgba)) for part in parts])
        self._fixed_rows = self._rows[[part.fixed for part in parts]]
        self._still_row = int(self._rows[self._moving :].min(initial=len(places)))
        self._poses = PoseReader(client, [place[:2] for place in places])
        self._camera_link = self._links_named(b"gripper_cam")[:1]
        lights = self._links_named(*(name.encode() for name in LIGHTS))
        self._light_rows = {place[:2]: row for row, place in enumerate(places) if place[:2] in lights}
        self._objects = np.zeros(len(places), OBJECT)
        self._objects["tint"] = [place[2] for place in places]
        self._gripper_projection = _projection(CAMERAS["gripper"])
        self._static_clip = _projection(CAMERAS["static"]) @ np.array(static_view_matrix()).reshape(4, 4).T
        self._sight = Sight(CAMERAS["gripper"], [part.levels[_NEAR] for part in parts])
        self._still_state = b""
        self._held: list[Any] = []
        self._backdrop: Backdrop | None = None
        self._context = gl.context()
        with gl.LOCK, self._context:
            self._upload()

    @property
    def name(self) -> str:
        """Return the device that draws, ``"llvmpipe (LLVM 15.0.6, 256 bits)"`` for instance."""
        return gl.device_name()

    def _links_named(self, *names: bytes) -> list[tuple[int, int]]:
        """Return (body, link) of every link with one of the names."""
        found = []
        for index in range(pybullet.getNumBodies(physicsClientId=self.client)):
            body = pybullet.getBodyUniqueId(index, physicsClientId=self.client)
            for link in range(pybullet.getNumJoints(body, physicsClientId=self.client)):
                if pybullet.getJointInfo(body, link, physicsClientId=self.client)[12] in names:
                    found.append((body, link))
        return found

    def _upload(self) -> None:
        context = self._context
        self._programs = _programs(context)
        levels = range(len(LEVELS))
        vertices, corners, ranges = pack(
            [part.levels[level] for level in levels for part in self.parts], [row for _ in levels for row in self._rows]
        )
        count = len(self.parts)
        self._ranges = [ranges[level * count : (level + 1) * count] for level in levels]
        buffer = context.buffer(vertices.tobytes())
        index = context.buffer(corners.tobytes())
        self._uniforms = context.buffer(reserve=shaders.MAX_OBJECTS * OBJECT.itemsize)
        self._arrays = {
            name: context.vertex_array(self._programs[name], [(buffer, *layout)], index)
            for name, layout in FORMATS.items()
        }
        self._shadow_map, self._frame = ShadowMap(context), Frame(context)
        images = {image: self._texture(image) for image in {part.image for part in self.parts} if image is not None}
        self._textures = [images.get(part.image) if part.image is not None else None for part in self.parts]
        far = [(part, _FAR) for part in range(count)]
        self._moving_runs = self._runs(far[: self._moving])
        still = far[self._moving :]
        self._fixed_runs = self._runs(place for place in still if self.parts[place[0]].fixed)
        self._carried_runs = self._runs(place for place in still if not self.parts[place[0]].fixed)
        self._held += [*self._arrays.values(), buffer, index, self._uniforms, self._shadow_map, self._frame]

    def _texture(self, image: str | Path) -> Any:
        pixels = _pixels(image)
        texture = self._context.texture((pixels.shape[1], pixels.shape[0]), 3, pixels.tobytes(), alignment=1)
        texture.build_mipmaps()
        texture.filter = (self._context.LINEAR_MIPMAP_NEAREST, self._context.LINEAR)
        self._held.append(texture)
        return texture

    def draw(self, names: Iterable[str] = tuple(CAMERAS), kinds: Iterable[str] = ("rgb",)) -> dict[str, NDArray[Any]]:
        """Draw the named cameras now.

        Args:
            names: ``static`` and/or ``gripper``.
            kinds: ``rgb`` and/or ``depth``; both come from the same drawing.

        Returns:
            ``rgb_NAME`` -> uint8 (H, W, 3), ``depth_NAME`` -> float32 (H, W) metres along the camera's z.
        """
        return self.start(names, kinds)()

    def start(
        self, names: Iterable[str] = tuple(CAMERAS), kinds: Iterable[str] = ("rgb",)
    ) -> Callable[[], dict[str, NDArray[Any]]]:
        """Let the GPU draw the named cameras as they are now; what is returned waits for the pictures of :meth:`draw`.

        Between the two the processor is free; they hold until this renderer draws again.
        """
        if self._context is None:
            raise UserError("renderer gl: expected an open renderer, got a closed one; make a new environment")
        names, kinds = tuple(names), tuple(kinds)
        clips = {name: self._clip_from_world(name) for name in names}
        world = self._read_scene()
        with gl.LOCK, self._context:  # leaving it hands all commands to the GPU
            self._begin()
            self._draw_views(clips, world)
            self._frame.copy_out(names, kinds)
        return partial(self._finish, names, kinds)

    def _finish(self, names: tuple[str, ...], kinds: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        pictures: dict[str, NDArray[Any]] = {}
        with gl.LOCK, self._context:
            if "rgb" in kinds:
                pictures |= {f"rgb_{name}": view for name, view in self._frame.pixels(names).items()}
            if "depth" in kinds:
                pictures |= {f"depth_{name}": view for name, view in self._frame.metres(names).items()}
        return pictures

    def _clip_from_world(self, name: str) -> NDArray[np.float64]:
        if name == "static":
            return self._static_clip
        if name == "gripper" and self._camera_link:
            body, link = self._camera_link[0]
            pose = pybullet.getLinkState(body, link, physicsClientId=self.client)[:2]
            return self._gripper_projection @ np.array(gripper_view_matrix(pose)).reshape(4, 4).T
        raise UserError(f"camera: expected one of {', '.join(CAMERAS)}, got {name!r}; choose one of them")

    def _read_scene(self) -> NDArray[np.float64]:
        """Lay PyBullet's poses and colours out as the uniform block has them; return the parts' poses (N, 4, 4)."""
        world = self._poses.read()
        world[self._still_row :] = world[self._still_row :].round(_STILL_DIGITS)
        self._objects["world"] = world[:, :3]
        for body in {body for body, _ in self._light_rows}:
            for shape in pybullet.getVisualShapeData(body, physicsClientId=self.client):
                row = self._light_rows.get(shape[:2])
                if row is not None:
                    self._objects["tint"][row] = shape[7]
        parts: NDArray[np.float64] = world[self._rows]
        return parts

    def _begin(self) -> None:
        """Set the state that pictures need and draw the shadow map."""
        context = self._context
        self._uniforms.write(self._objects)
        self._uniforms.bind_to_uniform_block(_OBJECTS_BINDING)
        context.enable_only(context.DEPTH_TEST | context.CULL_FACE)
        # Views are flipped, the shadow map is not: the same setting culls their back sides and its front sides.  So
        # back sides cast the shadow, and lit sides do not shade themselves.
        context.front_face, context.cull_face = "cw", "back"
        still = self._objects[self._still_row :].tobytes()
        if still != self._still_state:
            self._still_state = still
            self._shadow_map.draw_still(lambda: self._draw_shadow(self._moving, len(self.parts)))
            self._backdrop_is_stale = True
        self._shadow_map.draw(lambda: self._draw_shadow(0, self._moving))

    def _draw_shadow(self, first: int, last: int) -> None:
        start, stop = self._ranges[_SHADOW][first][0], sum(self._ranges[_SHADOW][last - 1])
        self._arrays["shadow"].render(first=start, vertices=stop - start)

    def _draw_views(self, clips: Mapping[str, NDArray[np.float64]], world: NDArray[np.float64]) -> None:
        frame = self._frame.target
        if backdrop.VIEW in clips:
            still = self._still_background(clips[backdrop.VIEW])
            still.copy_to(self._frame)
        frame.use()
        if backdrop.VIEW not in clips:
            frame.clear(*shaders.BACKGROUND, 1.0, depth=1.0)
        for name, clip_from_world in clips.items():
            frame.viewport = RECTANGLES[name]
            if name != backdrop.VIEW:
                self._draw_runs(clip_from_world, self._runs_in_sight(clip_from_world, world))
                continue
            if gl.on_cpu():
                still.shade(world[: self._moving])
            else:  # a GPU computes all pixels sooner than the processor finds out which of them matter
                still.shade_all()
            self._draw_runs(clip_from_world, self._moving_runs)

    def _still_background(self, clip_from_world: NDArray[np.float64]) -> Backdrop:
        if self._backdrop is None:
            casters = [part.levels[_SHADOW] for part in self.parts[: self._moving]]
            self._backdrop = Backdrop(self._context, self._programs["relight"], clip_from_world, casters)
            self._held.append(self._backdrop)
        if self._backdrop_is_stale:
            self._backdrop.rebuild(
                self._objects[self._fixed_rows].tobytes(),
                lambda: self._draw_runs(clip_from_world, self._fixed_runs),
                lambda: self._draw_runs(clip_from_world, self._carried_runs),
                self._shadow_map.frame,
                self._shadow_map.draw,
            )
            self._backdrop_is_stale = False
            self._shadow_map.draw(lambda: self._draw_shadow(0, self._moving))
        return self._backdrop

    def _draw_runs(self, clip_from_world: NDArray[np.float64], runs: Iterable[Run]) -> None:
        matrix = clip_from_world.T.astype("f4").tobytes()
        for program in ("plain", "textured"):
            self._programs[program]["clip_from_world"].write(matrix)
        for texture, first, count in runs:
            if texture is not None:
                texture.use(_IMAGE_UNIT)
            self._arrays["plain" if texture is None else "textured"].render(vertices=count, first=first)

    def _runs_in_sight(self, clip_from_world: NDArray[np.float64], world: NDArray[np.float64]) -> list[Run]:
        seen, near = self._sight(clip_from_world, world)
        return self._runs((part, _NEAR if near[part] else _FAR) for part in np.flatnonzero(seen).tolist())

    def _runs(self, parts: Iterable[tuple[int, int]]) -> list[Run]:
        """Return what to draw for parts and their levels: neighbours that share an image become one call."""
        runs: list[Run] = []
        for part, level in parts:
            texture, (first, count) = self._textures[part], self._ranges[level][part]
            if runs and runs[-1][0] is texture and runs[-1][1] + runs[-1][2] == first:
                runs[-1] = (texture, runs[-1][1], runs[-1][2] + count)
            else:
                runs.append((texture, first, count))
        return runs

    def close(self) -> None:
        """Give the GPU's memory back; a second call does nothing."""
        if self._context is None:
            return
        with gl.LOCK, self._context:
            for item in self._held:
                item.release()
        self._context = None
        self._held, self._backdrop = [], None
