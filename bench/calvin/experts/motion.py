"""The expert's hand: where things are, and smooth motion to a pose as CALVIN's relative actions.

A motion is a generator of actions: whoever drives it steps the environment between two of them.  Actions are computed
from the controller's *running target*, which is what they are added to (calvin_env ``robot.py: use_target_pose``), so
a disturbed action is corrected by the next ones.  Which tasks are done how is not said here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.calvin.bullet import pybullet
from bench.calvin.robot import MAX_RELATIVE_POSITION, MAX_RELATIVE_ROTATION
from bench.calvin.scene import SceneSpec
from bench.calvin.world import World

Vector = NDArray[np.float64]
Motion = Iterator[Vector]

OPEN, CLOSED = 1.0, -1.0
ACROSS = math.pi / 2
"""Yaw at which the fingers open along x and the hand tilts toward or away from the robot."""

TRANSIT_HEIGHT = 0.54
CABINET_Y = -0.05
"""In front of the cabinet's handle and lever; the hand may move sideways where y is smaller."""


class ExpertFailed(Exception):  # noqa: N818 - an outcome, not an error
    """The expert sees that it cannot do the task from here."""


class SteppedWorld(Protocol):
    """What an expert needs of an environment."""

    world: World


@dataclass(frozen=True)
class Pose:
    """Where the tool centre point is to be.

    Attributes:
        position: metres, world frame.
        yaw: rotation about the vertical; at ``ACROSS`` the fingers open along x.
        tilt: how far the hand leans back from its fingers, rad; at ``ACROSS`` it leans toward the robot.
    """

    position: tuple[float, float, float]
    yaw: float = ACROSS
    tilt: float = 0.0

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Pose:
        """Return the pose shifted in the world frame."""
        a, b, c = self.position
        return Pose((a + x, b + y, c + z), self.yaw, self.tilt)


@dataclass(frozen=True)
class BlockPose:
    """A block as the hand sees it.

    Attributes:
        position: centre, metres (3,).
        axes: (3, 3), columns are the block's own axes in the world.
        extents: edge lengths along the block's axes, metres (3,).
    """

    position: Vector
    axes: Vector
    extents: Vector

    def sides(self) -> list[tuple[float, float]]:
        """Return (direction in [0, pi), edge length) of the two edges that lie flat."""
        upright = int(np.argmax(np.abs(self.axes[2])))
        flat = [axis for axis in range(3) if axis != upright]
        return [
            (math.atan2(self.axes[1, axis], self.axes[0, axis]) % math.pi, float(self.extents[axis])) for axis in flat
        ]

    def heading(self) -> float:
        """Return the direction of the first edge that lies flat, within [-pi, pi): it turns as the block turns."""
        upright = int(np.argmax(np.abs(self.axes[2])))
        flat = 1 if upright == 0 else 0
        return math.atan2(self.axes[1, flat], self.axes[0, flat])

    @property
    def height(self) -> float:
        """Return the edge length along the vertical."""
        return float(self.extents[int(np.argmax(np.abs(self.axes[2])))])

    def half_width(self, direction: float) -> float:
        """Return how far the block reaches from its centre along a horizontal direction, metres."""
        return sum(length / 2 * abs(math.cos(direction - side)) for side, length in self.sides())


def wrapped(angle: float) -> float:
    """Return the angle within [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


class Hand:
    """One expert's hand in one world, with a temper of its own: pace, smoothness and heights are drawn once.

    Args:
        env: the environment that somebody steps between two actions.
        rng: the only source of variation.
    """

    def __init__(self, env: SteppedWorld, rng: np.random.Generator) -> None:
        self.world = env.world
        self.rng = rng
        self.pace = float(rng.uniform(0.6, 1.0))
        self.softness = float(rng.uniform(0.2, 0.4))
        self.height = TRANSIT_HEIGHT + float(rng.uniform(0.0, 0.06))
        self.gripper = OPEN if self.world.robot.gripper_action > 0 else CLOSED
        self._last = np.zeros(6)

    @property
    def scene(self) -> SceneSpec:
        """Return the numbers of the play table."""
        return self.world.scene

    @property
    def target(self) -> Vector:
        """Return the running target's position (3,)."""
        return self.world.robot.target_position

    @property
    def yaw(self) -> float:
        """Return the running target's yaw, half a turn either way from ``ACROSS``: the wrist turns no further."""
        return ACROSS + wrapped(float(self.world.robot.target_rotation[2]) - ACROSS)

    def tcp(self) -> Vector:
        """Return where the tool centre point truly is (3,)."""
        return np.array(self.world.robot.tcp()[0])

    def width(self) -> float:
        """Return the gripper's opening, metres."""
        return self.world.robot.joints()[1]

    def joints(self) -> tuple[float, float, float, float]:
        """Return slider, drawer, button and switch positions, metres."""
        return self.world.table.joints()

    def block(self, name: str) -> BlockPose:
        """Return where a block is."""
        position, quaternion = pybullet.getBasePositionAndOrientation(
            self.world.blocks[name], physicsClientId=self.world.client
        )
        axes = np.array(pybullet.getMatrixFromQuaternion(quaternion)).reshape(3, 3)
        extents = next(block.extents for block in self.scene.blocks if block.name == name)
        return BlockPose(np.array(position), axes, np.array(extents))

    def held(self) -> str | None:
        """Return the block that hangs in the gripper, if there is one."""
        for name, body in self.world.blocks.items():
            touching = pybullet.getContactPoints(self.world.robot.body, body, physicsClientId=self.world.client)
            fingers = {point[3] for point in touching}
            if len(fingers & {9, 10}) and len(fingers & {11, 12}) and self.gripper == CLOSED:
                return name
        return None

    def jitter(self, scale: float) -> float:
        """Return a draw within ±scale metres (or radians)."""
        return float(self.rng.uniform(-scale, scale))

    def _turn(self, pose: Pose) -> Vector:
        """Return the Euler angles (3,) that are missing to ``pose``; yaw goes the way that the wrist can."""
        roll, pitch, _ = self.world.robot.target_rotation
        return np.array([wrapped(math.pi - roll), wrapped(-pose.tilt - pitch), pose.yaw - self.yaw])

    def _action(self, pose: Pose, pace: float) -> Vector:
        """Return the action toward a pose: braking near it, turning with it, never jerking."""
        ahead = (np.array(pose.position) - self.target) / MAX_RELATIVE_POSITION
        turn = self._turn(pose) / MAX_RELATIVE_ROTATION
        distance, angle = float(np.linalg.norm(ahead)), float(np.abs(turn).max())
        speed = min(pace, self.softness * distance + 0.05)
        spin = min(pace, self.softness * angle + 0.05)
        wanted = np.concatenate(
            [ahead * min(1.0, speed / max(distance, 1e-9)), turn * min(1.0, spin / max(angle, 1e-9))]
        )
        change = np.clip(wanted - self._last, -0.3, 0.3)
        self._last = np.clip(self._last + change, -1.0, 1.0)
        return np.append(self._last, self.gripper)

    def action_toward(self, pose: Pose, pace: float = 1.0) -> Vector:
        """Return one action toward ``pose`` at a fraction of the hand's own pace."""
        return self._action(pose, pace * self.pace)

    def to(self, pose: Pose, *, pace: float = 1.0, close_to: float = 0.004, settle: int = 6, limit: int = 90) -> Motion:
        """Move to ``pose``; ends when target and hand are within ``close_to`` metres, or a few steps after the target.

        Args:
            pose: where to.
            pace: fraction of the hand's own pace.
            close_to: metres; generous for points on the way.
            settle: steps to wait for the hand once the target is there (it may be held up by what it pushes).
            limit: steps after which to go on regardless.
        """
        position, waited = np.array(pose.position), 0
        for _ in range(limit):
            near = float(np.linalg.norm(position - self.target)) < close_to
            turned = float(np.abs(self._turn(pose)).max()) < max(0.03, 5 * close_to)
            if near and turned:
                waited += 1
                if waited > settle or float(np.linalg.norm(position - self.tcp())) < close_to + 0.004:
                    return
            yield self._action(pose, pace * self.pace)

    def through(self, pose: Pose, pace: float = 1.0) -> Motion:
        """Move past ``pose`` without stopping there."""
        return self.to(pose, pace=pace, close_to=0.02, settle=0)

    def grip(self, gripper: float, steps: int) -> Motion:
        """Open or close the gripper and wait at the same place."""
        self.gripper, here = gripper, self.pose_here()
        for _ in range(steps):
            yield self._action(here, self.pace)

    def pose_here(self) -> Pose:
        """Return the running target as a pose."""
        x, y, z = (float(value) for value in self.target)
        return Pose((x, y, z), self.yaw, -float(self.world.robot.target_rotation[1]))

    def transit_height(self) -> float:
        """Return the height at which the hand passes over everything that stands on the table, a tower too."""
        held = self.held()
        hanging = 0.02 if held is None else 0.05
        tops = [float(self.block(name).position[2]) + 0.02 for name in self.world.blocks if name != held]
        return max(self.height, max(tops, default=0.0) + hanging + 0.015)

    def retreat(self) -> Motion:
        """Get out of wherever the last task left the hand: out of the cabinet forward, out of anything else upward."""
        here = self.pose_here()
        x, y, z = here.position
        if y > CABINET_Y and z < 0.68:
            yield from self.through(Pose((x, CABINET_Y - 0.03, max(z, 0.51)), here.yaw, here.tilt))
        x, y, z = (float(value) for value in self.target)
        if z < self.transit_height() - 0.01:
            up = Pose((x, y, self.transit_height()), here.yaw, here.tilt)
            yield from self.to(up, close_to=0.012, settle=0)

    def above(self, pose: Pose, pace: float = 1.0) -> Motion:
        """Travel at transit height to a point above ``pose``, turning on the way."""
        x, y, z = pose.position
        height = max(self.transit_height(), z)
        over = Pose((x + self.jitter(0.015), y + self.jitter(0.015), height), pose.yaw, pose.tilt)
        yield from self.through(over, pace)
