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
PATIENCE = 14
"""Steps for which a block may fail to come along before the hand tries again from behind."""
ATTEMPTS = 3
BESIDE_DRAWER = 0.13
"""How far from the drawer's middle a block may be for a push straight into it."""


def _shove(hand: Hand, name: str, goal: Vector, tilt: float, reached: Callable[[Vector], bool]) -> Motion:
    """Push a block along the line to ``goal`` (x, y) from behind, keeping its middle ahead of the fingers.

    Ends when ``reached`` says so of the block's position (3,), or when the block does not come along.
    """
    block = hand.block(name)
    start = block.position[:2]
    way = (goal - start) / float(np.linalg.norm(goal - start))
    gap = block.half_width(math.atan2(way[1], way[0])) + FINGER
    behind = start - way * (gap + 0.025 + abs(hand.jitter(0.01)))
    low = Pose((float(behind[0]), float(behind[1]), PUSH_HEIGHT + hand.jitter(0.004)), ACROSS, tilt)
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(low)
    yield from hand.to(low.moved(z=0.06), close_to=0.01)
    yield from hand.to(low, pace=0.8, close_to=0.006)
    farthest, patience = -1.0, PATIENCE
    while patience and not reached(hand.block(name).position):
        at = hand.block(name).position[:2]
        progress = float((at - start) @ way)
        aside = (at - start) - way * progress
        # Lead the fingers beyond the block's middle line so that it is steered back to the line.
        point = at - way * (gap - 0.03) + 0.8 * aside
        yield hand.action_toward(Pose((float(point[0]), float(point[1]), low.position[2]), ACROSS, tilt), 0.75)
        farthest, patience = (progress, PATIENCE) if progress > farthest + 0.002 else (farthest, patience - 1)
    yield from hand.through(hand.pose_here().moved(x=-0.03 * float(way[0]), y=-0.03 * float(way[1]), z=0.08))


def _lean(y: float) -> float:
    """Return the tilt that keeps the hand off the cabinet when the fingers stand at ``y`` metres."""
    return float(np.clip((y + 0.09) * 6, 0.0, 0.55))


def push(name: str, sign: int) -> Callable[[Hand], Motion]:
    """Return the expert that pushes a block to the right (``sign`` 1) or left (-1)."""

    def expert(hand: Hand) -> Motion:
        x = float(hand.block(name).position[0])
        far = 0.115 + abs(hand.jitter(0.02))

        def reached(position: Vector) -> bool:
            return sign * (float(position[0]) - x) > far

        for _ in range(ATTEMPTS):
            now = hand.block(name).position
            if reached(now):
                return
            goal = np.array([x + sign * (far + 0.01), _free_lane(hand, name, x, float(now[1]), sign)])
            yield from _shove(hand, name, goal, _lean(float(now[1])), reached)

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

    def fell(position: Vector) -> bool:
        return float(position[2]) < TABLE_TOP

    for _ in range(ATTEMPTS):
        x, y = (float(value) for value in hand.block(name).position[:2])
        if abs(x - centre) > BESIDE_DRAWER:
            side = math.copysign(BESIDE_DRAWER - 0.04, x - centre)
            goal = np.array([centre + side, min(-0.1, y)])
            yield from _shove(hand, name, goal, _lean(y), lambda at: abs(float(at[0]) - centre) < BESIDE_DRAWER - 0.03)
            x, y = (float(value) for value in hand.block(name).position[:2])
        yield from _shove(hand, name, np.array([x, -0.26]), _lean(y + 0.04), fell)
        if fell(hand.block(name).position):
            return
