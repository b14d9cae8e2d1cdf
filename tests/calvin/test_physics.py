"""The built-in world: free of history, shaped like CALVIN's, every moving part within reach of its range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pybullet
import pytest

from bench.calvin.assets import calvin_files
from bench.calvin.builtin import builtin_files
from bench.calvin.env import CalvinEnv
from bench.calvin.expert import demonstrate
from bench.calvin.restore import Restorer
from bench.calvin.rewind import Rewinder
from bench.calvin.scene import BUTTON_RANGE, DRAWER_RANGE, SCENES, SWITCH_RANGE, scene_named
from bench.calvin.world import World

LINKS = ["button_link", "switch_link", "slide_link", "drawer_link", "led_link", "light_link", "plank_link"]


def make_world(scene: str = "D", led_button: str = "main", assets: Path | None = None) -> World:
    spec = scene_named(scene)
    return World(spec, builtin_files(spec) if assets is None else calvin_files(assets, spec), led_button)


class NeverRewound(Rewinder):
    """Leaves a world as loading made it."""

    def __init__(self, *_: object) -> None: ...

    def __call__(self) -> None: ...

    def count(self, searches: int) -> None: ...


class NeverRestored(Restorer):
    """Leaves a world as loading made it."""

    def __call__(self) -> None: ...


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = make_world()
    yield world
    world.close()


def start(world: World, **values: float) -> np.ndarray:
    """Give a table with the blocks on it and some of the first six values set."""
    state = world.random_scene_obs(np.random.default_rng(0))
    for name, value in values.items():
        state[("slider", "drawer", "button", "switch", "lightbulb", "led").index(name)] = value
    return state


def record(world: World, scene_obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
    world.reset(None, scene_obs)
    rows = [np.concatenate([world.robot.observation(), world.scene_observation()])]
    for action in actions:
        world.robot.apply_relative(action)
        world.advance()
        rows.append(np.concatenate([world.robot.observation(), world.scene_observation()]))
    return np.array(rows)


def rummage(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Actions that push into the table and across it."""
    actions = rng.normal(0, 0.5, (steps, 7)).clip(-1, 1)
    actions[:, 2] -= 0.5
    actions[:, 6] = rng.choice([-1.0, 1.0], steps)
    return actions


def search_tree(world: World) -> list[tuple[int, int]]:
    """Give every body and link in the order of Bullet's search tree."""
    corner = (1e3, 1e3, 1e3)
    return list(pybullet.getOverlappingObjects([-x for x in corner], corner, physicsClientId=world.client))


def watch(world: World, scene_obs: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, list[list[tuple[int, int]]]]:
    """Give what ``record`` gives, and the search tree after each step."""
    world.reset(None, scene_obs)
    rows, trees = [], []
    for action in (None, *actions):
        if action is not None:
            world.robot.apply_relative(action)
            world.advance()
        rows.append(np.concatenate([world.robot.observation(), world.scene_observation()]))
        trees.append(search_tree(world))
    return np.array(rows), trees


def check_history(world: World, fresh: World) -> None:
    """Compare a world that has seen things with one that was loaded and never rewound, bit for bit."""
    rng = np.random.default_rng(3)
    rest = np.tile([0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0], (75, 1))  # long enough to fall asleep, away from everything
    actions, scene_obs = np.concatenate([rummage(rng, 60), rest, rummage(rng, 10)]), start(world)
    for steps in (40, 7, 25):
        record(world, start(world, slider=0.1, led=1), rummage(rng, steps))
    record(world, start(world), rest)
    expected, expected_trees = watch(fresh, scene_obs, actions)
    got, trees = watch(world, scene_obs, actions)
    assert np.array_equal(got, expected)
    assert trees == expected_trees


@pytest.mark.parametrize("scene", ["A", "D"])
def test_a_reset_forgets_everything(monkeypatch: pytest.MonkeyPatch, scene: str) -> None:
    world = make_world(scene)
    monkeypatch.setattr("bench.calvin.world.Restorer", NeverRestored)
    fresh = make_world(scene)
    check_history(world, fresh)
    fresh.close()
    world.close()


@pytest.mark.shared
@pytest.mark.parametrize("scene", list(SCENES))
def test_a_reset_forgets_everything_with_calvin_assets(
    monkeypatch: pytest.MonkeyPatch, shared: Path, scene: str
) -> None:
    world = make_world(scene, assets=shared / "calvin/env_data")
    monkeypatch.setattr("bench.calvin.world.Rewinder", NeverRewound)
    fresh = make_world(scene, assets=shared / "calvin/env_data")
    check_history(world, fresh)
    fresh.close()
    world.close()


@pytest.mark.parametrize("scene", list(SCENES))
def test_bodies_links_and_ranges_are_calvins(scene: str) -> None:
    world = make_world(scene)
    spec = SCENES[scene]
    assert (world.robot.body, list(world.blocks.values()), world.table.body, world.plane) == (0, [2, 3, 4], 5, 6)
    assert sorted(world.table.links, key=lambda name: world.table.links[name]) == ["base_link", *LINKS]
    ranges = {"slide": spec.slide_range, "drawer": DRAWER_RANGE, "button": BUTTON_RANGE, "switch": SWITCH_RANGE}
    for part, upper in ranges.items():
        info = pybullet.getJointInfo(world.table.body, world.table.links[f"{part}_link"], physicsClientId=world.client)
        assert info[1].decode() == f"base__{part}"
        assert info[8:10] == pytest.approx((0.0, upper))
    joints = (8, 9, 10, 11, 12, 14, 15)
    names = [pybullet.getJointInfo(0, joint, physicsClientId=world.client)[12].decode() for joint in joints]
    fingers = ["panda_leftfinger", "finger_left_tip", "panda_rightfinger", "finger_right_tip"]
    assert names == ["panda_hand", *fingers, "gripper_cam", "tcp"]
    world.close()


@pytest.mark.parametrize("scene", list(SCENES))
def test_blocks_rest_where_they_are_put(scene: str) -> None:
    world = make_world(scene)
    state = world.random_scene_obs(np.random.default_rng(5))
    drawer = (world.scene.drawer[0], -0.18 - 0.05, 0.37)
    x, y, z = world.scene.plank
    state[1] = DRAWER_RANGE
    state[6:9], state[9:12] = drawer, (0, 0, 0)
    state[12:15], state[15:18] = (x + 0.02, y, z + 0.04), (0, 0, 0)
    state[18:21], state[21:24] = (0.15 if scene in "ACD" else -0.1, -0.1, 0.46), (0, 0, 0)
    world.reset(None, state)
    for _ in range(30):
        world.advance()
    contacts = [block.contacts for block in world.state().blocks.values()]
    assert contacts == [{("table", "drawer_link")}, {("table", "plank_link")}, {("table", "base_link")}]
    heights = [block.position[2] for block in world.state().blocks.values()]
    assert heights == pytest.approx([0.36, 0.46, 0.46], abs=2e-3)
    world.close()


@pytest.mark.parametrize(("part", "index", "upper"), [("slide", 0, 0.28), ("drawer", 1, 0.22), ("switch", 3, 0.088)])
def test_parts_move_over_their_whole_range_and_stay(world: World, part: str, index: int, upper: float) -> None:
    world.reset(None, start(world))
    link = world.table.links[f"{part}_link"]
    axis = {"slide": (-1, 0, 0), "drawer": (0, -1, 0), "switch": (0, 0.5, math.sqrt(0.75))}[part]
    for _ in range(240):
        position = pybullet.getLinkState(world.table.body, link, physicsClientId=world.client)[0]
        force = [12 * value for value in axis]
        pybullet.applyExternalForce(
            world.table.body, link, force, position, pybullet.WORLD_FRAME, physicsClientId=world.client
        )
        world.step_physics()
    assert world.table.joints()[index] == pytest.approx(upper, abs=3e-3)
    for _ in range(10):
        world.advance()
    assert world.table.joints()[index] == pytest.approx(upper, abs=5e-3)


def press(world: World) -> int:
    """Press the button once, let go, and return the LED."""
    button = world.table.links["button_link"]
    for value in (BUTTON_RANGE, 0.0):
        pybullet.resetJointState(world.table.body, button, value, physicsClientId=world.client)
        world.table.step()
    return world.table.led


@pytest.mark.parametrize(("led_button", "expected"), [("main", [0, 1, 0]), ("pinned", [1, 0, 1])])
def test_led_button_of_both_commits(led_button: str, expected: list[int]) -> None:
    world = make_world(led_button=led_button)
    for _ in range(2):
        world.reset(None, start(world, led=1))
        assert [press(world) for _ in range(3)] == expected
    world.close()


def test_button_springs_back(world: World) -> None:
    world.reset(None, start(world, button=BUTTON_RANGE))
    for _ in range(30):
        world.advance()
    assert world.table.joints()[2] == pytest.approx(0.0, abs=1e-3)


def test_switch_turns_the_bulb(world: World) -> None:
    world.reset(None, start(world))
    switch = world.table.links["switch_link"]
    for value, bulb in ((0.08, 1), (0.045, 1), (0.043, 0), (0.0, 0)):
        pybullet.resetJointState(world.table.body, switch, value, physicsClientId=world.client)
        world.table.step()
        assert world.table.bulb == bulb


def test_closed_fingers_hold_a_block(world: World) -> None:
    state = start(world)
    state[12:15], state[15:18] = (0.15, -0.1, 0.46), (0, 0, 0)
    world.reset(None, state)
    # fingers close along their own y; a quarter turn sets it along the block's short side
    down = np.array([math.pi, 0.0, 0.0])
    for height, gripper, steps in ((0.6, 1, 60), (0.46, 1, 60), (0.46, -1, 20), (0.6, -1, 60)):
        for _ in range(steps):
            world.robot.apply_absolute(np.array([0.15, -0.1, height]), down, gripper)
            world.advance()
    held = world.state().blocks[world.scene.block_names()[1]]
    assert held.position[2] > 0.55
    assert {body for body, _ in held.contacts} == {"robot"}


@pytest.mark.shared
def test_a_world_without_pictures_weighs_and_collides_alike(shared: Path) -> None:
    spec = scene_named("B")
    files = calvin_files(shared / "calvin/env_data", spec)
    bare, full = World(spec, files, "main"), World(spec, files, "main", pictures=True)
    assert set(bare.undrawn) == {bare.robot.body, bare.table.body}
    assert not full.undrawn
    for body in (bare.robot.body, bare.table.body):
        for link in range(-1, pybullet.getNumJoints(body, physicsClientId=bare.client)):
            told = [
                (
                    pybullet.getDynamicsInfo(body, link, physicsClientId=world.client),
                    pybullet.getAABB(body, link, physicsClientId=world.client),
                )
                for world in (bare, full)
            ]
            assert told[0] == told[1]
    bare.close()
    full.close()


def test_one_reading_says_what_single_ones_say(world: World) -> None:
    record(world, start(world, slider=0.1), rummage(np.random.default_rng(4), 10))
    robot_obs, scene_obs, info = world.observe()
    assert np.array_equal(robot_obs, world.robot.observation())
    assert np.array_equal(scene_obs, world.scene_observation())
    assert info == world.info()
    assert info["robot_info"] == world.robot.info()
    assert info["robot_info"]["arm_joint_states"] == robot_obs[7:14].tolist()
    assert info["scene_info"]["doors"]["base__slide"]["current_state"] == scene_obs[0]


@pytest.mark.shared
@pytest.mark.parametrize("seed", [0, 2, 4, 6, 8])  # these stay in the air
def test_free_motion_is_the_originals_within_a_millimetre(world: World, shared: Path, seed: int) -> None:
    data = np.load(shared / f"calvin/ref/trajectories/seed0{seed}.npz")
    world.reset(data["init_robot_obs"], data["init_scene_obs"])
    for action, expected in zip(data["actions"], data["robot_obs"][1:], strict=True):
        world.robot.apply_relative(action)
        world.advance()
        assert np.linalg.norm(world.robot.tcp()[0] - expected[:3]) < 1e-3


def test_what_rests_sleeps_and_wakes_when_the_robot_comes() -> None:
    env = CalvinEnv("D", renderer="bullet-tiny")
    state = start(env.world, slider=0.2)
    for index, x in enumerate((0.05, 0.2, 0.33)):
        state[6 + 6 * index : 12 + 6 * index] = x, -0.1, 0.46, 0.0, 0.0, 0.0
    env.reset(options={"scene_obs": state, "render_views": False})
    still = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    scenes = [env.step(still, render_views=False)[0]["scene_obs"] for _ in range(90)]
    assert np.array_equal(scenes[-1], scenes[-2])  # awake the blocks would tremble
    assert all(block.contacts for block in env.state().blocks.values())
    for task in ("lift_blue_block_table", "open_drawer"):
        assert demonstrate(env, task, np.random.default_rng(0), fresh=False) is not None
    env.close()


@pytest.mark.shared
def test_a_built_in_world_does_not_disturb_one_of_calvins_assets(world: World, shared: Path) -> None:
    data = np.load(shared / "calvin/ref/trajectories/seed01.npz")  # presses into the table
    original = make_world(assets=shared / "calvin/env_data")
    world.reset(None, start(world))
    original.reset(data["init_robot_obs"], data["init_scene_obs"])
    for action, expected in zip(data["actions"], data["scene_obs"][1:], strict=True):
        for each in (world, original):
            each.robot.apply_relative(action)
            each.advance()
        assert np.array_equal(original.scene_observation(), expected)
    original.close()
