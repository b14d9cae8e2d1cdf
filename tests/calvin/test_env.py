"""The environment as gymnasium and a user see it: spaces, ids, refusals, independence of its neighbours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import bench.calvin  # noqa: F401 (registers the names)
from bench.calvin.env import CalvinEnv
from bench.calvin.expert import expert_actions
from bench.calvin.long_horizon import STEPS_PER_SUBTASK, LongHorizon
from bench.calvin.scene import SCENES
from bench.calvin.tasks import TASKS
from bench.errors import UserError

STILL = np.array([0, 0, 0, 0, 0, 0, 1.0])


@pytest.fixture(scope="module")
def env() -> Iterator[CalvinEnv]:
    env = CalvinEnv("D", renderer="bullet-tiny")
    yield env
    env.close()


IDS = [*(f"wristworld/Calvin{scene}-v0" for scene in SCENES), "wristworld/LongHorizon-v0"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", IDS)
def test_gymnasium_accepts_it(name: str) -> None:
    env = gymnasium.make(name, renderer="bullet-tiny")
    assert env.unwrapped is env, "the names stand for the environments themselves"
    check_env(env, skip_render_check=False)
    env.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["wristworld/CalvinA-v0", "wristworld/LongHorizon-v0"])
def test_stable_baselines_accepts_it(name: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="stable-baselines3 is not installed")
    env = gymnasium.make(name, renderer="bullet-tiny")
    checker.check_env(env)
    env.close()


def test_a_name_with_its_module_needs_no_import() -> None:
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('bench.calvin:wristworld/CalvinB-v0')\n"
        "env.reset(seed=0, options={'render_views': False})\n"
        "assert env.unwrapped.scene.name == 'B'\n"
        "env.close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_several_side_by_side_under_gymnasium() -> None:
    env = gymnasium.make_vec("wristworld/CalvinC-v0", num_envs=2, vectorization_mode="sync", renderer="bullet-tiny")
    observation, _ = env.reset(seed=3)
    assert observation["scene_obs"].shape == (2, 24)
    assert observation["rgb_obs"]["rgb_gripper"].shape == (2, 84, 84, 3)
    assert not np.array_equal(*observation["scene_obs"])
    alone = CalvinEnv("C", renderer="bullet-tiny")
    assert np.array_equal(alone.reset(seed=4)[0]["scene_obs"], observation["scene_obs"][1])
    alone.close()
    env.close()


@pytest.mark.parametrize("scene", list(SCENES))
def test_every_scene_has_an_id(scene: str) -> None:
    env = gymnasium.make(f"wristworld/Calvin{scene}-v0", renderer="bullet-tiny")
    observation, info = env.reset(seed=0, options={"render_views": False})
    assert observation["scene_obs"].shape == (24,)
    assert list(info["scene_info"]["movable_objects"]) == list(SCENES[scene].block_names())
    env.close()


def test_observation_is_shaped_as_calvin_has_it() -> None:
    env = CalvinEnv("D", renderer="bullet-tiny", depth=True)
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert observation["rgb_obs"]["rgb_static"].std() > 10
    depth = observation["depth_obs"]["depth_static"]
    assert depth.dtype == np.float32
    assert 3.0 < np.median(depth) < 6.0
    assert set(info) == {"robot_info", "scene_info"}
    assert info["scene_info"]["lights"] == {"lightbulb": {"logical_state": 0}, "led": {"logical_state": 0}}
    assert np.array_equal(env.render(), observation["rgb_obs"]["rgb_static"])
    env.close()


def test_views_are_drawn_only_when_wanted(env: CalvinEnv) -> None:
    env.reset(seed=0)
    observation, reward, terminated, truncated, _ = env.step(STILL, render_views=False)
    assert set(observation) == {"robot_obs", "scene_obs"}
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert set(env.views()) == {"rgb_static", "rgb_gripper"}


@pytest.mark.parametrize(
    ("action", "word"),
    [
        (np.zeros(6), r"shape \(7,\)"),
        (np.zeros((1, 7)), r"shape \(7,\)"),
        (np.full(7, np.nan), "nan"),
        (np.array([0, np.inf, 0, 0, 0, 0, 1]), "inf"),
        (np.array([0, 0, 1e300, 0, 0, 0, 1]), "float range"),
        ([10**400, 0, 0, 0, 0, 0, 1], "7 numbers"),
        ("forward", "7 numbers"),
        (None, "shape"),
        ((np.zeros(3), np.zeros(5), 1), "shape"),
        ((np.zeros(3), np.zeros(4), 1), "quaternion"),
        (([0, 0, np.nan], np.zeros(3), 1), "nan"),
        ((np.zeros(3), np.zeros(3), [1, 1]), "action"),
    ],
)
def test_senseless_actions_are_refused(env: CalvinEnv, action: object, word: str) -> None:
    env.reset(seed=0, options={"render_views": False})
    before = env.step(STILL, render_views=False)[0]["robot_obs"]
    with pytest.raises(UserError, match=word):
        env.step(action, render_views=False)
    assert np.allclose(before, env.world.robot.observation())


def _changed(values: np.ndarray, index: int, value: float) -> np.ndarray:
    changed = values.copy()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("index", "value", "word"),
    [
        (0, 0.5, "slider"),
        (1, -1.0, "drawer"),
        (3, 3.0, "switch"),
        (4, 0.5, "lightbulb"),
        (5, 2, "led"),
        (2, 0.5, "button"),
        (6, 50.0, "block_red"),
        (8, np.nan, "nan"),
    ],
)
def test_impossible_tables_are_refused(env: CalvinEnv, index: int, value: float, word: str) -> None:
    observation, _ = env.reset(seed=0, options={"render_views": False})
    with pytest.raises(UserError, match=word):
        env.reset(options={"scene_obs": _changed(observation["scene_obs"], index, value)})
    with pytest.raises(UserError, match=r"shape \(24,\)"):
        env.reset(options={"scene_obs": observation["scene_obs"][:23]})


@pytest.mark.parametrize(("index", "value", "word"), [(7, 9.0, "joint 1"), (6, 0.5, "width"), (0, np.inf, "inf")])
def test_impossible_robots_are_refused(env: CalvinEnv, index: int, value: float, word: str) -> None:
    observation, _ = env.reset(seed=0, options={"render_views": False})
    with pytest.raises(UserError, match=word):
        env.reset(options={"robot_obs": _changed(observation["robot_obs"], index, value)})


def test_unknown_names_are_refused() -> None:
    wrong = {"scene": "E", "renderer": "vulkan", "led_button": "old", "assets": "/nowhere", "render_mode": "human"}
    for argument, value in wrong.items():
        with pytest.raises(UserError, match=value):
            CalvinEnv(**{argument: value})  # type: ignore[arg-type]


def test_a_step_before_the_first_reset_is_refused() -> None:
    env = CalvinEnv("A", renderer="bullet-tiny")
    with pytest.raises(UserError, match="call reset"):
        env.step(STILL)
    with pytest.raises(UserError, match="reset"):
        env.task_done("open_drawer")
    env.close()


def test_unknown_reset_option_and_task_are_refused(env: CalvinEnv) -> None:
    with pytest.raises(UserError, match="scene_ob"):
        env.reset(options={"scene_ob": 1, 2: 3})
    for options in ([1], [], "chain", 7):
        with pytest.raises(UserError, match="mapping"):
            env.reset(options=options)  # type: ignore[arg-type]
    env.reset(seed=0, options={"render_views": False})
    with pytest.raises(UserError):
        env.task_done("open_drawr")


def test_gripper_value_is_thresholded_at_zero(env: CalvinEnv) -> None:
    env.reset(seed=0, options={"render_views": False})
    for value, expected in ((0.3, 1), (0.0, -1), (-0.2, -1), (1.0, 1)):
        observation, *_ = env.step(np.array([0, 0, 0, 0, 0, 0, value]), render_views=False)
        assert observation["robot_obs"][14] == expected


def test_absolute_actions_reach_their_pose(env: CalvinEnv) -> None:
    observation, _ = env.reset(seed=0, options={"render_views": False})
    goal = observation["robot_obs"][:3] + np.array([0.05, 0.02, -0.03])
    for _ in range(30):
        observation, *_ = env.step((goal, observation["robot_obs"][3:6], (1,)), render_views=False)
    assert np.linalg.norm(observation["robot_obs"][:3] - goal) < 2e-3


def test_neighbours_do_not_disturb_each_other() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 7))

    def rollout(env: CalvinEnv) -> Iterator[np.ndarray]:
        yield env.reset(seed=4, options={"render_views": False})[0]["scene_obs"]
        for action in actions:
            yield env.step(action, render_views=False)[0]["robot_obs"]

    alone = CalvinEnv("B", renderer="bullet-tiny")
    expected = list(rollout(alone))
    picture = alone.views()
    alone.close()
    first, second = CalvinEnv("B", renderer="bullet-tiny"), CalvinEnv("B", renderer="bullet-tiny")
    for a, b, wanted in zip(rollout(first), rollout(second), expected, strict=True):
        assert np.array_equal(a, wanted)
        assert np.array_equal(b, wanted)
    first.close()
    assert all(np.array_equal(view, picture[name]) for name, view in second.views().items())
    second.close()


def test_closing_twice_is_fine_and_using_a_closed_one_is_not() -> None:
    env = CalvinEnv("D", renderer="bullet-tiny")
    env.close()
    env.close()
    with pytest.raises(UserError, match="closed"):
        env.reset()


def test_seed_places_the_blocks_apart(env: CalvinEnv) -> None:
    places = [env.reset(seed=seed, options={"render_views": False})[0]["scene_obs"] for seed in (1, 2, 1)]
    assert np.array_equal(places[0], places[2])
    assert not np.array_equal(places[0], places[1])
    for block in env.state().blocks.values():
        assert not any(body.startswith("block_") for body, _ in block.contacts)


@pytest.mark.shared
@pytest.mark.parametrize("renderer", ["gl", "bullet-tiny"])
def test_other_scenes_and_assets_beside_leave_pictures_alone(shared: Path, renderer: str) -> None:
    def pictures(env: CalvinEnv) -> dict[str, np.ndarray]:
        return dict(env.reset(seed=2)[0]["rgb_obs"])

    with_assets = {"assets": shared / "calvin/env_data"}
    recipes: list[dict[str, Any]] = [{"scene": "A"}, {"scene": "C", **with_assets}, {"scene": "D"}]
    alone = []
    for recipe in recipes:
        env = CalvinEnv(**recipe, renderer=renderer)
        alone.append(pictures(env))
        env.close()
    together = [CalvinEnv(**recipe, renderer=renderer) for recipe in recipes]
    for _ in range(2):
        for env, expected in zip(together, alone, strict=True):
            for name, picture in pictures(env).items():
                assert np.array_equal(picture, expected[name]), (env.scene.name, name)
    for env in together:
        env.close()


@pytest.fixture(scope="module")
def long_horizon() -> Iterator[LongHorizon]:
    env = gymnasium.make("wristworld/LongHorizon-v0", renderer="bullet-tiny")
    assert isinstance(env, LongHorizon)
    yield env
    env.close()


NO_VIEWS = {"render_views": False}


def test_long_horizon_rewards_each_subtask(long_horizon: LongHorizon) -> None:
    _, info = long_horizon.reset(options={"chain": 1, **NO_VIEWS})
    assert info["task"] in TASKS
    assert info["instruction"]
    assert (info["chain"], info["solved"]) == (1, 0)
    first, rng = info["task"], np.random.default_rng(0)
    for action in islice(expert_actions(long_horizon, first, rng), STEPS_PER_SUBTASK):
        _, reward, terminated, truncated, info = long_horizon.step(action, render_views=False)
        if reward:
            break
        assert (info["task"], info["solved"]) == (first, 0)
    assert (reward, terminated, truncated, info["solved"]) == (1.0, False, False, 1)
    assert info["task"] != first


def test_long_horizon_ends_at_the_first_failure(long_horizon: LongHorizon) -> None:
    long_horizon.reset(options={"chain": 2, **NO_VIEWS})
    over = [long_horizon.step(STILL, render_views=False)[2] for _ in range(STEPS_PER_SUBTASK)]
    assert over == [False] * (STEPS_PER_SUBTASK - 1) + [True]
    with pytest.raises(UserError, match="over"):
        long_horizon.step(STILL)


@pytest.mark.parametrize(
    "options",
    [{"chain": 1000}, {"chain": -1}, {"chain": True}, {"chain": "3"}, {"chain": 1.5}, {"scene_obs": 1}, [3], "chain"],
)
def test_long_horizon_refuses_what_is_no_chain(long_horizon: LongHorizon, options: Any) -> None:
    with pytest.raises(UserError, match="chain") as caught:
        long_horizon.reset(options=options)
    assert "\n" not in str(caught.value)


def test_long_horizon_draws_chains_by_seed(long_horizon: LongHorizon) -> None:
    drawn = [long_horizon.reset(seed=seed, options=NO_VIEWS)[1]["chain"] for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
