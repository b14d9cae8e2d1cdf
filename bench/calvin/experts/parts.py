"""Experts for what is fixed to the table: drawer, cabinet door, lever and button.

Where handles are follows from the joints' origins in ``SceneSpec``; the offsets are the shapes' (calvin_env
``data/calvin_table_*/meshes``, after scaling).
"""

from __future__ import annotations

import math

from bench.calvin.experts.motion import ACROSS, CLOSED, Hand, Motion, Pose
from bench.calvin.scene import DRAWER_RANGE

# Offsets from a joint's origin, metres.
DRAWER_GAP = (-0.212, 0.042)
DRAWER_FRONT = -0.262
SLIDER_HANDLE = (0.14, -0.078, -0.010)
LEVER_TIP = (0.0, -0.055, 0.032)
BUTTON_TOP = 0.024
FINGER = 0.022
DOOR_WIDTH = 0.28
HAND_ROOM = 0.06


def open_drawer(hand: Hand) -> Motion:
    """Hook the closed fingers behind the drawer's handle and pull."""
    x, y, z = hand.scene.drawer
    x += hand.jitter(0.06)
    opening = hand.joints()[1]
    hook = Pose((x, y + DRAWER_GAP[0] - opening, z + DRAWER_GAP[1] + hand.jitter(0.003)), ACROSS + hand.jitter(0.1))
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(hook)
    yield from hand.to(hook.moved(z=0.08), close_to=0.006)
    yield from hand.to(hook, pace=0.9)
    yield from hand.to(hook.moved(y=opening - DRAWER_RANGE - 0.01), pace=0.9, limit=60)
    yield from hand.through(hook.moved(y=opening - DRAWER_RANGE, z=0.12))


def close_drawer(hand: Hand) -> Motion:
    """Push the drawer's handle with the closed fingers."""
    x, y, z = hand.scene.drawer
    x += hand.jitter(0.05)
    opening = hand.joints()[1]
    front = y + DRAWER_FRONT - FINGER
    before = Pose((x, front - opening - 0.035 - abs(hand.jitter(0.02)), z + 0.048 + hand.jitter(0.006)), ACROSS)
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(before)
    yield from hand.to(before.moved(z=0.06), close_to=0.01)
    yield from hand.to(before, close_to=0.008)
    yield from hand.to(Pose((x, front + 0.008, before.position[2]), ACROSS), pace=0.9, limit=60)
    yield from hand.through(Pose((x, front - 0.02, z + 0.16), ACROSS))


def _slide(hand: Hand, side: int, goal: float) -> Motion:
    """Push the door's handle from its ``side`` (1: from the right) until the door stands at ``goal`` metres."""
    x, y, z = hand.scene.slide
    place = hand.joints()[0]
    handle = (x + SLIDER_HANDLE[0] - place, y + SLIDER_HANDLE[1] + hand.jitter(0.006), z + SLIDER_HANDLE[2])
    beside = Pose(handle).moved(x=side * (0.055 + abs(hand.jitter(0.012))), z=hand.jitter(0.006))
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(beside.moved(y=-0.08))
    yield from hand.to(beside.moved(y=-0.06), close_to=0.015)
    yield from hand.to(beside, close_to=0.006)
    moved = side * (abs(goal - place) + 0.055)
    yield from hand.to(beside.moved(x=-moved), pace=0.9, limit=70)
    yield from hand.through(beside.moved(x=-moved + side * 0.02, y=-0.09, z=0.03))


def move_slider_left(hand: Hand) -> Motion:
    """Push the cabinet door's handle to the left from its right side."""
    yield from _slide(hand, 1, hand.scene.slide_range)


def move_slider_right(hand: Hand) -> Motion:
    """Push the cabinet door's handle to the right from its left side."""
    yield from _slide(hand, -1, 0.0)


def uncover(hand: Hand, x: float) -> Motion:
    """Move the cabinet door out of the way of a hand that goes in at ``x`` metres, if it is in the way."""
    left = hand.scene.slide[0] - hand.joints()[0]
    if left - HAND_ROOM < x < left + DOOR_WIDTH + HAND_ROOM:
        rest = hand.scene.slide[0] - hand.scene.slide_range / 2 + DOOR_WIDTH / 2
        yield from (move_slider_left(hand) if x > rest else move_slider_right(hand))


def _lever_tip(hand: Hand) -> tuple[float, float, float]:
    x, y, z = hand.scene.switch
    raised = hand.joints()[3]
    return x + LEVER_TIP[0], y + LEVER_TIP[1] + 0.5 * raised, z + LEVER_TIP[2] + 0.866 * raised


def turn_on_lightbulb(hand: Hand) -> Motion:
    """Bring the closed, tilted fingers under the lever and lift it."""
    x, y, z = _lever_tip(hand)
    tilt = 0.65 + hand.jitter(0.1)
    under = Pose((x + hand.jitter(0.012), y + 0.015, z - 0.038), ACROSS, tilt)
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(under.moved(y=-0.12), 0.9)
    yield from hand.to(under.moved(y=-0.09), close_to=0.008)
    yield from hand.to(under, pace=0.9, close_to=0.006)
    yield from hand.to(under.moved(y=0.05, z=0.087), pace=0.8, limit=60)
    yield from hand.through(under.moved(y=-0.06, z=0.08))


def turn_off_lightbulb(hand: Hand) -> Motion:
    """Bring the closed, tilted fingers above the lever and press it down."""
    x, y, z = _lever_tip(hand)
    tilt = 0.6 + hand.jitter(0.1)
    # The lever's bar is 12 cm wide; its near end is within the robot's reach.
    over = Pose((x - math.copysign(0.018, x) + hand.jitter(0.012), y + 0.006, z + 0.04), ACROSS, tilt)
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(over.moved(y=-0.1), 0.9)
    yield from hand.to(over.moved(y=-0.05, z=0.01), close_to=0.01)
    yield from hand.to(over, pace=0.9, close_to=0.006)
    yield from hand.to(over.moved(y=-0.042, z=-0.118), pace=0.8, limit=60)
    yield from hand.through(over.moved(y=-0.10, z=-0.06))


def press_button(hand: Hand) -> Motion:
    """Press the button with the closed fingers and let it come up again."""
    x, y, z = hand.scene.button
    top = Pose((x + hand.jitter(0.01), y + hand.jitter(0.01), z + BUTTON_TOP + 0.015), ACROSS + hand.jitter(0.2))
    yield from hand.retreat()
    hand.gripper = CLOSED
    yield from hand.above(top)
    yield from hand.to(top.moved(z=0.03), close_to=0.008)
    yield from hand.to(top.moved(z=-0.028), pace=0.7, limit=30, settle=3)
    yield from hand.through(top.moved(z=0.06))
