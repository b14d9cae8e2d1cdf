"""Worlds that are used again: they change nothing, and there is one a scene."""

from __future__ import annotations

import numpy as np

from bench.calvin import collect
from bench.calvin.collect import collect_chunk, kept_world, watched


def close_worlds() -> None:
    for key in list(collect._WORLDS):
        collect._WORLDS.pop(key).close()


def test_what_was_done_before_in_a_world_changes_nothing() -> None:
    close_worlds()
    fresh = collect_chunk("D", ["open_drawer", "turn_on_led"], 2, 5)
    collect_chunk("D", ["lift_red_block_table", "turn_off_led"], 2, 6)
    again = collect_chunk("D", ["open_drawer", "turn_on_led"], 2, 5)
    assert fresh.attempts == again.attempts
    for one, other in zip(fresh.demonstrations, again.demonstrations, strict=True):
        assert (one.task, one.instruction) == (other.task, other.instruction)
        for key in ("actions", "robot_obs", "scene_obs", "rgb_static", "rgb_gripper"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))


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
