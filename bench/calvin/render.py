"""The fast renderer: PyBullet's bodies drawn by OpenGL, all views of a moment in one context.

Not here: physics, what the cameras are (``bench.calvin.camera``), PyBullet's own renderers
(``bench.calvin.bullet_render``).  A draw asks PyBullet where its links are, draws one shadow map and then each view
that somebody wants.  A GPU draws everything anew for every picture: that is a handful of commands, handed over in one
piece.  A processor counts pixels: it keeps what stands still (``bench.calvin.backdrop``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import backdrop, gl, shaders
from bench.calvin.backdrop import Backdrop
from bench.calvin.bullet import pybullet
from bench.calvin.camera import CAMERAS, Camera, gripper_view_matrix, static_view_matrix
from bench.calvin.drawing import FAR, NEAR, OBJECT, SHADOW, Drawing, Run, programs
from bench.calvin.frames import RECTANGLES, Frame, Pictures
from bench.calvin.parts import LIGHTS, Part, PoseReader, collect_parts
from bench.calvin.scene import SceneSpec
from bench.calvin.shadow_map import ShadowMap
from bench.calvin.sight import Sight
from bench.errors import UserError

_LARGE = 5.0
"""Metres beyond which a part is a floor."""
_STILL_DIGITS = 4
"""Still parts stand at whole tenths of a millimetre: furniture that only trembles is not drawn anew."""


def _in_drawing_order(parts: Sequence[Part]) -> list[Part]:
    """Return what moves first; then what is near, and the floor last, so that hidden pixels are not computed."""
    return sorted(
        parts,
        key=lambda part: (
            part.still,
            part.image is not None,
            part.fixed,
            np.ptp(part.levels[NEAR].position, axis=0).max() > _LARGE,
            -part.body,
            str(part.image),
        ),
    )


def _projection(camera: Camera) -> NDArray[np.float64]:
    """Return (4, 4) the camera's projection with y pointing down: rows are read top first."""
    projection = np.array(camera.projection_matrix()).reshape(4, 4).T
    projection[1] *= -1
    return projection


@dataclass(frozen=True)
class Moment:
    """All that pictures depend on: what stood where when they were asked for.

    Attributes:
        clips: camera name -> (4, 4) ``clip_from_world``.
        objects: rows of type ``OBJECT``.
        world: (N, 4, 4) ``world_from_part``.
    """

    clips: Mapping[str, NDArray[np.float64]]
    objects: NDArray[Any]
    world: NDArray[np.float64]


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
        self._sight = Sight([part.levels[NEAR] for part in parts])
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
        self._drawing = Drawing(self._context, self.parts, self._rows.tolist())
        self._shadow_map, self._frame = ShadowMap(self._context), Frame(self._context)
        parts = range(len(self.parts))
        self._all_runs = {level: self._drawing.runs((part, level) for part in parts) for level in (NEAR, FAR)}
        far = [(part, FAR) for part in parts]
        still = far[self._moving :]
        self._moving_runs = self._drawing.runs(far[: self._moving])
        self._fixed_runs = self._drawing.runs(place for place in still if self.parts[place[0]].fixed)
        self._carried_runs = self._drawing.runs(place for place in still if not self.parts[place[0]].fixed)
        self._held += [self._drawing, self._shadow_map, self._frame]

    def draw(self, names: Iterable[str] = tuple(CAMERAS), kinds: Iterable[str] = ("rgb",)) -> Pictures:
        """Draw the named cameras now.

        Args:
            names: ``static`` and/or ``gripper``.
            kinds: ``rgb`` and/or ``depth``; both come from the same drawing.

        Returns:
            ``rgb_NAME`` -> uint8 (H, W, 3), ``depth_NAME`` -> float32 (H, W) metres along the camera's z.
        """
        return self.begin([self.moment(names)], kinds)[0]()

    def moment(self, names: Iterable[str] = tuple(CAMERAS)) -> Moment:
        """Return what the named cameras' pictures of now depend on, to be drawn at any time."""
        self._require_open()
        clips = {name: self._clip_from_world(name) for name in names}
        world = self._read_scene()
        return Moment(clips, self._objects.copy(), world)

    def begin(self, moments: Sequence[Moment], kinds: Iterable[str] = ("rgb",)) -> list[Callable[[], Pictures]]:
        """Let the GPU draw what stood at some moments, all in one go.

        The processor is free meanwhile.  Several processes that share a GPU take turns: many moments cost one turn.

        Returns:
            for each moment what waits for its pictures, those of :meth:`draw`; they hold until this renderer draws
            again.
        """
        self._require_open()
        kinds = tuple(kinds)
        with gl.LOCK, self._context:  # leaving it hands all commands over
            return [self._draw(moment, kinds, place) for place, moment in enumerate(moments)]

    def _require_open(self) -> None:
        if self._context is None:
            raise UserError("renderer gl: expected an open renderer, got a closed one; make a new environment")

    def _draw(self, moment: Moment, kinds: tuple[str, ...], place: int) -> Callable[[], Pictures]:
        self._drawing.begin(moment.objects)
        if gl.on_cpu():
            self._draw_on_backdrop(moment)
        else:
            self._draw_anew(moment)
        return self._frame.take(tuple(moment.clips), kinds, place)

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

    def _draw_anew(self, moment: Moment) -> None:
        """Draw everything, whatever was drawn before, in sight or not: a GPU sees that sooner than we find it out."""
        self._shadow_map.draw_all(lambda: self._drawing.cast(0, len(self.parts)))
        frame = self._frame.target
        frame.use()
        frame.clear(*shaders.BACKGROUND, 1.0, depth=1.0)
        for name, clip_from_world in moment.clips.items():
            frame.viewport = RECTANGLES[name]
            self._drawing.draw(clip_from_world, self._all_runs[FAR if name == backdrop.VIEW else NEAR])

    def _draw_on_backdrop(self, moment: Moment) -> None:
        """Draw the static view's moving parts over a picture of all others, kept for as long as those stand still."""
        still = moment.objects[self._still_row :].tobytes()
        if still != self._still_state:
            self._still_state = still
            self._shadow_map.draw_still(lambda: self._drawing.cast(self._moving, len(self.parts)))
            self._backdrop_is_stale = True
        frame = self._frame.target
        if backdrop.VIEW in moment.clips:
            kept = self._still_background(moment)
            kept.copy_to(self._frame)
        self._shadow_map.draw(lambda: self._drawing.cast(0, self._moving))
        frame.use()
        if backdrop.VIEW not in moment.clips:
            frame.clear(*shaders.BACKGROUND, 1.0, depth=1.0)
        for name, clip_from_world in moment.clips.items():
            frame.viewport = RECTANGLES[name]
            if name == backdrop.VIEW:
                kept.shade(moment.world[: self._moving])
                self._drawing.draw(clip_from_world, self._moving_runs)
            else:
                self._drawing.draw(clip_from_world, self._runs_in_sight(clip_from_world, moment.world))

    def _still_background(self, moment: Moment) -> Backdrop:
        clip_from_world = moment.clips[backdrop.VIEW]
        if self._backdrop is None:
            casters = [part.levels[SHADOW] for part in self.parts[: self._moving]]
            relight = programs(self._context)["relight"]
            self._backdrop = Backdrop(self._context, relight, clip_from_world, casters)
            self._held.append(self._backdrop)
        if self._backdrop_is_stale:
            self._backdrop.rebuild(
                moment.objects[self._fixed_rows].tobytes(),
                lambda: self._drawing.draw(clip_from_world, self._fixed_runs),
                lambda: self._drawing.draw(clip_from_world, self._carried_runs),
                lambda: self._shadow_map.draw_all(None),
                self._shadow_map.draw,
            )
            self._backdrop_is_stale = False
        return self._backdrop

    def _runs_in_sight(self, clip_from_world: NDArray[np.float64], world: NDArray[np.float64]) -> list[Run]:
        seen = self._sight(clip_from_world, world)
        return self._drawing.runs((part, NEAR) for part in np.flatnonzero(seen).tolist())

    def close(self) -> None:
        """Give the GPU's memory back; a second call does nothing."""
        if self._context is None:
            return
        with gl.LOCK, self._context:
            for item in self._held:
                item.release()
        self._context = None
        self._held, self._backdrop = [], None
