"""Where to take hold of a block: between which faces, and from where the fingers have room.

Not here: any motion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.calvin.experts.motion import ACROSS, BlockPose, ExpertFailed, Hand, Pose, Vector
from bench.calvin.experts.parts import DOOR_WIDTH
from bench.calvin.scene import TABLE_TOP

CABINET_FLOOR_Y = 0.02
"""Blocks beyond this y lie in the cabinet."""
DRAWER_BELOW = 0.42
"""Blocks whose centre is lower lie in the drawer."""
FALLEN = 0.3
"""Blocks whose centre is lower lie neither on the table nor in the drawer."""
CABINET_TILT = 0.75
"""The hand leans back this far, rad, to reach into the cabinet without touching its slope."""
PALM = 0.12
"""A door nearer than this to the gripper's middle, metres, is touched by the end of the hand that is turned to it."""
DRAWER_BACK = -0.183
"""y of the table's edge, beneath which the drawer goes in."""
DRAWER_FRONT = -0.157
"""y of the inner side of the closed drawer's front."""
DRAWER_TILT = 0.25
BESIDE_TABLE = -0.24
"""To a block in the drawer beyond this y the hand leans, so that it does not touch the table's edge."""
MOST_SQUEEZED = 0.7
"""How far, rad, closing fingers turn a block at most."""
WIDEST = 0.06
FINGERTIP = 0.055
"""How far the outer side of an open finger is from the gripper's middle, metres."""
FINGER_RADIUS = 0.012
BUTTON_RADIUS = 0.04


def in_cabinet(block: BlockPose) -> bool:
    """Return whether a block lies in the cabinet."""
    return bool(block.position[1] > CABINET_FLOOR_Y)


def in_drawer(block: BlockPose) -> bool:
    """Return whether a block lies in the drawer."""
    return bool(block.position[2] < DRAWER_BELOW)


@dataclass(frozen=True)
class Grasp:
    """A way to close the fingers on a block from above.

    Attributes:
        yaw: of the hand.
        width: what lies between the fingers, metres.
        direction: of the line from finger to finger.
        offset: x, y from the block's middle, metres: a long block may be taken nearer to one end.
    """

    yaw: float
    width: float
    direction: float
    offset: Vector


def grasps(block: BlockPose) -> Iterator[Grasp]:
    """Yield every way to take a block from above that the wrist can reach."""
    (side_a, length_a), (side_b, length_b) = block.sides()
    for direction, width, along, length in ((side_a, length_a, side_b, length_b), (side_b, length_b, side_a, length_a)):
        reach = length / 2 - 0.018
        for turn in (-1, 0, 1):
            yaw = direction - math.pi / 2 + turn * math.pi
            if width > WIDEST or not -0.6 < yaw < 3.5:
                continue
            for shift in (0.0, reach, -reach):
                yield Grasp(yaw, width, direction, shift * np.array([math.cos(along), math.sin(along)]))


def room(hand: Hand, name: str, block: BlockPose, grasp: Grasp) -> float:
    """Return the distance between the open fingers and the nearest other thing, metres (at most 5 cm)."""
    nearest = 0.05
    line = np.array([math.cos(grasp.direction), math.sin(grasp.direction)])
    for finger in (block.position[:2] + grasp.offset + side * FINGERTIP * line for side in (-1, 1)):
        if on_table(block):
            nearest = min(nearest, math.dist(finger, hand.scene.button[:2]) - BUTTON_RADIUS - FINGER_RADIUS)
        for other in hand.world.blocks:
            pose = hand.block(other)
            if other == name or abs(pose.position[2] - block.position[2]) > 0.035:
                continue
            away = pose.position[:2] - finger
            reach = pose.half_width(math.atan2(away[1], away[0]))
            nearest = min(nearest, float(np.linalg.norm(away)) - reach - FINGER_RADIUS)
    return nearest


def wall(block: BlockPose, direction: float) -> float:
    """Return how much a hand with fingers along ``direction`` would run into cabinet or table edge, metres."""
    across = abs(math.sin(direction))
    if in_cabinet(block):
        return 0.3 * across
    if in_drawer(block):
        return 0.05 * across
    return max(0.0, float(block.position[1]) + 0.032 + 0.07 * across - 0.01) * 2


def on_table(block: BlockPose) -> bool:
    """Return whether a block lies on the table top itself."""
    return not in_cabinet(block) and abs(block.position[2] - block.height / 2 - TABLE_TOP) < 0.012


def in_reach(yaw: float) -> float:
    """Return a cost for a yaw at which the wrist comes near its end: the hand then stands beside where it should."""
    return 0.4 * max(0.0, 0.0 - yaw, yaw - 2.9)


def _within_drawer(hand: Hand, block: BlockPose, yaw: float) -> float:
    """Return the yaw nearest to ``yaw`` at which the open fingers do not land on the drawer's rims, if it is not far.

    A block that lies askew is then turned by the closing fingers.
    """
    back = DRAWER_BACK - FINGER_RADIUS - float(block.position[1])
    front = float(block.position[1]) - FINGER_RADIUS - (DRAWER_FRONT - hand.joints()[1])
    free = math.asin(float(np.clip(min(back, front) / FINGERTIP, 0.0, 1.0)))
    turned = yaw - ACROSS
    limited = float(np.clip(turned, -free, free))
    return ACROSS + (limited if abs(limited - turned) < MOST_SQUEEZED else turned)


def _beside_door(hand: Hand, block: BlockPose, yaw: float) -> float:
    """Return the yaw, near to ``yaw``, at which the hand touches neither wall nor door; the fingers turn the block."""
    if abs(yaw - ACROSS) >= 0.6:
        return yaw
    yaw = ACROSS + (yaw - ACROSS) / 2
    left = hand.scene.slide[0] - hand.joints()[0]
    if left - PALM < block.position[0] < left:
        return min(yaw, ACROSS)
    if left + DOOR_WIDTH < block.position[0] < left + DOOR_WIDTH + PALM:
        return max(yaw, ACROSS)
    return yaw


def choose_grasp(hand: Hand, name: str, choice: int = 0) -> Pose:
    """Return the pose in which to close the fingers on a block.

    Args:
        hand: whose fingers.
        name: the block.
        choice: 0 for the best, 1 for the second best, …: where the best has failed.

    Raises:
        ExpertFailed: the block fell off the table, or no two faces of it fit between the fingers.
    """
    block = hand.block(name)
    if block.position[2] < FALLEN:
        raise ExpertFailed(f"{name} fell off the table")

    def cost(one: Grasp) -> float:
        crowded = 40 * max(0.0, 0.01 - room(hand, name, block, one)) + 10 * wall(block, one.direction)
        wide, far = 0.4 * (one.width > 0.05), 0.08 * abs(one.yaw - hand.yaw)
        return crowded + wide + far + in_reach(one.yaw) + 8 * float(np.linalg.norm(one.offset))

    ways = sorted(grasps(block), key=cost)
    if not ways:
        raise ExpertFailed(f"{name}: no side narrower than {WIDEST} m lies flat")
    best = ways[choice % len(ways)]
    yaw, tilt = best.yaw, 0.0
    if in_cabinet(block):
        yaw = _beside_door(hand, block, yaw)
        # Near its base the robot cannot lean that far.
        tilt = CABINET_TILT - 0.3 * float(np.clip((-0.1 - block.position[0]) / 0.12, 0.0, 1.0)) + hand.jitter(0.06)
    elif in_drawer(block):
        yaw = _within_drawer(hand, block, yaw)
        tilt = DRAWER_TILT if block.position[1] > BESIDE_TABLE and abs(yaw - ACROSS) < 0.8 else 0.0
    elif block.position[1] > -0.06 and abs(math.sin(best.yaw)) > 0.8:
        tilt = 0.15
    elif choice and block.position[1] > -0.08:
        # The first try touched the cabinet's slope.
        tilt = 0.25
    x, y = (float(value) for value in block.position[:2] + best.offset)
    z = float(block.position[2])
    return Pose((x, y, z + max(0.0, block.height / 2 - 0.02)), yaw, tilt)
