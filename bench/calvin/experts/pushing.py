"""Experts that push blocks over the table with the closed fingers; what cannot be pushed is drawn along."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bench.calvin.experts.grasping import grasp
from bench.calvin.experts.grasps import on_table
from bench.calvin.experts.motion import ACROSS, CLOSED, OPEN, ExpertFailed, Hand, Motion, Pose, Vector
from bench.calvin.experts.parts import SLIDER_HANDLE
from bench.calvin.scene import TABLE_TOP

FINGER = 0.013
"""Half the depth of the closed fingers, metres."""
PUSH_HEIGHT = TABLE_TOP + 0.02
PATIENCE = 14
"""Steps for which a block may fail to come along before the hand tries again from behind."""
ATTEMPTS = 2
STRAYED = 0.045
"""How far a block may leave the line along which it is pushed, metres, before the hand tries again."""
STEERING = 0.8
MOST_STEERING = 0.015
"""How far beside their way the fingers aim: per metre that the block has left the line, and at most."""
BESIDE = 0.022
"""How far beside the fingers a block may come to lie, metres, before the hand tries again."""
BUTTON_ROOM = 0.053
"""How near to the button's middle the closed fingers can come down, metres."""
BEFORE_CABINET, BEFORE_HANDLE = -0.01, -0.06
"""y up to which the closed fingers can come down before the cabinet, and before its door's handle."""
HANDLE_WIDTH = 0.05
TABLE_EDGE = -0.18
EDGE = -0.16
"""A block nearer to the table's edge than this y is pushed back from it, metres."""
LANE = -0.105
"""y along which a block is pushed toward the drawer: between the edge and the cabinet."""
BESIDE_DRAWER = 0.13
"""How far from the drawer's middle a block may be for a push straight into it."""


def _shove(hand: Hand, name: str, goal: Vector, reached: Callable[[Vector], bool]) -> Motion:
    """Push a block along the line to ``goal`` (x, y) from behind, keeping its middle ahead of the fingers.

    Ends when ``reached`` says so of the block's position (3,), when the block does not come along, when it has left the
    line, or when it comes too near to the table's edge on the way to a goal that is not beyond it.
    """
    block = hand.block(name)
    start = block.position[:2]
    way = (goal - start) / float(np.linalg.norm(goal - start))
    behind = _behind(hand, name, way)[0] - way * abs(hand.jitter(0.004))
    edge = -math.inf if goal[1] < TABLE_EDGE else min(EDGE, float(start[1])) - 0.008
    tilt = _lean(max(float(behind[1]), float(start[1])))
    low = Pose((float(behind[0]), float(behind[1]), PUSH_HEIGHT + hand.jitter(0.004)), ACROSS, tilt)
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(low)
    yield from hand.to(low.moved(z=0.06), close_to=0.01)
    yield from hand.to(low, pace=0.8, close_to=0.006)
    farthest, patience = -1.0, PATIENCE
    while patience and not reached(hand.block(name).position):
        block = hand.block(name)
        progress = float((block.position[:2] - start) @ way)
        aside = (block.position[:2] - start) - way * progress
        lag = block.position[:2] - hand.target[:2]
        beside = abs(float(lag[0] * way[1] - lag[1] * way[0]))
        if float(np.linalg.norm(aside)) > STRAYED or beside > BESIDE or block.position[1] < edge:
            break
        yield hand.action_toward(_onward(hand, way, aside, low), 0.75)
        farthest, patience = (progress, PATIENCE) if progress > farthest + 0.002 else (farthest, patience - 1)
    yield from hand.through(hand.pose_here().moved(x=-0.03 * float(way[0]), y=-0.03 * float(way[1]), z=0.08))


def _behind(hand: Hand, name: str, way: Vector) -> tuple[Vector, float]:
    """Return where (x, y) the fingers come down to push a block along ``way``, and how much room they have there."""
    block = hand.block(name)
    touching = block.half_width(math.atan2(way[1], way[0])) + FINGER
    points = [block.position[:2] - way * (touching + run_up) for run_up in (0.03, 0.02, 0.008)]
    rooms = [_room_to_come_down(hand, name, point) for point in points]
    best = next((index for index, room in enumerate(rooms) if room > 0.0), int(np.argmax(rooms)))
    return points[best], rooms[best]


def _room_to_come_down(hand: Hand, name: str, point: Vector) -> float:
    """Return how far closed fingers at ``point`` (x, y) are from what stands there, metres; negative: they hit it."""
    handle = hand.scene.slide[0] - hand.joints()[0] + SLIDER_HANDLE[0]
    slope = BEFORE_HANDLE if abs(point[0] - handle) < HANDLE_WIDTH else BEFORE_CABINET
    rooms = [slope - point[1], math.dist(point, hand.scene.button[:2]) - BUTTON_ROOM]
    for other in hand.world.blocks:
        block = hand.block(other)
        if other != name and on_table(block):
            away = block.position[:2] - point
            rooms.append(float(np.linalg.norm(away)) - block.half_width(math.atan2(away[1], away[0])) - FINGER)
    return float(min(rooms))


def _onward(hand: Hand, way: Vector, aside: Vector, low: Pose) -> Pose:
    """Return where the fingers go next: on along the way, and back to the line that block and fingers have left.

    The block turns until a side of it lies against the flat fingers, and then goes where they go.
    """
    back = -aside * min(STEERING, MOST_STEERING / max(float(np.linalg.norm(aside)), 1e-9))
    x, y = (float(value) for value in hand.target[:2] + 0.03 * way + back)
    return Pose((x, y, low.position[2]), ACROSS, low.tilt)


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
            goal, room = _lane(hand, name, x + sign * (far + 0.01))
            if room < -0.005:
                break
            yield from _shove(hand, name, goal, reached)
        now = hand.block(name).position
        if not reached(now):
            yield from _drag(hand, name, x + sign * (far + 0.01) - float(now[0]))

    return expert


def _drag(hand: Hand, name: str, x: float) -> Motion:
    """Take hold of a block that cannot be pushed and draw it over the table by ``x`` metres."""
    yield from grasp(hand, name)
    there = hand.pose_here().moved(x=x, y=min(0.0, LANE - float(hand.block(name).position[1])))
    yield from hand.to(there, pace=0.6)
    yield from hand.grip(OPEN, 7)
    yield from hand.to(there.moved(z=0.09), close_to=0.012)


def _lane(hand: Hand, name: str, x: float) -> tuple[Vector, float]:
    """Return the goal (``x``, y) of a push on which the block passes the button and the other blocks.

    Also returns how much room the fingers have where they come down for it, metres.
    """
    obstacles = [(np.array(hand.scene.button[:2]), 0.04)]
    obstacles += [(hand.block(other).position[:2], 0.03) for other in hand.world.blocks if other != name]
    block = hand.block(name)
    reach, start = block.half_width(math.pi / 2), block.position[:2]

    def free(goal: Vector) -> float:
        points = [start + (goal - start) * part for part in np.linspace(0.0, 1.0, 6)]
        return min(
            [
                0.04,
                *(math.dist(point, middle) - radius - reach - 0.01 for point in points for middle, radius in obstacles),
            ]
        )

    def room(goal: Vector) -> float:
        return _behind(hand, name, (goal - start) / float(np.linalg.norm(goal - start)))[1]

    def worth(goal: Vector) -> float:
        return free(goal) + 2 * min(0.0, room(goal)) - 0.15 * abs(float(goal[1] - start[1]))

    middle = float(np.clip(start[1], -0.15, -0.03))
    goals = [np.array([x, y]) for y in np.linspace(-0.15, -0.03, 13) if abs(y - middle) < 0.08]
    best = max(goals, key=worth)
    return best, room(best)


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

    def beside(position: Vector) -> bool:
        return abs(float(position[0]) - centre) < BESIDE_DRAWER - 0.03 or fell(position)

    for attempt in range(ATTEMPTS + 2):
        x = float(hand.block(name).position[0])
        if abs(x - centre) > BESIDE_DRAWER:
            near = centre + math.copysign(BESIDE_DRAWER - 0.04, x - centre)
            if attempt == ATTEMPTS + 1:
                yield from _drag(hand, name, near - x)
            else:
                yield from _shove(hand, name, np.array([near, LANE]), beside)
            x = float(hand.block(name).position[0])
        if abs(x - centre) < BESIDE_DRAWER:
            yield from _shove(hand, name, np.array([x, -0.26]), fell)
        if fell(hand.block(name).position):
            return
