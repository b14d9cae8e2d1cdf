"""The 34 CALVIN tasks: has the world changed, between two states, in the way that a task asks for?

A task is judged from two :class:`~bench.calvin.state.WorldState` alone, at the start of the subtask and now, so
recorded states judge the same as live ones.  Not here: the simulator, the instructions, which task comes when.

The criteria and thresholds are those of calvin_env ``envs/tasks.py`` with ``conf/tasks/new_playtable_tasks.yaml``;
every comparison is strict, as there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

from bench.calvin.state import BLOCKS, ROBOT, TABLE, BlockState, Contact, WorldState
from bench.errors import UserError

Judge = Callable[[WorldState, WorldState], bool]

COLOURS = ("red", "blue", "pink")

# calvin_env conf/tasks/new_playtable_tasks.yaml
ROTATION_DEGREES = 60.0
PUSH_METRES = 0.1
SLIDER_METRES = 0.15
DRAWER_METRES = 0.12
LIFT_METRES = {"table": 0.05, "slider": 0.03, "drawer": 0.05}
SURFACE_LINK = {"table": "base_link", "slider": "plank_link", "drawer": "drawer_link"}

# calvin_env envs/tasks.py: default arguments of rotate_object, stack_objects and unstack_objects
ROTATION_LIMIT_DEGREES = 180.0
TILT_DEGREES = 30.0
ROTATION_DRIFT_METRES = 0.1
REST_VELOCITY = 1.0


def _bodies(contacts: frozenset[Contact]) -> set[str]:
    return {body for body, _ in contacts}


def _turned_degrees(start: BlockState, now: BlockState) -> tuple[float, float, float]:
    """Return the world-frame rotation from ``start`` to ``now`` as Euler angles about the fixed axes x, y, z."""
    ax, ay, az, aw = now.quaternion
    bx, by, bz, bw = start.quaternion
    w = aw * bw + ax * bx + ay * by + az * bz
    x = -aw * bx + ax * bw - ay * bz + az * by
    y = -aw * by + ax * bz + ay * bw - az * bx
    z = -aw * bz - ax * by + ay * bx + az * bw
    norm = w * w + x * x + y * y + z * z
    about_x = math.atan2(2 * (w * x + y * z), w * w - x * x - y * y + z * z)
    about_y = math.asin(max(-1.0, min(1.0, 2 * (w * y - x * z) / norm)))
    about_z = math.atan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)
    return math.degrees(about_x), math.degrees(about_y), math.degrees(about_z)


def _rotates(block: str, sign: int) -> Judge:
    def judge(start: WorldState, now: WorldState) -> bool:
        before, after = start.blocks[block], now.blocks[block]
        if math.dist(before.position, after.position) > ROTATION_DRIFT_METRES or not _bodies(after.contacts) - {ROBOT}:
            return False
        x, y, z = _turned_degrees(before, after)
        upright = abs(x) < TILT_DEGREES and abs(y) < TILT_DEGREES
        return upright and ROTATION_DEGREES < sign * z < ROTATION_LIMIT_DEGREES

    return judge


def _pushes(block: str, sign: int) -> Judge:
    def judge(start: WorldState, now: WorldState) -> bool:
        before, after = start.blocks[block], now.blocks[block]
        if not sign * (after.position[0] - before.position[0]) > PUSH_METRES:
            return False
        rested_on = {contact for contact in before.contacts if contact[0] != ROBOT}
        return bool(rested_on) and rested_on <= after.contacts

    return judge


def _moves(joint: str, metres: float) -> Judge:
    def judge(start: WorldState, now: WorldState) -> bool:
        change = getattr(now, joint) - getattr(start, joint)
        return bool(change > metres if metres > 0 else change < metres)

    return judge


def _lifts(block: str, surface: str) -> Judge:
    def judge(start: WorldState, now: WorldState) -> bool:
        before, after = start.blocks[block], now.blocks[block]
        if not after.position[2] - before.position[2] > LIFT_METRES[surface]:
            return False
        return (TABLE, SURFACE_LINK[surface]) in before.contacts and _bodies(after.contacts) == {ROBOT}

    return judge


def _places(surface: str) -> Judge:
    def judge(start: WorldState, now: WorldState) -> bool:
        held = _bodies(start.robot_contacts)
        if len(held) != 1 or not held <= set(BLOCKS):
            return False
        (block,) = held
        if _bodies(start.blocks[block].contacts) != {ROBOT} or block in _bodies(now.robot_contacts):
            return False
        return (TABLE, SURFACE_LINK[surface]) in now.blocks[block].contacts

    return judge


def _lies_on_blocks(block: BlockState) -> bool:
    bodies = _bodies(block.contacts)
    return bool(bodies) and bodies <= set(BLOCKS)


def _is_calm(block: BlockState) -> bool:
    return all(abs(value) < REST_VELOCITY for value in (*block.linear_velocity, *block.angular_velocity))


def _touches_block(block: BlockState) -> bool:
    return not _bodies(block.contacts).isdisjoint(BLOCKS)


def _stacks(start: WorldState, now: WorldState) -> bool:
    return any(
        _lies_on_blocks(after) and _is_calm(after) and not _touches_block(start.blocks[block])
        for block, after in now.blocks.items()
    )


def _unstacks(start: WorldState, now: WorldState) -> bool:
    return any(
        _lies_on_blocks(before) and _is_calm(before) and not _touches_block(now.blocks[block])
        for block, before in start.blocks.items()
    )


def _switches(light: str, on: int) -> Judge:
    def judge(start: WorldState, now: WorldState) -> bool:
        return bool(getattr(start, light) == 1 - on and getattr(now, light) == on)

    return judge


def _pushes_into_drawer(start: WorldState, now: WorldState) -> bool:
    on_table, in_drawer = (TABLE, SURFACE_LINK["table"]), (TABLE, SURFACE_LINK["drawer"])
    # CALVIN means to ask that the robot has let go, but compares a body id with (body, link) pairs, so it never does.
    return any(
        start.blocks[block].contacts == {on_table} and in_drawer in after.contacts
        for block, after in now.blocks.items()
    )


def _judges() -> dict[str, tuple[str, Judge]]:
    """Return task name to (family, judge), in the order of CALVIN's task ids."""
    table: dict[str, tuple[str, Judge]] = {}
    for colour in COLOURS:
        table[f"rotate_{colour}_block_right"] = "rotate", _rotates(f"block_{colour}", -1)
        table[f"rotate_{colour}_block_left"] = "rotate", _rotates(f"block_{colour}", 1)
    for colour in COLOURS:
        table[f"push_{colour}_block_right"] = "push", _pushes(f"block_{colour}", 1)
        table[f"push_{colour}_block_left"] = "push", _pushes(f"block_{colour}", -1)
    table["move_slider_left"] = "slider", _moves("slider", SLIDER_METRES)
    table["move_slider_right"] = "slider", _moves("slider", -SLIDER_METRES)
    table["open_drawer"] = "drawer", _moves("drawer", DRAWER_METRES)
    table["close_drawer"] = "drawer", _moves("drawer", -DRAWER_METRES)
    for colour in COLOURS:
        for surface in SURFACE_LINK:
            table[f"lift_{colour}_block_{surface}"] = f"lift_{surface}", _lifts(f"block_{colour}", surface)
    table["place_in_slider"] = "place", _places("slider")
    table["place_in_drawer"] = "place", _places("drawer")
    table["stack_block"] = "stack", _stacks
    table["unstack_block"] = "unstack", _unstacks
    for light in ("lightbulb", "led"):
        table[f"turn_on_{light}"] = light, _switches(light, 1)
        table[f"turn_off_{light}"] = light, _switches(light, 0)
    table["push_into_drawer"] = "push_into_drawer", _pushes_into_drawer
    return table


_TABLE = _judges()

TASKS: tuple[str, ...] = tuple(_TABLE)
"""The 34 task names in the order of CALVIN's task ids."""

FAMILY: dict[str, str] = {task: family for task, (family, _) in _TABLE.items()}
"""Task name to the family of tasks that differ only in colour or direction."""


def check_task(task: str) -> str:
    """Return ``task`` if it is one of the 34.

    Raises:
        UserError: it is not; the message names the close matches.
    """
    if task not in _TABLE:
        close = difflib.get_close_matches(str(task), TASKS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"the tasks are {', '.join(TASKS)}"
        raise UserError(f"expected one of CALVIN's {len(TASKS)} tasks, got {task!r}; {hint}")
    return task


def task_done(task: str, start: WorldState, now: WorldState) -> bool:
    """Return whether ``task`` was solved between ``start`` (beginning of the subtask) and ``now``.

    Raises:
        UserError: there is no such task.
    """
    return _TABLE[check_task(task)][1](start, now)


def tasks_done(start: WorldState, now: WorldState) -> set[str]:
    """Return every task that was solved between ``start`` and ``now``: none, one or several."""
    return {task for task, (_, judge) in _TABLE.items() if judge(start, now)}
