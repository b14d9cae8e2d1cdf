"""CALVIN's two cameras as matrices: the fixed one that sees the table and the one on the hand.

Two conventions meet here and are named apart.  *OpenGL* matrices are lists of 16 numbers, column by column, exactly as
PyBullet gives them (bit-equal to the original's).  *OpenCV* matrices are NumPy 4x4 / 3x3: x right, y down, z forward,
pixel centres at +0.5, named ``camera_from_world`` and the like.  Nothing is drawn here, and no simulator is asked:
the numbers are those of calvin_env ``conf/cameras/cameras/{static,gripper}.yaml`` and ``gripper_camera.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from bench.calvin.bullet import pybullet
from bench.errors import UserError


@dataclass(frozen=True)
class Camera:
    """A pinhole camera's inner numbers.

    Attributes:
        name: ``static`` or ``gripper``.
        size: image width = height in pixels.
        field_of_view: degrees, over the whole height.
        near: nearest depth drawn, metres.
        far: farthest depth drawn, metres.
    """

    name: str
    size: int
    field_of_view: float
    near: float
    far: float

    def projection_matrix(self) -> list[float]:
        """Return the OpenGL projection, 16 numbers column by column."""
        matrix: Sequence[float] = pybullet.computeProjectionMatrixFOV(self.field_of_view, 1, self.near, self.far)
        return list(matrix)

    def intrinsics(self) -> np.ndarray:
        """Return K (3, 3) float64 in pixels: ``u = fx x/z + cx`` with pixel centres at +0.5."""
        focal = self.size / 2 / math.tan(math.radians(self.field_of_view) / 2)
        return np.array([[focal, 0.0, self.size / 2], [0.0, focal, self.size / 2], [0.0, 0.0, 1.0]])

    def metres(self, buffer: np.ndarray) -> np.ndarray:
        """Turn a depth buffer in [0, 1] into metres along the camera's z, as calvin_env ``camera.py`` does."""
        metres: np.ndarray = 1.0 * self.far * self.near / (self.far - (self.far - self.near) * buffer)
        return metres


STATIC = Camera("static", 200, 10, 0.01, 10)
GRIPPER = Camera("gripper", 84, 75, 0.01, 2)
CAMERAS: Mapping[str, Camera] = MappingProxyType({"static": STATIC, "gripper": GRIPPER})

STATIC_EYE = (2.871459009488717, -2.166602199425597, 2.555159848480571)
STATIC_TARGET = (-0.026242351159453392, -0.0302329882979393, 0.3920000493526459)
STATIC_UP = (0.4041403970338857, 0.22629790978217404, 0.8862616969685161)

_HAND_FROM_TCP = (0.0, 0.0, -0.14)
_HAND_FROM_MOUNT = ((-0.1, 0.0, 0.0), (1.3, 0.0, -1.57))
# CALVIN's camera looks along the mount's +y with -z up; OpenCV looks along +z with -y up.
_MOUNT_FROM_CAMERA = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
_GL_FROM_CV = np.diag([1.0, -1.0, -1.0, 1.0])


def static_view_matrix() -> list[float]:
    """Return the OpenGL view matrix of the static camera, 16 numbers column by column."""
    matrix: Sequence[float] = pybullet.computeViewMatrix(STATIC_EYE, STATIC_TARGET, STATIC_UP)
    return list(matrix)


def gripper_view_matrix(link_pose: tuple[Sequence[float], Sequence[float]]) -> list[float]:
    """Return the OpenGL view matrix of the wrist camera.

    Args:
        link_pose: position in metres and quaternion xyzw of the link ``gripper_cam`` (its centre of mass:
            ``getLinkState(...)[:2]``), in the world.

    Returns:
        16 numbers column by column.
    """
    position, quaternion = link_pose
    rotation = np.array(pybullet.getMatrixFromQuaternion(quaternion)).reshape(3, 3)
    matrix: Sequence[float] = pybullet.computeViewMatrix(position, position + rotation[:, 1], -rotation[:, 2])
    return list(matrix)


def camera_from_world(view_matrix: Sequence[float]) -> np.ndarray:
    """Turn an OpenGL view matrix into the OpenCV pose ``camera_from_world`` (4, 4) float64."""
    return _GL_FROM_CV @ np.array(view_matrix, dtype=np.float64).reshape(4, 4).T


def static_camera_from_world() -> np.ndarray:
    """Return ``camera_from_world`` (4, 4) of the static camera, OpenCV axes, metres."""
    return camera_from_world(static_view_matrix())


def wrist_camera_from_tcp() -> np.ndarray:
    """Return the constant ``camera_from_tcp`` (4, 4) of the wrist camera, OpenCV axes, metres."""
    from scipy.spatial.transform import Rotation  # 40 MB that a world does without

    translation, euler = _HAND_FROM_MOUNT
    tcp_from_camera = np.eye(4)
    tcp_from_camera[:3, :3] = Rotation.from_euler("xyz", euler).as_matrix() @ _MOUNT_FROM_CAMERA
    tcp_from_camera[:3, 3] = np.array(translation) + np.array(_HAND_FROM_TCP)
    return np.linalg.inv(tcp_from_camera)


def world_from_tcp(robot_obs: np.ndarray) -> np.ndarray:
    """Return the TCP's pose (..., 4, 4) in the world from ``robot_obs`` (..., ≥6): metres and xyz Euler angles."""
    from scipy.spatial.transform import Rotation

    state = np.asarray(robot_obs, dtype=np.float64)
    if state.shape[-1] < 6:
        raise UserError(f"robot_obs: expected at least 6 numbers (xyz and Euler angles), got {state.shape[-1]}")
    pose = np.zeros((*state.shape[:-1], 4, 4))
    flat = state[..., 3:6].reshape(-1, 3)
    pose[..., :3, :3] = Rotation.from_euler("xyz", flat).as_matrix().reshape(*state.shape[:-1], 3, 3)
    pose[..., :3, 3] = state[..., :3]
    pose[..., 3, 3] = 1.0
    return pose


def wrist_camera_from_world(robot_obs: np.ndarray) -> np.ndarray:
    """Return ``camera_from_world`` (..., 4, 4) of the wrist camera for ``robot_obs`` (..., ≥6), without a simulator."""
    result: np.ndarray = wrist_camera_from_tcp() @ np.linalg.inv(world_from_tcp(robot_obs))
    return result
