"""Experts that push blocks over the table with the closed fingers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bench.calvin.experts.motion import ACROSS, CLOSED, ExpertFailed, Hand, Motion, Pose, Vector
from bench.calvin.scene import TABLE_TOP

FINGER = 0.013
"""Half the depth of the closed fingers, metres."""
PUSH_HEIGHT = TABLE_TOP + 0.02


def _shove(hand: Hand, name: str, goal: Vector, tilt: float) -> Motion:
    """Push a block along the line to ``goal`` (x, y) from behind, keeping the block's middle ahead of the fingers."""
    block = hand.block(name)
    start = block.position[:2]
    way = goal - start
    length = float(np.linalg.norm(way))
    way = way / length
    heading = math.atan2(way[1], way[0])
    gap = block.half_width(heading) + FINGER
    behind = start - way * (gap + 0.025 + abs(hand.jitter(0.01)))
    low = Pose((float(behind[0]), float(behind[1]), PUSH_HEIGHT + hand.jitter(0.004)), ACROSS, tilt)
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(low)
    yield from hand.to(low.moved(z=0.06), close_to=0.01)
    yield from hand.to(low, pace=0.8, close_to=0.006)
    for _ in range(70):
        at = hand.block(name).position[:2]
        if float((goal - at) @ way) <= 0.0:
            break
        aside = (at - start) - way * float((at - start) @ way)
        # Lead the fingers beyond the block's middle line so that it is steered back to the line.
        point = at - way * (gap - 0.03) + 0.8 * aside
        step = Pose((float(point[0]), float(point[1]), low.position[2]), ACROSS, tilt)
        yield hand.action_toward(step, 0.75)
    yield from hand.through(hand.pose_here().moved(x=-0.03 * float(way[0]), y=-0.03 * float(way[1]), z=0.08))


def _lean(y: float) -> float:
    """Return the tilt that keeps the hand off the cabinet when the fingers stand at ``y`` metres."""
    return float(np.clip((y + 0.09) * 6, 0.0, 0.55))


def push(name: str, sign: int) -> Callable[[Hand], Motion]:
    """Return the expert that pushes a block to the right (``sign`` 1) or left (-1)."""

    def expert(hand: Hand) -> Motion:
        x, y = (float(value) for value in hand.block(name).position[:2])
        goal = np.array([x + sign * (0.118 + abs(hand.jitter(0.02))), _free_lane(hand, name, x, y, sign)])
        yield from _shove(hand, name, goal, _lean(y))

    return expert


def _free_lane(hand: Hand, name: str, x: float, y: float, sign: int) -> float:
    """Return the y at which the push should end so that the block passes the button and the other blocks."""
    obstacles = [(np.array(hand.scene.button[:2]), 0.04)]
    obstacles += [(hand.block(other).position[:2], 0.03) for other in hand.world.blocks if other != name]
    reach = hand.block(name).half_width(math.pi / 2)

    def room(end: float) -> float:
        free = 0.04
        for middle, radius in obstacles:
            for part in np.linspace(0.0, 1.0, 6):
                point = np.array([x + sign * 0.13 * part, y + (end - y) * part])
                free = min(free, float(np.linalg.norm(point - middle)) - radius - reach - 0.01)
        return free

    ends = [end for end in np.linspace(-0.15, -0.03, 13) if abs(end - y) < 0.08]
    return float(max(ends, key=lambda end: room(end) - 0.15 * abs(end - y), default=y))


def push_into_drawer(hand: Hand) -> Motion:
    """Push the block that lies on the table over its edge into the open drawer."""
    opening = hand.joints()[1]
    if opening < 0.1:
        raise ExpertFailed("the drawer is closed")
    ready = [name for name, state in hand.world.state().blocks.items() if state.contacts == {("table", "base_link")}]
    if not ready:
        raise ExpertFailed("no block lies on the table alone")
    centre = hand.scene.drawer[0]
    name = min(ready, key=lambda one: abs(float(hand.block(one).position[0]) - centre))
    x, y = (float(value) for value in hand.block(name).position[:2])
    goal = np.array([float(np.clip(x, centre - 0.11, centre + 0.11)), -0.225])
    yield from _shove(hand, name, goal, _lean(y + 0.04))
