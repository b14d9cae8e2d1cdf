"""Random states of the world in which a task is possible: where demonstrations begin.

A start is drawn in two steps: a symbolic state that the chain rules (``sequence_rules.py``) allow the task in, then
positions for it, spread over what the evaluation's initial states and the tasks before may leave behind.  Not here:
bringing a block into the gripper, which is an expert's work (``expert.prepare``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin.scene import ARM_REST, DRAWER_RANGE, SWITCH_RANGE, TABLE_TOP, SceneSpec, scene_named
from bench.calvin.sequence_rules import CABINET, STATE_VALUES, SymbolicState, rules
from bench.calvin.sequences import HOME_ROBOT_OBS
from bench.calvin.tasks import COLOURS, FAMILY, check_task

Vector = NDArray[np.float64]

HELD_FAMILIES = ("place", "stack")
"""Tasks that begin with a block in the gripper."""

BLOCK_HEIGHT = 0.04
DRAWER_FLOOR = 0.3415
SEPARATION = 0.1
CLEAR_OF_DOOR = -0.055
"""Nearer to the cabinet than this y a block may touch its door, which the push tasks take for something it lies on."""
BELOW_TOWER = -0.08
"""A tower stands no nearer to the cabinet than this y: its upper block would touch the slope."""
PUSH_ROOM = 0.13
BUTTON_ROOM = 0.075
TABLE_HALF = 0.39
JOINT_SPREAD = 0.06
ATTEMPTS = 500


def symbolic_start(task: str, rng: np.random.Generator) -> tuple[SymbolicState, str | None]:
    """Draw a symbolic state in which ``task`` is possible once the named block is in the gripper.

    Returns:
        the state, in which nothing is held; the block to be grasped first (``block_red``), or None.

    Raises:
        UserError: there is no such task.
    """
    state: SymbolicState = {key: values[int(rng.integers(len(values)))] for key, values in STATE_VALUES.items()}
    options = rules(check_task(task))
    needs = dict(options[int(rng.integers(len(options)))][0])
    for key, value in needs.items():
        state[key] = value[int(rng.integers(len(value)))] if isinstance(value, tuple) else value
    held = None
    for colour in COLOURS:
        block = f"{colour}_block"
        if state[block] == "grasped":
            held = f"block_{colour}"
            state[block] = _reachable_place(state, rng)
            needs[block] = state[block]
        elif block not in needs and state["drawer"] == "open" and rng.random() < 0.15:
            state[block] = "drawer"
    state["grasped"] = 0
    return _untangled(state, needs, rng), held


def _reachable_place(state: Mapping[str, Any], rng: np.random.Generator) -> str:
    places = ["table", "table", "slider_left" if state["slider"] == "right" else "slider_right"]
    if state["drawer"] == "open":
        places.append("drawer")
    return places[int(rng.integers(len(places)))]


def _untangled(state: SymbolicState, needs: Mapping[str, Any], rng: np.random.Generator) -> SymbolicState:
    """Let no two blocks share a half of the cabinet: those that the task does not need give way."""
    taken = {needs[f"{colour}_block"] for colour in COLOURS if isinstance(needs.get(f"{colour}_block"), str)}
    for colour in rng.permutation(COLOURS):
        block = f"{colour}_block"
        fixed = isinstance(needs.get(block), str)
        if not fixed and state[block] in CABINET and state[block] in taken:
            other = CABINET[1 - CABINET.index(state[block])]
            must_hide = block in needs
            state[block] = other if other not in taken or must_hide else "table"
        if state[block] in CABINET:
            taken.add(state[block])
    return state


def _spread_robot(rng: np.random.Generator) -> Vector:
    robot = np.array(HOME_ROBOT_OBS)
    robot[7:14] = np.array(ARM_REST) + np.clip(rng.normal(0.0, JOINT_SPREAD, 7), -2 * JOINT_SPREAD, 2 * JOINT_SPREAD)
    robot[6] = 0.08 if rng.random() < 0.75 else 0.0
    return robot


def _table_position(scene: SceneSpec, like_evaluation: bool, rng: np.random.Generator) -> Vector:
    low, high = scene.surfaces["table"].low[:2], (scene.surfaces["table"].high[0], CLEAR_OF_DOOR)
    if like_evaluation and scene.name == "D":
        slot = np.array([(0.05, -0.12), (0.23, -0.12)][int(rng.integers(2))])
        return np.array(slot + rng.normal(0.0, 0.015, 2))
    return np.array(rng.uniform(low, high))


def _place(scene: SceneSpec, place: str, drawer: float, rng: np.random.Generator) -> Vector:
    """Draw x, y, z, yaw (4,) of a block at a symbolic place."""
    usual_yaw = math.pi / 2 + rng.uniform(-1.2, 1.2) * math.pi / 8
    if place in CABINET:
        surface = scene.surfaces[place]
        middle = (np.array(surface.low[:2]) + np.array(surface.high[:2])) / 2
        x, y = middle + rng.uniform((-0.035, -0.01), (0.035, 0.015))
        return np.array([x, y, TABLE_TOP + BLOCK_HEIGHT / 2, usual_yaw])
    if place == "drawer":
        x = scene.drawer[0] + rng.uniform(-0.12, 0.12)
        y = rng.uniform(-0.157 - drawer + 0.045, -0.19 - 0.02)
        return np.array([x, y, DRAWER_FLOOR + BLOCK_HEIGHT / 2, usual_yaw + rng.uniform(-0.5, 0.5)])
    if place == "stacked_bottom":
        x, y = _table_position(scene, True, rng)
        return np.array([x, min(y, BELOW_TOWER), TABLE_TOP + BLOCK_HEIGHT / 2, usual_yaw])
    like_evaluation = bool(rng.random() < 0.5)
    x, y = _table_position(scene, like_evaluation, rng)
    yaw = usual_yaw if like_evaluation else rng.uniform(-math.pi, math.pi)
    return np.array([x, y, TABLE_TOP + BLOCK_HEIGHT / 2, yaw])


def _place_blocks(scene: SceneSpec, state: SymbolicState, drawer: float, rng: np.random.Generator) -> dict[str, Vector]:
    """Draw a pose (4,) for every colour, none too near another one."""
    poses: dict[str, Vector] = {}
    top = next((colour for colour in COLOURS if state[f"{colour}_block"] == "stacked_top"), None)
    for colour in (one for one in COLOURS if one != top):
        place = state[f"{colour}_block"]
        for _ in range(ATTEMPTS):
            pose = _place(scene, place, drawer, rng)
            if all(math.dist(pose[:3], other[:3]) > SEPARATION for other in poses.values()):
                break
        poses[colour] = pose
    if top is not None:
        base = next(colour for colour in COLOURS if state[f"{colour}_block"] == "stacked_bottom")
        turn = rng.integers(2) * math.pi / 2 + rng.normal(0.0, 0.1)
        poses[top] = poses[base] + np.array([*rng.normal(0.0, 0.003, 2), BLOCK_HEIGHT, turn])
    return poses


def observation_of(scene: SceneSpec | str, state: SymbolicState, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Draw (robot_obs (15,), scene_obs (24,)) for a symbolic state, in the scene's own block order.

    Of ``robot_obs`` only the gripper width and the joints mean something: a reset reads no more.
    """
    spec = scene_named(scene) if isinstance(scene, str) else scene
    robot = _spread_robot(rng)
    table = np.zeros(24)
    table[0] = rng.uniform(-0.02, 0.0) + spec.slide_range if state["slider"] == "left" else rng.uniform(0.0, 0.02)
    table[1] = DRAWER_RANGE - rng.uniform(0.0, 0.03) if state["drawer"] == "open" else rng.uniform(0.0, 0.008)
    table[3] = SWITCH_RANGE if state["lightbulb"] else 0.0
    table[4], table[5] = state["lightbulb"], state["led"]
    poses = _place_blocks(spec, state, float(table[1]), rng)
    for index, block in enumerate(spec.blocks):
        x, y, z, yaw = poses[block.colour]
        table[6 + 6 * index : 12 + 6 * index] = x, y, z, 0.0, 0.0, yaw
    return robot, table


@dataclass(frozen=True)
class Start:
    """Where a demonstration begins.

    Attributes:
        state: the symbolic state, in which nothing is held.
        held: the block that has to be grasped before the task can begin (``block_red``), or None.
        robot_obs: (15,); only the gripper width and the joints mean something.
        scene_obs: (24,), in the scene's own block order.
    """

    state: SymbolicState
    held: str | None
    robot_obs: Vector
    scene_obs: Vector

    @property
    def state_when_held(self) -> SymbolicState:
        """The symbolic state once the block is in the gripper; of a start without one, its state."""
        if self.held is None:
            return self.state
        return {**self.state, f"{self.held.removeprefix('block_')}_block": "grasped", "grasped": 1}


def draw_start(scene: SceneSpec | str, task: str, rng: np.random.Generator) -> Start:
    """Draw a state in which ``task`` is possible.

    Raises:
        UserError: there is no such task or scene.
    """
    spec = scene_named(scene) if isinstance(scene, str) else scene
    for _ in range(ATTEMPTS):
        state, held = symbolic_start(task, rng)
        robot_obs, scene_obs = observation_of(spec, state, rng)
        if _has_room(spec, task, scene_obs):
            break
    return Start(state, held, robot_obs, scene_obs)


def _has_room(scene: SceneSpec, task: str, scene_obs: Vector) -> bool:
    """Return whether the task can be done where the blocks stand.

    A block that is to be pushed would not be pushed into the button or off the table; beneath a block that is to be
    stacked there is one that does not stand before the cabinet's slope.
    """
    blocks = scene_obs[6:].reshape(3, 6)[:, :3]
    if FAMILY[task] == "stack":
        return bool(np.any((np.abs(blocks[:, 2] - TABLE_TOP) < BLOCK_HEIGHT) & (blocks[:, 1] < BELOW_TOWER)))
    if FAMILY[task] != "push":
        return True
    _, colour, _, direction = task.split("_")
    x, y, _ = blocks[[block.colour for block in scene.blocks].index(colour)]
    end = x + (PUSH_ROOM if direction == "right" else -PUSH_ROOM)
    at_button = abs(end - scene.button[0]) < BUTTON_ROOM and abs(y - scene.button[1]) < BUTTON_ROOM
    return bool(abs(end) < TABLE_HALF and not at_button)


def needs_block_in_gripper(task: str) -> bool:
    """Return whether ``task`` begins with a block in the gripper."""
    return FAMILY[check_task(task)] in HELD_FAMILIES
