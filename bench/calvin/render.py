"""The fast renderer: PyBullet's bodies drawn by OpenGL, all views of a moment in one context.

Not here: physics, what the cameras are (``bench.calvin.camera``), PyBullet's own renderers
(``bench.calvin.bullet_render``).  Meshes are uploaded once; a draw asks PyBullet where its links are, draws one shadow
map and then each view that somebody wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import gl, shaders, textures
from bench.calvin.bullet import pybullet
from bench.calvin.camera import CAMERAS, Camera, gripper_view_matrix, static_view_matrix
from bench.calvin.meshes import Mesh
from bench.calvin.parts import PoseReader, collect_parts
from bench.calvin.scene import SceneSpec
from bench.calvin.thinning import LEVELS
from bench.errors import UserError

VERTEX = np.dtype([("position", "f4", 3), ("normal", "f4", 3), ("uv", "f4", 2), ("colour_and_object", "u1", 4)])
_TEXTURED_FORMAT = ("3f4 3f4 2f4 4f1", "position", "normal", "uv", "colour_and_object")
_PLAIN_FORMAT = ("3f4 3f4 8x 4f1", "position", "normal", "colour_and_object")
_SHADOW_FORMAT = ("3f4 20x 4f1", "position", "colour_and_object")
_OBJECTS_BINDING = 0
_FAR_PIXEL = 0.003
"""Metres a pixel from which on the coarse meshes are drawn."""
_IMAGE_UNIT, _SHADOW_UNIT = 0, 1


@lru_cache(maxsize=32)
def _pixels(image: str | Path) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8, first row at the bottom as OpenGL has it."""
    if isinstance(image, str):
        return np.ascontiguousarray(textures.material(image)[::-1])
    from PIL import Image as Pillow

    return np.ascontiguousarray(np.asarray(Pillow.open(image).convert("RGB"))[::-1])


Range = tuple[int, int]
"""First corner and number of corners in the index buffer."""


def pack(levels: Sequence[Mesh], objects: Sequence[int]) -> tuple[NDArray[np.void], NDArray[np.int32], list[Range]]:
    """Return the meshes' vertices in one array of type ``VERTEX``, their corners in one int32 (3M,), and whose is what.

    Args:
        levels: what to draw.
        objects: for each mesh, its row in the uniform block.
    """
    vertices = np.zeros(sum(len(mesh.position) for mesh in levels), VERTEX)
    corners, ranges, start, first = [], [], 0, 0
    for mesh, number in zip(levels, objects, strict=True):
        rows = slice(start, start + len(mesh.position))
        vertices["position"][rows], vertices["normal"][rows], vertices["uv"][rows] = mesh.position, mesh.normal, mesh.uv
        vertices["colour_and_object"][rows, :3] = mesh.colour
        vertices["colour_and_object"][rows, 3] = number
        corners.append(mesh.triangles.ravel() + start)
        ranges.append((first, mesh.triangles.size))
        start, first = rows.stop, first + mesh.triangles.size
    return vertices, np.concatenate(corners).astype(np.int32), ranges


def in_sight(
    camera_from_world: NDArray[np.float64], camera: Camera, centres: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return (N,) which spheres reach into a camera's pyramid of sight.

    Args:
        camera_from_world: OpenGL view matrix (4, 4), the camera looks along -z.
        camera: gives the field of view and the nearest and farthest depth.
        centres: (N, 3) in the world, metres.
        radii: (N,) metres.
    """
    x, y, z = camera_from_world[:3, :3] @ centres.T + camera_from_world[:3, 3:]
    half = np.radians(camera.field_of_view) / 2
    aside = np.maximum(np.abs(x), np.abs(y)) * np.cos(half) + z * np.sin(half)
    seen: NDArray[np.bool_] = (aside < radii) & (-z + radii > camera.near) & (-z - radii < camera.far)
    return seen


class _Target:
    """A framebuffer of one camera's size, and how to read it."""

    def __init__(self, context: Any, camera: Camera) -> None:
        size = (camera.size, camera.size)
        self.camera = camera
        self.projection = np.array(camera.projection_matrix()).reshape(4, 4).T
        self.depth = context.depth_texture(size)
        self.colour = context.renderbuffer(size, 4)
        self.frame = context.framebuffer([self.colour], self.depth)

    def pixels(self) -> NDArray[np.uint8]:
        """Return uint8 (H, W, 3), first row on top."""
        size = self.camera.size
        raw = np.frombuffer(self.frame.read(components=3, alignment=1), np.uint8).reshape(size, size, 3)
        return raw[::-1].copy()

    def metres(self) -> NDArray[np.float32]:
        """Return float32 (H, W) depth along the camera's z, first row on top."""
        size = self.camera.size
        raw = np.frombuffer(self.depth.read(alignment=1), np.float32).reshape(size, size)
        return self.camera.metres(raw[::-1].astype(np.float64)).astype(np.float32)

    def release(self) -> None:
        """Give the GPU's memory back."""
        for item in (self.frame, self.colour, self.depth):
            item.release()


@lru_cache(maxsize=4)
def _programs(context: Any) -> dict[str, Any]:
    """Compile the programs of a context once; all renderers share them."""
    programs = {}
    for name, sources in shaders.program_sources().items():
        program = context.program(**sources)
        program["Objects"].binding = _OBJECTS_BINDING
        program["shadow_from_world"].write(shaders.shadow_from_world().T.astype("f4").tobytes())
        if "shadow_map" in program:
            program["shadow_map"].value = _SHADOW_UNIT
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
        urdfs: body id to URDF and ``globalScaling`` of bodies that were loaded with ``URDF_IGNORE_VISUAL_SHAPES``;
            their lights' colours are told by :meth:`paint`.

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
        # What is near comes first and the floor last, so that hidden pixels are not computed.
        parts.sort(key=lambda part: (part.image is not None, str(part.image) == "checker", -part.body, str(part.image)))
        self.parts = parts
        places = list(dict.fromkeys((part.body, part.link, part.rgba) for part in parts))
        if len(places) > shaders.MAX_OBJECTS:
            raise UserError(f"renderer gl: expected at most {shaders.MAX_OBJECTS} links, got {len(places)}")
        self._rows = np.array([places.index((part.body, part.link, part.rgba)) for part in parts])
        self._poses = PoseReader(client, [place[:2] for place in places])
        self._camera_link = self._links_named(b"gripper_cam")[:1]
        lights = self._links_named(b"led_link", b"light_link")
        self._light_rows = {place[:2]: row for row, place in enumerate(places) if place[:2] in lights}
        self._uniforms = np.zeros(shaders.MAX_OBJECTS * 20, np.float32)
        self._tints = self._uniforms[shaders.MAX_OBJECTS * 16 :].reshape(-1, 4)  # (4N,) -> (N, 4), a view
        self._tints[: len(places)] = [place[2] for place in places]
        self._world = np.zeros((len(places), 4, 4))
        self._bound_parts()
        self._held: list[Any] = []
        self._targets: dict[str, _Target] = {}
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

    def _bound_parts(self) -> None:
        """Put a sphere around each part, in its link's frame."""
        low = np.array([part.levels[0].position.min(axis=0) for part in self.parts], np.float64)
        high = np.array([part.levels[0].position.max(axis=0) for part in self.parts], np.float64)
        self._centres = np.concatenate([(low + high) / 2, np.ones((len(low), 1))], axis=1)  # (N, 4)
        self._radii = np.linalg.norm(high - low, axis=1) / 2

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
        self._objects = context.buffer(reserve=self._uniforms.nbytes)
        formats = {"plain": _PLAIN_FORMAT, "textured": _TEXTURED_FORMAT, "shadow": _SHADOW_FORMAT}
        self._arrays = {
            name: context.vertex_array(self._programs[name], [(buffer, *layout)], index)
            for name, layout in formats.items()
        }
        self._shadow_map = context.depth_texture((shaders.SHADOW_SIZE,) * 2)
        self._shadow_map.compare_func = "<="
        self._shadow_map.repeat_x = self._shadow_map.repeat_y = False
        self._shadow_map.filter = (context.LINEAR, context.LINEAR)
        self._shadow_frame = context.framebuffer(depth_attachment=self._shadow_map)
        images = {image: self._texture(image) for image in {part.image for part in self.parts} if image is not None}
        self._textures = [images.get(part.image) if part.image is not None else None for part in self.parts]
        self._held += [*self._arrays.values(), buffer, index, self._objects, self._shadow_frame, self._shadow_map]

    def _texture(self, image: str | Path) -> Any:
        pixels = _pixels(image)
        texture = self._context.texture((pixels.shape[1], pixels.shape[0]), 3, pixels.tobytes(), alignment=1)
        texture.build_mipmaps()
        texture.filter = (self._context.LINEAR_MIPMAP_NEAREST, self._context.LINEAR)
        self._held.append(texture)
        return texture

    def draw(self, names: Iterable[str] = tuple(CAMERAS), depth: bool = False) -> dict[str, NDArray[Any]]:
        """Draw the named cameras now.

        Args:
            names: ``static`` and/or ``gripper``.
            depth: give depth in metres instead of colours.

        Returns:
            camera name -> uint8 (H, W, 3), or float32 (H, W) metres along the camera's z.
        """
        if self._context is None:
            raise UserError("renderer gl: expected an open renderer, got a closed one; make a new environment")
        names = tuple(names)
        views = {name: self._view_matrix(name) for name in names}
        self._read_scene()
        pictures = {}
        with gl.LOCK, self._context:
            self._begin()
            for name, view in views.items():
                target = self._draw_view(name, view)
                pictures[name] = target.metres() if depth else target.pixels()
        return pictures

    def _view_matrix(self, name: str) -> NDArray[np.float64]:
        if name == "static":
            columns = static_view_matrix()
        elif name == "gripper" and self._camera_link:
            body, link = self._camera_link[0]
            columns = gripper_view_matrix(pybullet.getLinkState(body, link, physicsClientId=self.client)[:2])
        else:
            raise UserError(f"camera: expected one of {', '.join(CAMERAS)}, got {name!r}; choose one of them")
        return np.array(columns).reshape(4, 4).T

    def paint(self, body: int, link: int, rgba: Sequence[float]) -> None:
        """Give a light another colour, where PyBullet does not know it: ``urdfs`` tells what that is."""
        row = self._light_rows.get((body, link))
        if row is None:
            raise UserError(f"paint: expected one of the lights {sorted(self._light_rows)}, got {(body, link)}")
        self._tints[row] = rgba

    def _read_scene(self) -> None:
        """Ask PyBullet for poses and colours and lay them out as the uniform block has them."""
        self._world = self._poses.read()
        self._uniforms[: self._world.size] = self._world.transpose(0, 2, 1).ravel()
        for body in {body for body, _ in self._light_rows}:
            for shape in pybullet.getVisualShapeData(body, physicsClientId=self.client):
                row = self._light_rows.get(shape[:2])
                if row is not None:
                    self._tints[row] = shape[7]

    def _begin(self) -> None:
        """Set the state that pictures need and draw the shadow map."""
        context = self._context
        self._objects.write(self._uniforms)
        self._objects.bind_to_uniform_block(_OBJECTS_BINDING)
        context.enable_only(context.DEPTH_TEST | context.CULL_FACE)
        self._shadow_frame.use()
        self._shadow_frame.clear(depth=1.0)
        context.cull_face = "front"  # back sides cast the shadow, so that lit sides do not shade themselves
        first, last = self._ranges[-1][0][0], sum(self._ranges[-1][-1])
        self._arrays["shadow"].render(first=first, vertices=last - first)
        context.cull_face = "back"
        self._shadow_map.use(_SHADOW_UNIT)

    def _draw_view(self, name: str, view: NDArray[np.float64]) -> _Target:
        if name not in self._targets:
            self._targets[name] = _Target(self._context, CAMERAS[name])
        target = self._targets[name]
        target.frame.use()
        target.frame.clear(*shaders.BACKGROUND, 1.0, depth=1.0)
        clip_from_world = (target.projection @ view).T.astype("f4").tobytes()
        for program in ("plain", "textured"):
            self._programs[program]["clip_from_world"].write(clip_from_world)
        for texture, (first, count) in self._runs(name, view):
            if texture is not None:
                texture.use(_IMAGE_UNIT)
            self._arrays["plain" if texture is None else "textured"].render(vertices=count, first=first)
        return target

    def _runs(self, name: str, view: NDArray[np.float64]) -> list[tuple[Any, Range]]:
        """Return what to draw: neighbours in the index buffer that share an image become one call."""
        camera = CAMERAS[name]
        centres = np.einsum("nij,nj->ni", self._world[self._rows], self._centres)[:, :3]
        # Metres that a pixel spans at the part's nearest point: the thinned surface is off by half a pixel at most.
        away = np.maximum(-(centres @ view[2, :3] + view[2, 3]) - self._radii, camera.near)
        far = away * np.tan(np.radians(camera.field_of_view) / 2) * 2 / camera.size > _FAR_PIXEL
        runs: list[tuple[Any, Range]] = []
        for part in np.flatnonzero(in_sight(view, camera, centres, self._radii)):
            texture, (first, count) = self._textures[part], self._ranges[int(far[part])][part]
            if runs and runs[-1][0] is texture and sum(runs[-1][1]) == first:
                runs[-1] = (texture, (runs[-1][1][0], runs[-1][1][1] + count))
            else:
                runs.append((texture, (first, count)))
        return runs

    def close(self) -> None:
        """Give the GPU's memory back; a second call does nothing."""
        if self._context is None:
            return
        with gl.LOCK, self._context:
            for item in (*self._targets.values(), *self._held):
                item.release()
        self._context = None
        self._held, self._targets = [], {}
