"""Which task comes next, and worlds that are used again: they change nothing, and there is one a scene."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from bench.calvin import collect
from bench.calvin.collect import (
    Attempt,
    attempts,
    chain_attempts,
    chosen_tasks,
    kept_world,
    plan_chain,
    wanted_attempts,
    watched,
)
from bench.calvin.expert import EXPERT_TASKS
from bench.calvin.scene import scene_named
from bench.calvin.sequence_rules import is_chain
from bench.calvin.starts import HELD_FAMILIES
from bench.calvin.tasks import FAMILY, TASKS
from bench.errors import UserError


def collected(
    tasks: str | list[str], episodes: int, seed: int, *, scene: str = "D", render: bool = False
) -> list[Attempt]:
    world = kept_world(scene, None, "auto", False)
    return list(wanted_attempts(world, tasks, episodes, seed, render=render))


def close_worlds() -> None:
    for key in list(collect._WORLDS):
        collect._WORLDS.pop(key).close()


def test_what_was_done_before_in_a_world_changes_nothing() -> None:
    close_worlds()
    fresh = collected(["open_drawer", "turn_on_led"], 2, 5, render=True)
    collected(["lift_red_block_table", "turn_off_led"], 2, 6, render=True)
    again = collected(["open_drawer", "turn_on_led"], 2, 5, render=True)
    assert sum(len(attempt.done) for attempt in fresh) == 2
    assert [attempt.tasks for attempt in fresh] == [attempt.tasks for attempt in again]
    for before, after in zip(fresh, again, strict=True):
        for one, other in zip(before.done, after.done, strict=True):
            assert (one.task, one.instruction) == (other.task, other.instruction)
            for key in ("actions", "robot_obs", "scene_obs", "rgb_static", "rgb_gripper"):
                np.testing.assert_array_equal(getattr(one, key), getattr(other, key))
    (other, *_) = collected(["open_drawer", "turn_on_led"], 1, 12)
    assert not np.array_equal(other.done[0].robot_obs[0], fresh[0].done[0].robot_obs[0])


@pytest.mark.slow
@pytest.mark.parametrize("scene", ["A", "B", "C"])
def test_the_experts_know_the_other_tables_too(scene: str) -> None:
    made = collected("all", 34, 5, scene=scene)
    assert sum(len(attempt.done) for attempt in made) == 34
    assert len(made) <= 41


def test_what_cannot_be_collected_is_refused() -> None:
    with pytest.raises(UserError, match="episodes"):
        collected("all", 0, 0)
    with pytest.raises(UserError, match="open_drawer"):
        chosen_tasks("open_drawr")
    with pytest.raises(UserError, match="at least one"):
        chosen_tasks([])
    assert chosen_tasks("all") == EXPERT_TASKS
    assert chosen_tasks("turn_on_led, open_drawer") == ("turn_on_led", "open_drawer")


def test_tasks_come_up_evenly() -> None:
    wanted = ("turn_on_led", "turn_off_led")
    world = kept_world("D", None, "auto", False)
    seen = [attempt.tasks for attempt in islice(attempts(world, wanted, np.random.default_rng(0)), 6)]
    assert sorted(seen) == sorted([(task,) for task in wanted] * 3)


def test_planned_chains_follow_the_rules_of_the_evaluation_and_hold_every_task() -> None:
    rng, tried = np.random.default_rng(0), Counter[str]()
    for _ in range(100):
        start, chain = plan_chain(scene_named("D"), TASKS, 5, tried, rng)
        assert is_chain(start.state_when_held, chain)
        assert len(chain) == 5
        assert (start.held is not None) == (FAMILY[chain[0]] in HELD_FAMILIES)
        tried.update(chain)
    assert set(tried) == set(TASKS)
    # What is lifted must be placed or stacked: nine tasks are followed by three, which come up more often.
    assert min(tried.values()) > 500 / len(TASKS) / 2


def test_a_chain_is_as_long_as_its_tasks_allow() -> None:
    rng = np.random.default_rng(0)
    _, chain = plan_chain(scene_named("D"), ["place_in_drawer", "stack_block"], 2, Counter(), rng)
    assert len(chain) == 1, "both begin with a block in the gripper, and end without one"


def test_a_chain_is_done_without_a_reset_and_ends_at_its_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    world = kept_world("D", None, "auto", False)
    wanted = ["turn_on_led", "open_drawer", "move_slider_left"]
    whole = next(chain_attempts(world, wanted, 3, np.random.default_rng(1)))
    assert sorted(whole.tasks) == sorted(wanted)
    assert tuple(one.task for one in whole.done) == whole.tasks
    for before, after in pairwise(whole.done):
        np.testing.assert_array_equal(before.scene_obs[-1], after.scene_obs[0])
        np.testing.assert_array_equal(before.robot_obs[-1], after.robot_obs[0])

    judged = world.task_done
    monkeypatch.setattr(world, "task_done", lambda task: task != whole.tasks[1] and judged(task))
    cut = next(chain_attempts(world, wanted, 3, np.random.default_rng(1)))
    assert cut.tasks == whole.tasks[:2]
    assert [one.task for one in cut.done] == [whole.tasks[0]]
    np.testing.assert_array_equal(cut.done[0].actions, whole.done[0].actions)


def test_a_process_keeps_a_world_a_scene_and_one_recipe() -> None:
    close_worlds()  # another file's tests may have left some in this process
    first = kept_world("D", None, "auto", False)
    assert kept_world("D", None, "auto", False) is first
    second = kept_world("A", None, "auto", False)
    assert len(collect._WORLDS) == 2
    assert kept_world("A", None, "auto", True) is not second
    assert list(collect._WORLDS) == [("A", None, "auto", True)]


def test_time_is_counted_while_watched_and_no_longer() -> None:
    env = kept_world("D", None, "auto", False)
    with watched(env) as seconds:
        env.reset(options={"render_views": False})
        film = env.film()
        film.shoot()
        film.develop()
    counted = dict(seconds)
    assert min(counted.values()) > 0
    env.film().shoot()
    env.reset(options={"render_views": False})
    assert seconds == counted
