"""Does our oracle say what CALVIN's said, and does it refuse what is no task?"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.calvin.state import BlockState, WorldState
from bench.calvin.tasks import FAMILY, TASKS, task_done, tasks_done
from bench.errors import UserError

ON_TABLE = frozenset({("table", "base_link")})
HELD = frozenset({("robot", 10), ("robot", 12)})


def block(x: float = 0.0, z: float = 0.46, contacts: frozenset = ON_TABLE, yaw: float = 0.0) -> BlockState:
    quaternion = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
    return BlockState((x, 0.0, z), quaternion, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), contacts)


def world(**changes: Any) -> WorldState:
    blocks = {f"block_{colour}": changes.pop(colour, block()) for colour in ("red", "blue", "pink")}
    values = {"robot_contacts": frozenset(), "slider": 0.0, "drawer": 0.0, "lightbulb": 0, "led": 0, **changes}
    return WorldState(blocks=blocks, **values)


def recorded_state(snapshot: dict[str, Any]) -> WorldState:
    def contacts(rows: list[list[Any]]) -> frozenset[tuple[str, str | int]]:
        return frozenset((body, link) for body, link in rows)

    return WorldState(
        blocks={
            name: BlockState(
                tuple(one["pos"]),
                tuple(one["quat_xyzw"]),
                tuple(one["lin_vel"]),
                tuple(one["ang_vel"]),
                contacts(one["contacts"]),
            )
            for name, one in snapshot["blocks"].items()
        },
        robot_contacts=frozenset((body, -1) for body in snapshot["robot_contacts"]),
        slider=snapshot["doors"]["base__slide"],
        drawer=snapshot["doors"]["base__drawer"],
        lightbulb=snapshot["lights"]["lightbulb"],
        led=snapshot["lights"]["led"],
    )


@pytest.mark.shared
def test_verdicts_equal_the_originals_in_every_recorded_case(shared: Path) -> None:
    recording = json.loads((shared / "calvin/ref/oracle_cases.json").read_text())
    states = [recorded_state(snapshot) for snapshot in recording["snapshots"]]
    assert recording["tasks"] == list(TASKS)
    fired = set()
    for case in recording["cases"]:
        achieved = tasks_done(states[case["start"]], states[case["end"]])
        assert achieved == set(case["achieved"]), case
        assert task_done(case["focus_task"], states[case["start"]], states[case["end"]]) == (
            case["focus_task"] in case["achieved"]
        )
        fired |= achieved
    assert fired == set(TASKS), "a task that never fires in the recording is not tested by it"


def test_there_are_34_tasks_each_in_a_family() -> None:
    assert len(TASKS) == len(set(TASKS)) == 34
    assert set(FAMILY) == set(TASKS)


def test_nothing_is_done_while_nothing_changes() -> None:
    assert tasks_done(world(), world()) == set()


@pytest.mark.parametrize(("moved", "done"), [(0.1001, True), (0.1, False), (-0.2, False)])
def test_a_push_counts_beyond_its_threshold_only(moved: float, done: bool) -> None:
    assert task_done("push_red_block_right", world(), world(red=block(x=moved))) is done


def test_a_push_off_the_table_does_not_count() -> None:
    fallen = block(x=0.3, contacts=frozenset({("plane", -1)}))
    assert not task_done("push_red_block_right", world(), world(red=fallen))


def test_a_lift_needs_the_robot_alone_to_hold_the_block() -> None:
    lifted = block(z=0.52, contacts=HELD)
    propped = replace(lifted, contacts=HELD | {("block_blue", -1)})
    assert task_done("lift_red_block_table", world(), world(red=lifted))
    assert not task_done("lift_red_block_table", world(), world(red=propped))
    assert not task_done("lift_red_block_drawer", world(), world(red=lifted))


def test_the_slider_is_lower_to_lift_from_than_the_table() -> None:
    in_cabinet = block(contacts=frozenset({("table", "plank_link")}))
    assert task_done("lift_red_block_slider", world(red=in_cabinet), world(red=block(z=0.495, contacts=HELD)))
    assert not task_done("lift_red_block_table", world(), world(red=block(z=0.495, contacts=HELD)))


def test_placing_needs_a_block_in_the_air_and_lets_it_go() -> None:
    held = world(red=block(z=0.6, contacts=HELD), robot_contacts=frozenset({("block_red", -1)}))
    inside = block(z=0.36, contacts=frozenset({("table", "drawer_link")}))
    assert task_done("place_in_drawer", held, world(red=inside))
    assert not task_done("place_in_drawer", world(), world(red=inside))
    assert not task_done("place_in_drawer", held, world(red=inside, robot_contacts=held.robot_contacts))
    assert not task_done("place_in_slider", held, world(red=inside))


def test_a_falling_block_is_not_stacked() -> None:
    on_top = block(z=0.5, contacts=frozenset({("block_blue", -1)}))
    assert task_done("stack_block", world(), world(red=on_top))
    assert task_done("unstack_block", world(red=on_top), world())
    assert not task_done("stack_block", world(), world(red=replace(on_top, linear_velocity=(0.0, 0.0, -1.5))))


@pytest.mark.parametrize(("degrees", "done"), [(61, True), (59, False), (-61, False), (179, True), (181, False)])
def test_a_turn_counts_beyond_sixty_degrees_in_its_own_direction(degrees: float, done: bool) -> None:
    start, end = world(red=block(yaw=2.0)), world(red=block(yaw=2.0 + math.radians(degrees)))
    assert task_done("rotate_red_block_left", start, end) is done


def test_an_unknown_task_is_refused_with_what_was_meant() -> None:
    with pytest.raises(UserError, match="open_drawer"):
        task_done("open_draw", world(), world())
    with pytest.raises(UserError, match="34 tasks"):
        task_done("make_coffee", world(), world())
