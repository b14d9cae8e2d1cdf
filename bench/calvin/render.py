"""The fast renderer: PyBullet's bodies drawn by OpenGL, all views of a moment in one context.

Not here: physics, what the cameras are (``bench.calvin.camera``), PyBullet's own renderers
(``bench.calvin.bullet_render``).  Meshes are uploaded once; a draw asks PyBullet where its links are, draws one shadow
map and then each view that somebody wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pybullet
from numpy.typing import NDArray

from bench.calvin import gl, shaders, textures
from bench.calvin.camera import CAMERAS, Camera, gripper_view_matrix, static_view_matrix
from bench.calvin.parts import Image, Part, PoseReader, collect_parts
from bench.calvin.scene import SceneSpec
from bench.errors import UserError

VERTEX = np.dtype([("position", "f4", 3), ("normal", "f4", 3), ("uv", "f4", 2), ("colour_and_object", "u1", 4)])
_PICTURE_FORMAT = ("3f4 3f4 2f4 4f1", "position", "normal", "uv", "colour_and_object")
_PLAIN_FORMAT = ("3f4 3f4 8x 4f1", "position", "normal", "colour_and_object")
_SHADOW_FORMAT = ("3f4 20x 4f1", "position", "colour_and_object")
_OBJECTS_BINDING = 0
_IMAGE_UNIT, _SHADOW_UNIT = 0, 1


@lru_cache(maxsize=32)
def _pixels(image: str | Path) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8, first row at the bottom as OpenGL has it."""
    if isinstance(image, str):
        return np.ascontiguousarray(textures.material(image)[::-1])
    from PIL import Image as Pillow

    return np.ascontiguousarray(np.asarray(Pillow.open(image).convert("RGB"))[::-1])


def pack(parts: Sequence[Part], objects: Sequence[int]) -> tuple[NDArray[np.void], NDArray[np.int32]]:
    """Return all parts' vertices in one array of type ``VERTEX`` and all triangle corners, int32 (3M,), in another."""
    vertices = np.zeros(sum(len(part.mesh.position) for part in parts), VERTEX)
    corners, start = [], 0
    for part, number in zip(parts, objects, strict=True):
        mesh = part.mesh
        rows = slice(start, start + len(mesh.position))
        vertices["position"][rows], vertices["normal"][rows], vertices["uv"][rows] = mesh.position, mesh.normal, mesh.uv
        vertices["colour_and_object"][rows, :3] = mesh.colour
        vertices["colour_and_object"][rows, 3] = number
        corners.append(mesh.triangles.ravel() + start)
        start = rows.stop
    return vertices, np.concatenate(corners).astype(np.int32)


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
        raw = np.frombuffer(self.frame.read(components=4, alignment=1), np.uint8).reshape(size, size, 4)
        return np.ascontiguousarray(raw[::-1, :, :3])

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
        scene: says which procedural material a link has that brings no image; None for none.
        assets: unused where meshes bring their images; kept so that all renderers are made alike.

    Raises:
        UserError: no EGL here, or a visual shape that cannot be drawn.
    """

    def __init__(self, client: int, scene: SceneSpec | None = None, assets: Path | str | None = None) -> None:
        self.client = client
        self.parts = collect_parts(client, {} if scene is None or assets is not None else scene.materials)
        self.parts.sort(key=lambda part: (isinstance(part.image, Path), str(part.image or "")))
        self._places = list(dict.fromkeys((part.body, part.link, part.rgba) for part in self.parts))
        if len(self._places) > shaders.MAX_OBJECTS:
            raise UserError(f"renderer gl: expected at most {shaders.MAX_OBJECTS} links, got {len(self._places)}")
        self._poses = PoseReader(client, [place[:2] for place in self._places])
        self._camera_link = self._links_named(b"gripper_cam")[:1]
        self._lights = self._links_named(b"led_link", b"light_link")
        self._light_rows = {place[:2]: row for row, place in enumerate(self._places) if place[:2] in self._lights}
        self._uniforms = np.zeros(shaders.MAX_OBJECTS * 20, np.float32)
        self._tints = self._uniforms[shaders.MAX_OBJECTS * 16 :].reshape(-1, 4)  # (4N,) -> (N, 4), a view
        self._tints[: len(self._places)] = [place[2] for place in self._places]
        self._held: list[Any] = []
        self._targets: dict[str, _Target] = {}
        self._context = gl.context()
        with gl.LOCK, self._context:
            self._upload()

    @property
    def name(self) -> str:
        """Return the device that draws, ``"llvmpipe (LLVM 15.0.6, 256 bits)"`` for instance."""
        return str(self._context.info["GL_RENDERER"])

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
        vertices, corners = pack(
            self.parts, [self._places.index((part.body, part.link, part.rgba)) for part in self.parts]
        )
        buffer = context.buffer(vertices.tobytes())
        index = context.buffer(corners.tobytes())
        self._objects = context.buffer(reserve=self._uniforms.nbytes)
        formats = {"plain": _PLAIN_FORMAT, "textured": _PICTURE_FORMAT, "shadow": _SHADOW_FORMAT}
        self._arrays = {
            name: context.vertex_array(self._programs[name], [(buffer, *layout)], index)
            for name, layout in formats.items()
        }
        self._shadow_map = context.depth_texture((shaders.SHADOW_SIZE,) * 2)
        self._shadow_map.compare_func = "<="
        self._shadow_map.repeat_x = self._shadow_map.repeat_y = False
        self._shadow_map.filter = (context.LINEAR, context.LINEAR)
        self._shadow_frame = context.framebuffer(depth_attachment=self._shadow_map)
        self._runs = self._image_runs()
        self._held += [*self._arrays.values(), buffer, index, self._objects, self._shadow_frame, self._shadow_map]

    def _image_runs(self) -> list[tuple[Any, int, int]]:
        """Return (texture or None, first corner, corners) for each run of parts with one image."""
        runs, first = [], 0
        for image, group in groupby(self.parts, key=lambda part: part.image):
            count = sum(part.mesh.triangles.size for part in group)
            runs.append((self._texture(image), first, count))
            first += count
        return runs

    def _texture(self, image: Image) -> Any:
        if image is None:
            return None
        pixels = _pixels(image)
        texture = self._context.texture((pixels.shape[1], pixels.shape[0]), 3, pixels.tobytes(), alignment=1)
        texture.build_mipmaps()
        texture.filter = (self._context.LINEAR_MIPMAP_LINEAR, self._context.LINEAR)
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

    def _read_scene(self) -> None:
        """Ask PyBullet for poses and colours and lay them out as the uniform block has them."""
        world = self._poses.read()
        self._uniforms[: world.size] = world.transpose(0, 2, 1).ravel()
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
        self._arrays["shadow"].render()
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
        for texture, first, count in self._runs:
            if texture is not None:
                texture.use(_IMAGE_UNIT)
            self._arrays["plain" if texture is None else "textured"].render(vertices=count, first=first)
        return target

    def close(self) -> None:
        """Give the GPU's memory back; a second call does nothing."""
        if self._context is None:
            return
        with gl.LOCK, self._context:
            for item in (*self._targets.values(), *self._held):
                item.release()
        self._context = None
        self._held, self._targets = [], {}
