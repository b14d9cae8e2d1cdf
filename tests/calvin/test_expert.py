"""Do the experts solve what they are asked to, from any start, the same way for the same seed?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from bench.calvin.env import CalvinEnv
from bench.calvin.expert import (
    EXPERT_TASKS,
    Demonstration,
    demonstrate,
    demonstrate_chain,
    expert_actions,
    prepare,
)
from bench.calvin.experts.grasps import choose_grasp
from bench.calvin.experts.motion import ExpertFailed, Hand
from bench.calvin.instructions import training_instructions
from bench.calvin.sequence_rules import outcomes
from bench.calvin.starts import draw_start, needs_block_in_gripper, symbolic_start
from bench.calvin.tasks import FAMILY, TASKS, task_done
from bench.perf.experts import RateJob, try_starts

ONE_PER_FAMILY = sorted({FAMILY[task]: task for task in TASKS}.values())


@pytest.fixture(scope="module")
def env() -> Iterator[CalvinEnv]:
    world = CalvinEnv("D")
    yield world
    world.close()


def successes(env: CalvinEnv, task: str, starts: int) -> int:
    seeds = ([TASKS.index(task), number] for number in range(starts))
    return sum(demonstrate(env, task, np.random.default_rng(seed)) is not None for seed in seeds)


def test_there_is_an_expert_for_every_task() -> None:
    assert EXPERT_TASKS == TASKS


@pytest.mark.parametrize("task", ONE_PER_FAMILY)
def test_the_expert_solves_a_task_of_each_family(env: CalvinEnv, task: str) -> None:
    assert successes(env, task, 3) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_nearly_always_succeeds(env: CalvinEnv, task: str) -> None:
    assert successes(env, task, 20) >= 19


@pytest.mark.parametrize(
    ("scene", "task", "start"),
    [
        ("A", "push_pink_block_right", 8),  # the button is where the fingers would come down
        ("B", "push_into_drawer", 12),  # the block lies half a metre from the drawer
        ("B", "lift_pink_block_drawer", 6),  # askew beneath the table's edge
        ("B", "rotate_pink_block_left", 8),  # at the end of the wrist's range
        ("B", "lift_red_block_slider", 45),  # close by the cabinet's door
        ("C", "push_red_block_right", 15),  # behind it is the door's handle
        ("D", "place_in_slider", 7),  # another block lies there already
    ],
)
def test_starts_that_were_hard_are_solved(scene: str, task: str, start: int) -> None:
    (steps,) = try_starts(RateJob(scene, task, (start,), 0, 0.0, None))
    assert steps is not None


@pytest.mark.shared
@pytest.mark.parametrize("task", ["push_blue_block_left", "rotate_red_block_right", "place_in_drawer", "stack_block"])
def test_the_experts_know_calvins_own_tables_too(shared: Path, task: str) -> None:
    world = CalvinEnv("C", assets=shared / "calvin/env_data")
    assert successes(world, task, 2) == 2
    world.close()


def test_a_held_block_is_put_down_to_be_turned_where_it_is(env: CalvinEnv) -> None:
    rng = np.random.default_rng(3)
    state = prepare(env, "place_in_drawer", rng)
    assert state is not None
    colour = next(key.removesuffix("_block") for key, value in state.items() if value == "grasped")
    assert demonstrate(env, f"rotate_{colour}_block_left", rng, fresh=False) is not None


def test_a_block_on_the_floor_is_given_up(env: CalvinEnv) -> None:
    prepare(env, "turn_on_led", np.random.default_rng(0))
    scene_obs = env.world.scene_observation()
    scene_obs[6:9] = (0.3, -0.6, 0.05)
    env.reset(options={"scene_obs": scene_obs, "render_views": False})
    with pytest.raises(ExpertFailed, match="fell off"):
        choose_grasp(Hand(env, np.random.default_rng(0)), env.scene.block_names()[0])


def test_a_demonstration_is_what_the_oracle_saw(env: CalvinEnv) -> None:
    one = demonstrate(env, "open_drawer", np.random.default_rng(2))
    assert one is not None
    n = len(one)
    assert one.actions.shape == (n, 7)
    assert np.abs(one.actions).max() <= 1.0
    assert set(one.actions[:, 6]) <= {-1.0, 1.0}
    assert one.robot_obs.shape == (n + 1, 15)
    assert one.scene_obs.shape == (n + 1, 24)
    assert (
        one.scene_obs[one.solved_at + 1, 1] - one.scene_obs[0, 1]
        > 0.12
        >= (one.scene_obs[one.solved_at, 1] - one.scene_obs[0, 1])
    )
    assert 5 <= n - 1 - one.solved_at <= 11
    assert one.instruction in training_instructions("open_drawer")
    assert (one.scene, one.rgb_static) == ("D", None)


def test_motion_is_smooth_and_its_pace_varies(env: CalvinEnv) -> None:
    made = [demonstrate(env, "close_drawer", np.random.default_rng(seed)) for seed in range(4)]
    assert all(one is not None for one in made)
    for one in made:
        assert one is not None
        assert np.abs(np.diff(one.actions[:, :6], axis=0)).max() <= 0.3 + 1e-9
    assert len({len(one) for one in made if one is not None}) > 1


def test_noise_is_executed_but_not_in_the_labels(env: CalvinEnv) -> None:
    one = demonstrate(env, "turn_on_led", np.random.default_rng(4), noise=0.2)
    assert one is not None
    assert np.abs(np.diff(one.actions[:, :6], axis=0)).max() <= 0.3 + 1e-9
    moved = np.diff(one.robot_obs[:, :3], axis=0)
    clean = demonstrate(env, "turn_on_led", np.random.default_rng(4))
    assert clean is not None
    calm = np.diff(clean.robot_obs[:, :3], axis=0)
    assert np.abs(np.diff(moved, axis=0)).mean() > 1.5 * np.abs(np.diff(calm, axis=0)).mean()


def test_a_chain_goes_on_from_where_the_last_task_ended(env: CalvinEnv) -> None:
    tasks = ("turn_on_lightbulb", "open_drawer", "lift_red_block_table", "place_in_drawer")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        state = prepare(env, tasks[0], rng)
        assert state is not None
        if state["drawer"] == "closed" and state["red_block"] == "table":
            break
    done = demonstrate_chain(env, tasks, rng)
    assert [one.task for one in done] == list(tasks)
    for before, after in pairwise(done):
        assert np.array_equal(before.scene_obs[-1], after.scene_obs[0])


def test_the_expert_as_a_policy_never_runs_out_of_actions(env: CalvinEnv) -> None:
    rng = np.random.default_rng(0)
    assert prepare(env, "close_drawer", rng) is not None
    steps = 0
    for action in islice(expert_actions(env, "place_in_drawer", rng), 30):
        env.step(action, render_views=False)
        steps += 1
    assert steps == 30, "an impossible task is no reason to stop"


@pytest.mark.parametrize("task", TASKS)
def test_a_start_allows_its_task(task: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        state, held = symbolic_start(task, rng)
        assert (held is not None) == needs_block_in_gripper(task)
        if held is not None:
            state = {**state, f"{held.removeprefix('block_')}_block": "grasped", "grasped": 1}
        assert len(outcomes(state, task)) >= 1, state
        places = [state[f"{colour}_block"] for colour in ("red", "blue", "pink")]
        assert all(places.count(half) < 2 for half in ("slider_left", "slider_right"))


@pytest.mark.parametrize("scene", ["A", "B", "C", "D"])
def test_a_start_is_solved_by_nothing_yet(scene: str) -> None:
    world = CalvinEnv(scene)
    for task in ("unstack_block", "lift_blue_block_drawer", "push_into_drawer"):
        start = draw_start(scene, task, np.random.default_rng(1))
        world.reset(options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs, "render_views": False})
        assert not task_done(task, world.state(), world.state())
    world.close()


def test_both_cameras_are_recorded_when_asked_for(env: CalvinEnv) -> None:
    one = demonstrate(env, "turn_on_led", np.random.default_rng(4), render=True)
    assert one is not None
    assert one.rgb_static is not None
    assert one.rgb_gripper is not None
    assert one.rgb_static.shape == (len(one) + 1, 200, 200, 3)
    assert one.rgb_gripper.shape == (len(one) + 1, 84, 84, 3)
    assert (one.rgb_gripper[0] != one.rgb_gripper[-1]).any()


def test_a_demonstration_refuses_arrays_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="expected"):
        Demonstration("open_drawer", "", "D", np.zeros((3, 7)), np.zeros((3, 15)), np.zeros((4, 24)), 0)
