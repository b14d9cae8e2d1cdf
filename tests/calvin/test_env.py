"""The environment as gymnasium and a user see it: spaces, ids, refusals, independence of its neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import bench.calvin  # noqa: F401 (registers the names)
from bench.calvin.env import CalvinEnv
from bench.calvin.scene import SCENES
from bench.calvin.tasks import TASKS
from bench.errors import UserError

STILL = np.array([0, 0, 0, 0, 0, 0, 1.0])


@pytest.fixture(scope="module")
def env() -> Iterator[CalvinEnv]:
    env = CalvinEnv("D", renderer="bullet-tiny")
    yield env
    env.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["wristworld/CalvinD-v0", "wristworld/LongHorizon-v0"])
def test_gymnasium_accepts_it(name: str) -> None:
    env = gymnasium.make(name, renderer="bullet-tiny", disable_env_checker=True)
    check_env(env.unwrapped if "Calvin" in name else env, skip_render_check=False)
    env.close()


@pytest.mark.parametrize("scene", list(SCENES))
def test_every_scene_has_an_id(scene: str) -> None:
    env = gymnasium.make(f"wristworld/Calvin{scene}-v0", renderer="bullet-tiny", disable_env_checker=True)
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
    for arguments in ({"scene": "E"}, {"renderer": "vulkan"}, {"led_button": "old"}, {"assets": "/nowhere"}):
        with pytest.raises(UserError):
            CalvinEnv(**arguments)  # type: ignore[arg-type]


def test_unknown_reset_option_and_task_are_refused(env: CalvinEnv) -> None:
    with pytest.raises(UserError, match="scene_ob"):
        env.reset(options={"scene_ob": 1})
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


def test_long_horizon_walks_a_chain() -> None:
    env = gymnasium.make("wristworld/LongHorizon-v0", renderer="bullet-tiny", disable_env_checker=True)
    _, info = env.reset(options={"chain": 3})
    assert info["task"] in TASKS
    assert info["instruction"]
    assert (info["chain"], info["solved"]) == (3, 0)
    _, reward, terminated, truncated, info = env.step(STILL)
    assert (reward, terminated, truncated) == (0.0, False, False)
    with pytest.raises(UserError, match="chain"):
        env.reset(options={"chain": 1000})
    env.close()
