"""The Panda as CALVIN drives it: inverse kinematics once a control step, position motors, a two-force gripper.

Numbers and order of calls follow calvin_env ``calvin_env/robot/robot.py`` and ``mixed_ik.py`` with
``conf/robot/panda_longer_finger.yaml``, because trajectories are to agree bit for bit.  The nullspace form of the IK
is used whatever the data set's ``use_nullspace`` says: so does the original.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.calvin.bullet import pybullet
from bench.calvin.scene import ARM_REST, ROBOT_BASE
from bench.errors import UserError

ARM_JOINTS = tuple(range(7))
FINGER_JOINTS = (9, 11)
CAMERA_LINK = 14
TCP_LINK = 15
FINGER_OPEN = 0.04
LOWER_LIMITS = np.array((-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973))
UPPER_LIMITS = np.array((2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973))
MAX_RELATIVE_POSITION = 0.02
MAX_RELATIVE_ROTATION = 0.05
ROBOT_OBS_SIZE = 15

# NumPy costs more than it saves on seven numbers at every step.
_LOWER, _UPPER = LOWER_LIMITS.tolist(), UPPER_LIMITS.tolist()
_ARM_FORCE = 200.0
_ARM_VELOCITY = 2
_GRIPPER_FORCE = 200.0
_MOTORS = (*ARM_JOINTS, *FINGER_JOINTS)
# Targets of the two fingers, forces of all motors.
_OPENING = ([FINGER_OPEN] * 2, [_ARM_FORCE] * 7 + [_GRIPPER_FORCE / 100] * 2)
_CLOSING = ([0.0] * 2, [_ARM_FORCE] * 7 + [_GRIPPER_FORCE] * 2)
_NULLSPACE = ([-7] * 9, [7] * 9, [7] * 9, [*ARM_REST, FINGER_OPEN, FINGER_OPEN])
_JOINT_SLACK = 0.1
_LARGEST = float(np.finfo(np.float32).max)

Pose = tuple[tuple[float, float, float], tuple[float, float, float, float]]


class Reading(NamedTuple):
    """Where the robot is: TCP position in metres and Euler angles, arm angles in rad, gripper's width in metres."""

    position: tuple[float, float, float]
    rotation: tuple[float, float, float]
    angles: list[float]
    width: float


_SHORTEST_QUATERNION = 1e-6
"""PyBullet's inverse kinematics never returns for a rotation that is none."""


def check_action(action: Any) -> np.ndarray | tuple[np.ndarray, np.ndarray, float]:
    """Return a relative action (7,) or an absolute one (xyz, rotation, gripper), or say by name what is wrong.

    A floating-point array keeps its precision, everything else becomes float64.
    """
    if isinstance(action, tuple | list) and len(action) == 3:
        position = checked_numbers("action[0]", action[0], 3)
        size = 4 if np.size(action[1]) == 4 else 3
        gripper = checked_numbers("action[2]", np.ravel(np.asarray(action[2], dtype=object)), 1)
        rotation = checked_numbers("action[1]", action[1], size)
        if size == 4 and np.linalg.norm(rotation) < _SHORTEST_QUATERNION:
            raise UserError("action[1]: expected a quaternion of length 1, got one of length 0; give a rotation")
        return position, rotation, float(gripper[0])
    checked = checked_numbers("action", action, 7)
    dtype = getattr(action, "dtype", checked.dtype)
    return np.asarray(action) if dtype in (np.float32, np.float64) else checked


def check_robot_obs(robot_obs: Any) -> np.ndarray:
    """Return ``robot_obs`` as float64 (15,), or say by name why no robot can stand like that."""
    state = checked_numbers("robot_obs", robot_obs, ROBOT_OBS_SIZE)
    joints = state[7:14]
    outside = (joints < LOWER_LIMITS - _JOINT_SLACK) | (joints > UPPER_LIMITS + _JOINT_SLACK)
    if outside.any():
        joint = int(np.argmax(outside))
        raise UserError(
            f"robot_obs: expected arm joint {joint + 1} within [{LOWER_LIMITS[joint]}, {UPPER_LIMITS[joint]}] rad, "
            f"got {joints[joint]:.4g}; reset to a state that was recorded"
        )
    if not -0.01 <= state[6] <= 2 * FINGER_OPEN + 0.01:
        raise UserError(f"robot_obs: expected a gripper width [6] within [0, 0.08] m, got {state[6]:.4g}; mend it")
    return state


def checked_numbers(name: str, values: Any, size: int) -> np.ndarray:
    """Return ``values`` as float64 (size,), or say by name what is wrong: shape, type, NaN, infinity, float range."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name}: expected {size} numbers, got {type(values).__name__}; pass a float array") from None
    if array.shape != (size,):
        raise UserError(f"{name}: expected shape ({size},), got {array.shape}; pass one vector of {size} numbers")
    fine = np.abs(array) <= _LARGEST
    if not fine.all():
        index = int(np.argmin(fine))
        raise UserError(
            f"{name}: expected finite numbers of float range, got {array[index]} at index {index}; check what made it"
        )
    return array


class Robot:
    """The robot in one PyBullet client: body, motors, running target.

    Attributes:
        body: PyBullet's body id.
        stand: body id of the cylinder under it.
        gripper_action: 1 open, -1 closed; the last one commanded.
        target_position: running target of the TCP, metres (3,).
        target_rotation: running target, xyz Euler angles (3,), never wrapped.
    """

    def __init__(self, client: int, urdf: Path) -> None:
        self.client = client
        self.urdf = urdf
        self.body = -1
        self.stand = -1
        self.gripper_action: float = 1
        self.target_position = np.zeros(3)
        self.target_rotation = np.zeros(3)

    def load(self) -> None:
        """Load the robot, the cylinder it stands on (only seen, never touched) and the gear between its fingers."""
        self.body = pybullet.loadURDF(
            str(self.urdf), basePosition=ROBOT_BASE, useFixedBase=True, physicsClientId=self.client
        )
        self.stand = self._add_cylinder()
        gear = pybullet.createConstraint(
            self.body,
            FINGER_JOINTS[0],
            self.body,
            FINGER_JOINTS[1],
            jointType=pybullet.JOINT_GEAR,
            jointAxis=[1, 0, 0],
            parentFramePosition=[0, 0, 0],
            childFramePosition=[0, 0, 0],
            physicsClientId=self.client,
        )
        pybullet.changeConstraint(gear, gearRatio=-1, erp=0.1, maxForce=50, physicsClientId=self.client)
        self.reset(None)

    def _add_cylinder(self) -> int:
        x, y, z = ROBOT_BASE
        shape = pybullet.createVisualShape(
            pybullet.GEOM_CYLINDER,
            rgbaColor=[1, 1, 1, 1],
            radius=0.13,
            length=z,
            visualFramePosition=[x - 0.05, y - 0.0, z / 2],
            physicsClientId=self.client,
        )
        body: int = pybullet.createMultiBody(baseVisualShapeIndex=shape, physicsClientId=self.client)
        return body

    def reset(self, robot_obs: np.ndarray | None) -> None:
        """Put the arm and fingers where ``robot_obs`` (15,) has them, or at rest; the target becomes the TCP's pose.

        Only the gripper width [6] and the joints [7:14] are used.  The gripper counts as open afterwards, as in a
        fresh process (the original keeps the last action of the episode before).
        """
        joints = np.array(ARM_REST) if robot_obs is None else robot_obs[7:14]
        finger = FINGER_OPEN if robot_obs is None else robot_obs[6] / 2
        for joint, angle in zip(ARM_JOINTS, joints, strict=True):
            pybullet.resetJointState(self.body, joint, angle, physicsClientId=self.client)
            self._hold(joint, angle, _ARM_FORCE, _ARM_VELOCITY)
        for joint in FINGER_JOINTS:
            pybullet.resetJointState(self.body, joint, finger, physicsClientId=self.client)
            self._hold(joint, finger, _GRIPPER_FORCE, 1)
        position, quaternion = self.tcp()
        self.target_position = np.array(position)
        self.target_rotation = np.array(pybullet.getEulerFromQuaternion(quaternion))
        self.gripper_action = 1

    def _hold(self, joint: int, target: float, force: float, velocity: float) -> None:
        pybullet.setJointMotorControl2(
            bodyIndex=self.body,
            jointIndex=joint,
            controlMode=pybullet.POSITION_CONTROL,
            targetPosition=target,
            force=force,
            maxVelocity=velocity,
            physicsClientId=self.client,
        )

    def tcp(self) -> Pose:
        """Return the tool centre point in the world: position in metres, quaternion xyzw."""
        return pybullet.getLinkState(self.body, TCP_LINK, physicsClientId=self.client)[:2]

    def camera(self) -> Pose:
        """Return the pose of the link that carries the wrist camera: position in metres, quaternion xyzw."""
        return pybullet.getLinkState(self.body, CAMERA_LINK, physicsClientId=self.client)[:2]

    def apply_relative(self, action: np.ndarray) -> None:
        """Move the running target by a 7-d action (x, y, z · 0.02 m, Euler · 0.05 rad, gripper) and drive there.

        The scaling happens in the action's own precision, as in the original: float32 actions give float32 products.
        """
        self.target_position += action[:3] * MAX_RELATIVE_POSITION
        self.target_rotation += action[3:6] * MAX_RELATIVE_ROTATION
        self._drive(self.target_position, self.target_rotation, 1 if action[6] > 0 else -1)

    def apply_absolute(self, position: np.ndarray, rotation: np.ndarray, gripper: float) -> None:
        """Drive to a pose in the world, xyz Euler angles or quaternion xyzw; the running target stays as it is."""
        self._drive(position, rotation, 1 if gripper > 0 else -1)

    def _drive(self, position: np.ndarray, rotation: np.ndarray, gripper: int) -> None:
        quaternion = pybullet.getQuaternionFromEuler(rotation) if len(rotation) == 3 else rotation
        solution = pybullet.calculateInverseKinematics(
            self.body, TCP_LINK, position, quaternion, *_NULLSPACE, physicsClientId=self.client
        )
        fingers = _OPENING if gripper == 1 else _CLOSING
        # One command for all joints; their largest velocities stay what a reset made them.
        pybullet.setJointMotorControlArray(
            self.body,
            _MOTORS,
            pybullet.POSITION_CONTROL,
            targetPositions=[*map(min, map(max, solution, _LOWER), _UPPER), *fingers[0]],
            forces=fingers[1],
            physicsClientId=self.client,
        )
        self.gripper_action = gripper

    def joints(self) -> tuple[list[float], float]:
        """Return the seven arm angles in rad and the gripper's opening width in metres."""
        states = pybullet.getJointStates(self.body, _MOTORS, physicsClientId=self.client)
        return [state[0] for state in states[:7]], states[7][0] + states[8][0]

    def read(self) -> Reading:
        """Return what both ``observation`` and ``info`` are made of."""
        position, quaternion = self.tcp()
        return Reading(position, pybullet.getEulerFromQuaternion(quaternion), *self.joints())

    def observation(self, reading: Reading | None = None) -> np.ndarray:
        """Return ``robot_obs`` (15,): TCP position, TCP Euler angles, width, seven joints, last gripper action."""
        now = reading or self.read()
        return np.array([*now.position, *now.rotation, now.width, *now.angles, self.gripper_action], dtype=np.float64)

    def info(self, reading: Reading | None = None) -> dict[str, Any]:
        """Return CALVIN's ``robot_info``."""
        now = reading or self.read()
        return {
            "tcp_pos": now.position,
            "tcp_orn": now.rotation,
            "gripper_opening_width": now.width,
            "arm_joint_states": now.angles,
            "gripper_action": self.gripper_action,
            "uid": self.body,
            "contacts": pybullet.getContactPoints(bodyA=self.body, physicsClientId=self.client),
        }
