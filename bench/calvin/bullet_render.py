"""PyBullet's own two renderers, called exactly as the original calls them.

Slow (some 60 ms a step for both views), kept because published policies were trained on such pictures: ``bullet-egl``
is what CALVIN's data sets were drawn with, ``bullet-tiny`` needs no GL at all.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from bench.calvin.bullet import pybullet
from bench.calvin.camera import CAMERAS
from bench.errors import UserError

Pictures = dict[str, np.ndarray]
ViewMatrix = Callable[[], Sequence[float]]


def load_egl(client: int) -> None:
    """Make EGL the renderer of a PyBullet client; only bodies that are loaded afterwards are seen by it.

    Raises:
        UserError: this PyBullet has no EGL plugin, or EGL cannot start.
    """
    spec = importlib.util.find_spec("eglRenderer")
    if spec is None or spec.origin is None:
        raise UserError("renderer bullet-egl: this PyBullet has no EGL plugin; use --renderer gl or bullet-tiny")
    if pybullet.loadPlugin(spec.origin, "_eglRendererPlugin", physicsClientId=client) < 0:
        raise UserError("renderer bullet-egl: EGL could not start; install libegl1 and Mesa or use bullet-tiny")


def _of_kinds(pictures: Pictures, kinds: tuple[str, ...]) -> Pictures:
    return {name: picture for name, picture in pictures.items() if name.startswith(kinds)}


class BulletRenderer:
    """Draws the views of one PyBullet client with the client's renderer: TinyRenderer, or EGL after ``load_egl``.

    Args:
        client: PyBullet client id.
        view_matrices: camera name -> function that gives the OpenGL view matrix now.
    """

    def __init__(self, client: int, view_matrices: Mapping[str, ViewMatrix]) -> None:
        self._client = client
        self._view_matrices = view_matrices

    def draw(self, names: Iterable[str], kinds: Iterable[str] = ("rgb",)) -> Pictures:
        """Draw the named cameras.

        Args:
            names: ``static`` and/or ``gripper``.
            kinds: ``rgb`` and/or ``depth``; both come from the same drawing.

        Returns:
            ``rgb_NAME`` -> uint8 (H, W, 3), ``depth_NAME`` -> float32 (H, W) metres along the camera's z.
        """
        pictures: Pictures = {}
        for name in names:
            drawn = dict(zip(("rgb", "depth"), self._draw_one(name), strict=True))
            pictures |= {f"{kind}_{name}": drawn[kind] for kind in kinds}
        return pictures

    def moment(self, names: Iterable[str]) -> Pictures:
        """Draw now, all kinds: PyBullet can draw nothing but what stands now."""
        return self.draw(names, ("rgb", "depth"))

    def begin(self, moments: Sequence[Pictures], kinds: Iterable[str] = ("rgb",)) -> list[Callable[[], Pictures]]:
        """Return what gives the pictures of each moment."""
        wanted = tuple(kinds)
        return [partial(_of_kinds, moment, wanted) for moment in moments]

    def _draw_one(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        camera = CAMERAS[name]
        _, _, colours, buffer, _ = pybullet.getCameraImage(
            width=camera.size,
            height=camera.size,
            viewMatrix=self._view_matrices[name](),
            projectionMatrix=camera.projection_matrix(),
            physicsClientId=self._client,
        )
        picture = np.reshape(colours, (camera.size, camera.size, 4))[:, :, :3].astype(np.uint8)
        metres = camera.metres(np.reshape(buffer, (camera.size, camera.size)))
        return np.ascontiguousarray(picture), metres.astype(np.float32)

    def close(self) -> None:
        """Nothing to give back: the client owns its renderer."""
