"""Which recorded keys are which cameras: data sets name them as they like, training knows anchors and one wrist.

A rig says which key is ``"anchor"``, ``"anchor2"``, … and ``"wrist"``, which keys hold state and action, and where the
cameras are.  CALVIN's is computed from the recorded state; LeRobot's and DROID's come from columns, or from a small
YAML file (:mod:`bench.data.lerobot.rig_file`).  Not here: reading frames.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from worldmodel.api import ANCHOR, WRIST, Camera


class Rig(Protocol):
    """The cameras of a data set, under the names that training uses."""

    @property
    def views(self) -> Mapping[str, str]:
        """View name to the key that holds its pictures."""
        ...

    @property
    def depth(self) -> Mapping[str, str]:
        """View name to the key that holds its depth in metres, where recorded."""
        ...

    @property
    def generated(self) -> str:
        """The key under which a generated wrist view is given."""
        ...

    def needs(self, views: Collection[str]) -> tuple[str, ...]:
        """Return the keys that the cameras of these views are computed from."""
        ...

    def cameras(self, arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Camera]:
        """Return the known cameras over the T frames of ``arrays``, for views of these (height, width)."""
        ...


def anchor_names(count: int) -> tuple[str, ...]:
    """Return ``("anchor", "anchor2", …)``."""
    return tuple(ANCHOR if number == 0 else f"{ANCHOR}{number + 1}" for number in range(count))


def matrices(poses: NDArray[Any]) -> NDArray[np.float64]:
    """Return (T, 4, 4) from poses (T, 6): x y z in metres, then roll pitch yaw in radians about the fixed axes."""
    from scipy.spatial.transform import Rotation

    poses = np.asarray(poses, np.float64)
    result = np.tile(np.eye(4), (len(poses), 1, 1))
    result[:, :3, :3] = Rotation.from_euler("xyz", poses[:, 3:6]).as_matrix()
    result[:, :3, 3] = poses[:, :3]
    return result


@dataclass(frozen=True)
class CalvinRig:
    """CALVIN's two cameras; their poses follow from ``robot_obs``."""

    views: Mapping[str, str] = field(default_factory=lambda: {ANCHOR: "rgb_static", WRIST: "rgb_gripper"})
    depth: Mapping[str, str] = field(default_factory=lambda: {ANCHOR: "depth_static", WRIST: "depth_gripper"})
    generated: str = "rgb_gripper_generated"
    state: str = "robot_obs"

    def needs(self, views: Collection[str]) -> tuple[str, ...]:
        """Return the key of the state."""
        return (self.state,) if views else ()

    def cameras(self, arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Camera]:
        """Return both cameras, or the anchor's alone where no wrist view is asked for."""
        from bench.calvin import camera

        state = arrays[self.state]
        static = np.broadcast_to(camera.static_camera_from_world(), (len(state), 4, 4)).copy()
        cameras = {ANCHOR: Camera(camera.STATIC.intrinsics(), static)}
        if WRIST in sizes:
            cameras[WRIST] = Camera(camera.GRIPPER.intrinsics(), camera.wrist_camera_from_world(state))
        return cameras


CALVIN = CalvinRig()
"""The rig of every CALVIN data set."""


@dataclass(frozen=True)
class Lens:
    """What is known of one camera.

    Attributes:
        intrinsics: (fx, fy, cx, cy) in pixels of a picture of ``size``; pixel centres lie at integer + 0.5.
        size: (height, width) that the intrinsics hold for; None means the stored size.
        pose: its fixed pose in the robot's base frame, as x y z roll pitch yaw.
        pose_key: key of its pose (6) in every frame.
        mount: its fixed pose in the gripper's frame.
        gripper_key: key of the gripper's pose (6) in the base frame, beside ``mount``.
    """

    intrinsics: tuple[float, float, float, float]
    size: tuple[int, int] | None = None
    pose: tuple[float, ...] | None = None
    pose_key: str | None = None
    mount: tuple[float, ...] | None = None
    gripper_key: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys that its pose is computed from."""
        return tuple(key for key in (self.pose_key, self.gripper_key) if key)

    def camera(self, arrays: Mapping[str, NDArray[Any]], size: tuple[int, int], frames: int) -> Camera:
        """Return the camera for pictures of ``size``; without a finite pose, its intrinsics alone."""
        high, wide = self.size or size
        down, across = size[0] / high, size[1] / wide
        fx, fy, cx, cy = self.intrinsics
        matrix = np.array([[fx * across, 0, cx * across], [0, fy * down, cy * down], [0, 0, 1]], np.float64)
        poses = self._poses(arrays, frames)
        if poses is None or not np.isfinite(poses).all():
            return Camera(matrix)
        return Camera(matrix, np.asarray(np.linalg.inv(poses), dtype=np.float64))

    def _poses(self, arrays: Mapping[str, NDArray[Any]], frames: int) -> NDArray[np.float64] | None:
        if self.pose is not None:
            return np.tile(matrices(np.array([self.pose])), (frames, 1, 1))
        if self.pose_key is not None:
            recorded = _six(self.pose_key, arrays, frames)
            return matrices(recorded) if np.isfinite(recorded).all() else None
        if self.mount is not None and self.gripper_key is not None:
            gripper = _six(self.gripper_key, arrays, frames)
            return matrices(gripper) @ matrices(np.array([self.mount])) if np.isfinite(gripper).all() else None
        return None


def _six(key: str, arrays: Mapping[str, NDArray[Any]], frames: int) -> NDArray[Any]:
    """Return a column of poses (T, 6); one with a quaternion would be read as if it held angles."""
    column = arrays[key]
    if column.dtype.kind not in "fiu" or column.size != frames * 6:
        raise UserError(
            f"{key}: expected 6 numbers in every frame, x y z roll pitch yaw, got {column.dtype} {column.shape[1:]}; "
            "name another column as the camera's or gripper's pose"
        )
    return column.reshape(frames, 6)


@dataclass(frozen=True)
class NamedRig:
    """Any number of anchors and at most one wrist, by the keys of the data set.

    Attributes:
        views: view name to key, anchors first.
        state: key of the robot's state, or None.
        action: key of the action, or None.
        instruction: key of the instruction where it is a column, or None.
        lenses: view name to what is known of its camera.
        depth: view name to key.
        generated: key under which a generated wrist view is given.
    """

    views: Mapping[str, str]
    state: str | None = None
    action: str | None = None
    instruction: str | None = None
    lenses: Mapping[str, Lens] = field(default_factory=dict)
    depth: Mapping[str, str] = field(default_factory=dict)
    generated: str = "observation.images.wrist_generated"

    def needs(self, views: Collection[str]) -> tuple[str, ...]:
        """Return the keys of poses that these views' cameras are computed from."""
        keys = (key for view, lens in self.lenses.items() if view in views for key in lens.keys)
        return tuple(dict.fromkeys(keys))

    def cameras(self, arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Camera]:
        """Return the cameras of those views whose intrinsics are known."""
        frames = len(next(iter(arrays.values())))
        return {view: lens.camera(arrays, sizes[view], frames) for view, lens in self.lenses.items() if view in sizes}


_WRIST_WORDS = ("wrist", "hand", "gripper")


def guess_views(keys: Sequence[str]) -> dict[str, str]:
    """Return view names for picture keys: the one that says wrist, hand or gripper is the wrist, others are anchors.

    Generated views are left out.  Where several say it none is taken: a YAML file must tell.
    """
    recorded = [key for key in keys if not key.endswith("_generated")]
    wrists = [key for key in recorded if any(word in key.rsplit(".", 1)[-1].lower() for word in _WRIST_WORDS)]
    anchors = [key for key in recorded if key not in wrists]
    views = dict(zip(anchor_names(len(anchors)), sorted(anchors), strict=True))
    return views | ({WRIST: wrists[0]} if len(wrists) == 1 else {})
