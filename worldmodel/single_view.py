"""A single-view world model given a wrist: plug-and-play, as in the paper's comparison on Cosmos-Predict2 and Wan 14B.

The single-view model imagines the anchor video; a ``WristGenerator`` adds the wrist view to what it imagined.  Neither
is changed for it.  Not here: single-view models themselves; any that offers ``SingleViewModel`` will do.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worldmodel.api import ANCHOR, Camera, Clip, GeneratedClip, WorldModelError, WristGenerator


class SingleViewModel(Protocol):
    """Imagines how the anchor view goes on."""

    def imagine(self, history: Clip, frames: int, seed: int = 0) -> NDArray[np.uint8]:
        """Return ``frames`` anchor frames, uint8 (frames, H, W, 3), that follow the clip's last one."""
        ...


class StillScene:
    """The simplest single-view model: nothing moves any more."""

    def imagine(self, history: Clip, frames: int, seed: int = 0) -> NDArray[np.uint8]:  # noqa: ARG002
        """Return the last anchor frame, repeated."""
        return np.repeat(history.views[ANCHOR][-1:], frames, axis=0)


class TwoViewModel:
    """A single-view model and a wrist generator in a row."""

    def __init__(self, single_view: SingleViewModel, wrist: WristGenerator) -> None:
        self.single_view, self.wrist = single_view, wrist

    def imagine(self, history: Clip, frames: int, seed: int = 0) -> GeneratedClip:
        """Return the imagined anchor view with its wrist view.

        Args:
            history: what was seen; only its view ``"anchor"`` is used.
            frames: how many frames to imagine.
            seed: of both models.

        Raises:
            WorldModelError: the clip has no anchor, or the single-view model returned another shape.
        """
        if ANCHOR not in history.views:
            raise WorldModelError(f"expected a view {ANCHOR!r}, got {sorted(history.views)}")
        anchor = self.single_view.imagine(history, frames, seed)
        wanted = (frames, *history.views[ANCHOR].shape[1:])
        if anchor.shape != wanted:
            raise WorldModelError(f"the single-view model returned frames of shape {anchor.shape}, expected {wanted}")
        cameras = {}
        if ANCHOR in history.cameras:
            # The anchor camera stands still, so its last pose holds for what is imagined.
            camera = history.cameras[ANCHOR]
            pose = camera.camera_from_world
            held = None if pose is None else np.repeat(pose[-1:], frames, axis=0)
            cameras[ANCHOR] = Camera(camera.intrinsics, held)
        imagined = Clip(
            views={ANCHOR: anchor},
            cameras=cameras,
            episode=history.episode,
            start=history.start + len(history) * history.stride,
            stride=history.stride,
            instruction=history.instruction,
        )
        return self.wrist.generate(imagined, seed)
