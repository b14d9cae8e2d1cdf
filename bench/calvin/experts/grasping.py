"""Experts that take blocks into the gripper: lift, place, stack, unstack, rotate.

Blocks may lie or stand anywhere that a chain of tasks leaves them; a grasp is chosen by where the fingers have room.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.calvin.experts import parts
from bench.calvin.experts.grasps import (
    CABINET_FLOOR_Y,
    Grasp,
    choose_grasp,
    grasps,
    in_cabinet,
    in_drawer,
    in_reach,
    on_table,
    room,
    wall,
)
from bench.calvin.experts.motion import (
    ACROSS,
    CABINET_Y,
    CLOSED,
    OPEN,
    BlockPose,
    ExpertFailed,
    Hand,
    Motion,
    Pose,
    Vector,
    wrapped,
)
from bench.calvin.scene import TABLE_TOP

ATTEMPTS = 3
MISSED = 0.03
"""Fingers farther from where they should be than this, metres, do not close."""
SLOPE_TILT = 0.25
"""How far the hand leans back, rad, where it stands askew before the cabinet's slope."""
TURN = 1.3
"""How far a block is turned, rad; the task asks for 60°."""
ENOUGH = 1.08
WALL_ROOM, DOOR_ROOM = 0.055, 0.085
"""How far from the cabinet's wall and its door a block is set down, metres: at the door the hand needs room."""
BEFORE_SLOPE = -0.055
"""y up to which a block can be lifted without touching the cabinet's slope."""
NEARBY = 0.085
"""How far a block is moved, metres, that is put down to be turned: the task allows 0.1 m."""
LEANING, NEAR_BASE = 0.5, -0.08
"""A hand that leans more than this, rad, does not reach places with a smaller x than this, metres."""
UPPER_ROOM = -0.04
"""y up to which there is room between the cabinet's slope and a block that lies on another one."""
ASKEW = 0.01
"""How far beside the middle of the lower block the upper one is set down at most, metres."""


def _approach(hand: Hand, pose: Pose) -> Motion:
    """Come to ``pose`` with the gripper open: into the cabinet from the front, elsewhere from above."""
    x, y, z = pose.position
    if y > CABINET_FLOOR_Y:
        yield from hand.above(Pose((x, CABINET_Y - 0.05, 0.58), pose.yaw, pose.tilt))
        yield from hand.to(Pose((x, y - 0.075, z + 0.1), pose.yaw, pose.tilt), close_to=0.012)
        yield from hand.to(Pose((x, y - 0.015, z + 0.035), pose.yaw, pose.tilt), pace=0.8, close_to=0.008)
    else:
        yield from hand.above(pose)
        yield from hand.to(pose.moved(z=0.07 + abs(hand.jitter(0.02))), close_to=0.006)
    yield from hand.to(pose, pace=0.7)


def grasp(hand: Hand, name: str) -> Motion:
    """Close the fingers around a block; tries again where it slipped away.

    Raises:
        ExpertFailed: the block never stayed between the fingers.
    """
    yield from hand.retreat()
    for attempt in range(ATTEMPTS):
        hand.gripper = OPEN
        pose = choose_grasp(hand, name, attempt)
        yield from _approach(hand, pose)
        if _arrived(hand, pose) or attempt == ATTEMPTS - 1:
            yield from hand.grip(CLOSED, int(hand.rng.integers(9, 13)))
            if hand.held() == name:
                return
            yield from hand.grip(OPEN, 3)
        yield from hand.retreat()
    raise ExpertFailed(f"{name} was not grasped in {ATTEMPTS} attempts")


def _arrived(hand: Hand, pose: Pose) -> bool:
    """Return whether the fingers are where they should be: the wrist may have come to its end, or hit something."""
    return float(np.linalg.norm(hand.tcp() - np.array(pose.position))) < MISSED


def lift(name: str) -> Callable[[Hand], Motion]:
    """Return the expert that lifts a block off whatever it lies on."""

    def expert(hand: Hand) -> Motion:
        inside = in_cabinet(hand.block(name))
        if inside:
            yield from parts.uncover(hand, float(hand.block(name).position[0]))
        yield from grasp(hand, name)
        here = hand.pose_here()
        block = hand.block(name)
        front = float(block.position[1]) + block.half_width(math.pi / 2)
        under_edge = front + 0.2
        if in_drawer(block) and under_edge > 0.0:
            here = here.moved(y=-under_edge, z=0.012)
            yield from hand.to(here, pace=0.6)
        if inside:
            yield from hand.to(here.moved(y=-0.02, z=0.06), pace=0.8, close_to=0.006)
            yield from hand.through(here.moved(y=-0.1, z=0.09))
        else:
            back = 0.0 if in_drawer(block) else max(0.0, front - BEFORE_SLOPE)
            yield from hand.to(here.moved(y=-back, z=0.08 + abs(hand.jitter(0.03))), pace=0.9, close_to=0.01)

    return expert


def _carried(hand: Hand) -> str:
    name = hand.held()
    if name is None:
        raise ExpertFailed("nothing is in the gripper")
    return name


def _level_tilt(hand: Hand, name: str) -> float:
    """Return the tilt at which the held block is level again, if the hand has tilted since it was grasped."""
    here = hand.pose_here()
    axes = hand.block(name).axes
    up = axes[:, int(np.argmax(np.abs(axes[2])))]
    up = up * np.sign(up[2])
    forward = up[0] * math.cos(here.yaw) + up[1] * math.sin(here.yaw)
    return float(np.clip(here.tilt + math.atan2(forward, up[2]), -0.2, 0.9))


def _release_at(hand: Hand, pose: Pose, away: Pose) -> Motion:
    yield from hand.to(pose, pace=0.7)
    yield from hand.grip(OPEN, int(hand.rng.integers(6, 10)))
    yield from hand.to(away, pace=0.8, close_to=0.012)


def place_in_drawer(hand: Hand) -> Motion:
    """Carry the held block over the open drawer and let it drop."""
    name = _carried(hand)
    opening = hand.joints()[1]
    if opening < 0.08:
        raise ExpertFailed("the drawer is closed")
    x0, y0, z0 = hand.scene.drawer
    low, high = y0 - 0.15 - opening, y0 - 0.19
    y = (low + high) / 2 + hand.jitter(0.015)
    taken = [hand.block(other).position[0] for other in hand.world.blocks if in_drawer(hand.block(other))]
    spots = x0 + np.linspace(-0.1, 0.1, 9)
    free = [x for x in spots if all(abs(x - other) > 0.08 for other in taken)] or [
        max(spots, key=lambda x: min((abs(x - other) for other in taken), default=1.0))
    ]
    x = float(hand.rng.choice(free))
    hanging = float(hand.target[2] - hand.block(name).position[2])
    drop = Pose((x, y, z0 + 0.1 + hanging + abs(hand.jitter(0.015))), ACROSS + hand.jitter(0.3))
    yield from hand.retreat()
    yield from hand.above(drop)
    yield from _release_at(hand, drop, drop.moved(z=0.12))


def place_in_slider(hand: Hand) -> Motion:
    """Put the held block into the half of the cabinet that the door leaves open."""
    name = _carried(hand)
    x = _cabinet_spot(hand, name) + hand.jitter(0.015)
    tilt = 0.45 + hand.jitter(0.08)
    inside = Pose((x, 0.082 + hand.jitter(0.008), TABLE_TOP + 0.045), ACROSS + hand.jitter(0.1), tilt)
    yield from hand.retreat()
    yield from hand.above(Pose((x, CABINET_Y - 0.06, 0.58), inside.yaw, tilt))
    yield from hand.to(inside.moved(y=-0.08, z=0.075), close_to=0.012)
    yield from hand.to(inside.moved(y=-0.02, z=0.02), pace=0.8, close_to=0.008)
    # A block that is held by its end, or has slipped, hangs beside the fingers.
    aside = np.clip(hand.tcp() - hand.block(name).position, -0.03, 0.03)
    inside = inside.moved(x=float(aside[0]), y=float(aside[1]))
    yield from _release_at(hand, inside, inside.moved(y=-0.08, z=0.06))


def _cabinet_spot(hand: Hand, name: str) -> float:
    """Return an x in the cabinet's open half that is clear of door, wall and the blocks that lie there, metres."""
    place, x = hand.joints()[0], hand.scene.slide[0]
    left, right = x - hand.scene.slide_range, x + parts.DOOR_WIDTH
    covered = (x - place, x - place + parts.DOOR_WIDTH)
    if covered[0] - left > right - covered[1]:
        low, high, middle = left + WALL_ROOM, covered[0] - DOOR_ROOM, (left + covered[0]) / 2
    else:
        low, high, middle = covered[1] + DOOR_ROOM, right - WALL_ROOM, (covered[1] + right) / 2 - 0.02
    blocks = [hand.block(other) for other in hand.world.blocks if other != name]
    taken = [float(block.position[0]) for block in blocks if in_cabinet(block)]

    def worth(spot: float) -> float:
        return min([0.09, *(abs(spot - other) for other in taken)]) - 0.5 * max(0.0, abs(spot - middle) - 0.02)

    return float(max([middle, *np.linspace(low, high, 13)], key=worth))


def stack_block(hand: Hand) -> Motion:
    """Set the held block on top of another one that lies on the table."""
    name = _carried(hand)
    others = [other for other in hand.world.blocks if other != name and on_table(hand.block(other))]
    if not others:
        raise ExpertFailed("no block lies on the table to stack upon")
    base = hand.block(min(others, key=lambda other: abs(hand.block(other).position[1] + 0.1)))
    if _level_tilt(hand, name) > LEANING and base.position[0] < NEAR_BASE:
        yield from put_down(hand)
        yield from grasp(hand, name)
    held = hand.block(name)
    x, y = (float(value) for value in base.position[:2])
    top = float(base.position[2]) + base.height / 2
    turn = _alignment(held, base)
    # Before the cabinet's slope the upper block is set down a little nearer to the robot.
    y -= float(np.clip(y + held.half_width(math.pi / 2 - turn) - UPPER_ROOM, 0.0, ASKEW))
    yaw = hand.yaw + turn
    yield from hand.retreat()
    over = Pose((x, y, top + 0.1), yaw, _level_tilt(hand, name))
    yield from hand.above(over)
    yield from hand.to(over, close_to=0.005)
    offset = hand.tcp() - hand.block(name).position
    bottom = hand.block(name).height / 2
    x, y = over.position[0] + float(offset[0]), over.position[1] + float(offset[1])
    spot = Pose((x, y, top + bottom + float(offset[2]) + 0.004), yaw, over.tilt)
    yield from hand.to(spot.moved(z=0.03), pace=0.7)
    yield from hand.to(spot, pace=0.5, close_to=0.002)
    yield from hand.grip(OPEN, 8)
    yield from hand.to(spot.moved(z=0.1), pace=0.6, close_to=0.012)


def _alignment(held: BlockPose, base: BlockPose) -> float:
    """Return the smallest turn that lays the held block's sides along the base's, preferring long on long."""
    longest = max(held.sides(), key=lambda side: side[1])[0]
    along = max(base.sides(), key=lambda side: side[1])[0]
    turn = (along - longest + math.pi / 4) % (math.pi / 2) - math.pi / 4
    return float(turn)


def unstack_block(hand: Hand) -> Motion:
    """Take the upper of two stacked blocks and set it down beside."""
    name = top_block(hand)
    yield from grasp(hand, name)
    here = hand.pose_here()
    yield from hand.to(here.moved(z=0.05), pace=0.8, close_to=0.008)
    yield from put_down(hand)


def top_block(hand: Hand) -> str:
    """Return the block that lies on another one.

    Raises:
        ExpertFailed: there is none.
    """
    for name, state in hand.world.state().blocks.items():
        bodies = {body for body, _ in state.contacts}
        if bodies and bodies <= set(hand.world.blocks):
            return name
    raise ExpertFailed("no block lies on another one")


def free_spot(hand: Hand, name: str, near: bool = False) -> Vector:
    """Return x, y on the table where a block may be put down, far from the other blocks and the button.

    ``near`` asks for a spot so near to here that putting it down does not count as moving it elsewhere.
    """
    x0, y0 = hand.scene.button[0], hand.scene.button[1]
    taken = [np.array([x0, y0]), *(hand.block(other).position[:2] for other in hand.world.blocks if other != name)]
    low, high = hand.scene.surfaces["table"].low, hand.scene.surfaces["table"].high
    left = max(low[0], NEAR_BASE) if _level_tilt(hand, name) > LEANING else low[0]
    spots = hand.rng.uniform((left + 0.02, low[1] + 0.01), (high[0] - 0.02, high[1] - 0.03), (24, 2))
    here = hand.target[:2]
    if near:
        angles = np.linspace(0.0, 2 * math.pi, 24, endpoint=False)
        down = float(hand.block(name).position[2]) - TABLE_TOP - hand.block(name).height / 2
        aside = math.sqrt(max(NEARBY**2 - down**2, 0.02**2))
        spots = here + aside * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        spots = spots[np.abs(spots[:, 1] + 0.1) < 0.04]

    def worth(spot: Vector) -> float:
        room = min(float(np.linalg.norm(spot - other)) for other in taken)
        return min(room, 0.13) - 0.1 * float(np.linalg.norm(spot - here))

    return np.array(max(spots, key=worth, default=here))


def put_down(hand: Hand, near: bool = False) -> Motion:
    """Lay the held block on a free spot of the table, ``near`` to here if its place counts."""
    name = _carried(hand)
    x, y = (float(value) for value in free_spot(hand, name, near))
    hanging = float(hand.target[2] - hand.block(name).position[2]) + hand.block(name).height / 2
    spot = Pose((x, y, TABLE_TOP + hanging + 0.006), hand.yaw, _level_tilt(hand, name))
    yield from hand.retreat()
    yield from hand.above(spot)
    yield from _release_at(hand, spot, spot.moved(z=0.09))


def rotate(name: str, sign: int) -> Callable[[Hand], Motion]:
    """Return the expert that turns a block on the spot: ``sign`` 1 is counterclockwise (left)."""

    def expert(hand: Hand) -> Motion:
        start = hand.block(name).heading()
        yield from hand.retreat()
        for attempt in range(ATTEMPTS):
            turned = sign * wrapped(hand.block(name).heading() - start)
            if turned > ENOUGH:
                return
            angle = sign * (TURN - turned + abs(hand.jitter(0.15)))
            yield from _turn(hand, name, _turning_pose(hand, name, angle, attempt), angle)

    return expert


def _turning_pose(hand: Hand, name: str, angle: float, choice: int) -> Pose:
    """Return where to take hold of a block that is to be turned by ``angle``, so that the wrist can follow."""
    block = hand.block(name)
    starts = [
        replace(one, yaw=one.yaw + turn)
        for one in grasps(block)
        for turn in (-math.pi, 0.0)
        if not one.offset.any() and -1.25 < one.yaw + turn < 3.5 and -1.25 < one.yaw + turn + angle < 3.5
    ]
    if not starts:
        raise ExpertFailed(f"{name}: the wrist cannot turn that far")

    def cost(one: Grasp) -> float:
        crowded = 40 * max(0.0, 0.01 - room(hand, name, block, one)) + 10 * wall(block, one.direction)
        reach = in_reach(one.yaw) + in_reach(one.yaw + angle)
        return abs(one.yaw + angle / 2 - 1.2) * 0.2 + crowded + 2 * reach + 0.4 * (one.width > 0.05)

    best = sorted(starts, key=cost)[choice % len(starts)]
    x, y, z = (float(value) for value in block.position)
    return Pose((x, y, z), best.yaw, SLOPE_TILT if y > BEFORE_SLOPE - 0.02 and abs(best.yaw - ACROSS) < 1.0 else 0.0)


def _turn(hand: Hand, name: str, pose: Pose, angle: float) -> Motion:
    """Take hold of a block at ``pose``, turn it in the air and set it down; let go at once where that fails."""
    hand.gripper = OPEN
    yield from _approach(hand, pose)
    if _arrived(hand, pose):
        yield from hand.grip(CLOSED, int(hand.rng.integers(9, 13)))
        if hand.held() == name:
            raised = pose.moved(z=0.02)
            yield from hand.to(raised, pace=0.6)
            turned = Pose(raised.position, pose.yaw + angle)
            yield from hand.to(turned, pace=1.0)
            yield from hand.to(turned.moved(z=-0.017), pace=0.5)
        yield from hand.grip(OPEN, 7)
    yield from hand.to(hand.pose_here().moved(z=0.08), close_to=0.012)
