"""One simulated play table in one PyBullet client: loading, resetting, stepping, reading.

No pictures and no gymnasium here.  Load order, body ids and solver settings are the original's (calvin_env
``envs/play_table_env.py``), because trajectories are to agree with it bit for bit: robot 0, base cylinder 1, blocks
2-4, table 5, plane 6.

A reset must not depend on what the world did before, yet Bullet keeps contacts and a search tree from the past:
``bench.calvin.rewind`` takes it back to what loading made of it.  ``deterministicOverlappingPairs`` stays off: the
original switches it on and then resets the simulation, which switches it off again.

The built-in world is freer, and so twice as fast: what has rested for two seconds sleeps, the solver stops earlier,
and without a search tree ``bench.calvin.restore`` suffices.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.calvin.assets import WorldFiles
from bench.calvin.bare import bare_urdf
from bench.calvin.bullet import pybullet, silence
from bench.calvin.restore import Restorer
from bench.calvin.rewind import Rewinder
from bench.calvin.robot import Pose, Robot, checked_numbers
from bench.calvin.scene import BUTTON_RANGE, DRAWER_RANGE, SWITCH_RANGE, SceneSpec
from bench.calvin.state import PLANE, ROBOT, TABLE, BlockState, Contact, WorldState
from bench.calvin.table import Joints, Table
from bench.errors import UserError

SUBSTEPS = 8
"""Physics steps of 1/240 s in a control step of 1/30 s."""

SCENE_OBS_SIZE = 24
_LOAD_SEED = 0
# The built-in world need not agree with the original bit for bit, only within a millimetre in free motion.  Bullet
# itself iterates 50 times or down to a residual of 1e-7, and bounds friction by a cone where a pyramid costs less.  It
# looks for contacts within 2 cm, and what comes so near to each other, the hand to the door for instance, it solves as
# one, at the cost of the slowest part.
_BUILTIN_SOLVER = {"solverResidualThreshold": 1e-5, "numSolverIterations": 30, "enableConeFriction": 0}
_NEAR, _BULLETS_NEAR = 0.01, 0.02
_STEPPING = threading.RLock()
_SLACK = 0.03
_FAR = 10.0
_CLEARANCE = 0.002


def check_scene_obs(scene_obs: Any, scene: SceneSpec) -> np.ndarray:
    """Return ``scene_obs`` as float64 (24,), or say by name why no such table can be."""
    state = checked_numbers("scene_obs", scene_obs, SCENE_OBS_SIZE)
    ranges = (scene.slide_range, DRAWER_RANGE, BUTTON_RANGE, SWITCH_RANGE)
    for index, (name, upper) in enumerate(zip(("slider", "drawer", "button", "switch"), ranges, strict=True)):
        if not -_SLACK <= state[index] <= upper + _SLACK:
            raise UserError(
                f"scene_obs: expected {name} [{index}] within [0, {upper}] m in scene {scene.name}, "
                f"got {state[index]:.4g}; was it recorded in another scene?"
            )
    for index, name in ((4, "lightbulb"), (5, "led")):
        if state[index] not in (0.0, 1.0):
            raise UserError(f"scene_obs: expected {name} [{index}] to be 0 or 1, got {state[index]:.4g}; mend it")
    for index, name in enumerate(scene.block_names()):
        position = state[6 + 6 * index : 9 + 6 * index]
        if np.abs(position).max() > _FAR:
            raise UserError(f"scene_obs: expected {name} within {_FAR:g} m of the table, got {position}; mend it")
    return state


class World:
    """The simulator behind an environment.

    Args:
        scene: numbers of the play table.
        files: what is loaded.
        led_button: see ``bench.calvin.table.LED_BUTTONS``.
        prepare: called with the PyBullet client before anything is loaded.
        pictures: PyBullet's own renderers are to draw; without, robot and table show boxes to them.

    Attributes:
        client: PyBullet client id.
        scene: numbers of the play table.
        robot: the Panda.
        table: the table's moving parts.
        blocks: block name -> body id, in ``scene_obs`` order.
        plane: body id of the ground.
        undrawn: body id -> URDF and scaling of what only the GL renderer can draw.
    """

    def __init__(
        self,
        scene: SceneSpec,
        files: WorldFiles,
        led_button: str,
        prepare: Callable[[int], None] | None = None,
        *,
        pictures: bool = False,
    ) -> None:
        self.scene = scene
        self.files = files
        robot, table = files.robot, files.table
        if not pictures:
            robot, table = bare_urdf(robot), bare_urdf(table)
        # The size is that of the EGL plugin's window, as calvin_env sets it; without the plugin it says nothing.
        with silence():
            self.client = pybullet.connect(pybullet.DIRECT, options="--width=200 --height=200")
        if prepare is not None:
            prepare(self.client)
        self.robot = Robot(self.client, robot)
        self.table = Table(self.client, table, files.scaling, led_button)
        self.blocks: dict[str, int] = {}
        self.plane = -1
        self._names: dict[int, str] = {}
        self._link_names: dict[int, str] = {}
        self._load()
        drawn_by_gl = {self.robot.body: (files.robot, 1.0), self.table.body: (files.table, files.scaling)}
        self.undrawn: dict[int, tuple[Path, float]] = {} if pictures else drawn_by_gl
        self._rewind = self._rewinder()

    def _rewinder(self) -> Rewinder | Restorer:
        bodies = (self.robot.body, self.robot.stand, *self.blocks.values(), self.table.body, self.plane)
        if not self.files.original:
            return Restorer(self.client, bodies, (*self.blocks.values(), self.table.body))
        first, second, _ = self.blocks.values()
        return Rewinder(self.client, bodies, 2, lambda: self.robot.reset(None), (first, second))

    def _load(self) -> None:
        broad_phase = 0 if self.files.original else pybullet.RESET_USE_SIMPLE_BROADPHASE
        pybullet.resetSimulation(broad_phase, physicsClientId=self.client)
        pybullet.setTimeStep(1.0 / 240.0, physicsClientId=self.client)
        pybullet.setGravity(0, 0, -9.8, physicsClientId=self.client)
        if not self.files.original:
            pybullet.setPhysicsEngineParameter(**_BUILTIN_SOLVER, physicsClientId=self.client)
        rng = np.random.default_rng(_LOAD_SEED)
        self.robot.load()
        for block in self.scene.blocks:
            position, rotation = self.scene.sample_pose(rng)
            self.blocks[block.name] = pybullet.loadURDF(
                str(self.files.blocks[block.name]),
                position,
                pybullet.getQuaternionFromEuler(rotation),
                globalScaling=self.files.scaling,
                physicsClientId=self.client,
            )
        self.table.load()
        self.plane = pybullet.loadURDF(str(self.files.plane), physicsClientId=self.client)
        self._names = {self.robot.body: ROBOT, self.table.body: TABLE, self.plane: PLANE}
        self._names |= {body: name for name, body in self.blocks.items()}
        self._link_names = {index: name for name, index in self.table.links.items()}

    def reset(self, robot_obs: np.ndarray | None, scene_obs: np.ndarray) -> None:
        """Put everything where the observations have it, then let one physics step pass.

        The outcome depends on the arguments alone, never on what this world did before.
        """
        self._rewind()
        self.table.reset(scene_obs[:6])
        for index, body in enumerate(self.blocks.values()):
            pose = scene_obs[6 + 6 * index : 12 + 6 * index]
            pybullet.resetBasePositionAndOrientation(
                body, pose[:3], pybullet.getQuaternionFromEuler(pose[3:]), physicsClientId=self.client
            )
        self.robot.reset(robot_obs)
        self.step_physics()

    def random_scene_obs(self, rng: np.random.Generator) -> np.ndarray:
        """Return ``scene_obs`` (24,) of a closed, dark table with the blocks apart at random places."""
        state = np.zeros(SCENE_OBS_SIZE)
        placed: list[np.ndarray] = []
        for index, block in enumerate(self.scene.blocks):
            while True:
                position, rotation = self.scene.sample_pose(rng)
                outline = _outline(block.extents[0], block.extents[1], position, rotation[2])
                if not any(_overlap(outline, other) for other in placed):
                    break
            placed.append(outline)
            state[6 + 6 * index : 12 + 6 * index] = [*position, *rotation]
        return state

    def advance(self) -> None:
        """Let one control step (1/30 s) pass, then let button and switch act."""
        self.step_physics(SUBSTEPS)
        self.table.step()

    def step_physics(self, steps: int = 1) -> None:
        """Let physics steps of 1/240 s pass and nothing else.  All steps must pass here, where they are counted."""
        with _STEPPING:
            try:
                self._look(_NEAR)
                for _ in range(steps):
                    pybullet.stepSimulation(physicsClientId=self.client)
            finally:
                self._look(_BULLETS_NEAR)
        self._rewind.count(steps)

    def _look(self, metres: float) -> None:
        """Set from where on Bullet looks for contacts, in the built-in world; this is one number for all clients."""
        if not self.files.original:
            pybullet.setPhysicsEngineParameter(contactBreakingThreshold=metres, physicsClientId=self.client)

    def _poses(self) -> dict[str, Pose]:
        return {
            name: pybullet.getBasePositionAndOrientation(body, physicsClientId=self.client)
            for name, body in self.blocks.items()
        }

    def scene_observation(self) -> np.ndarray:
        """Return ``scene_obs`` (24,): slider, drawer, button, switch, bulb, LED, then three block poses."""
        return self._scene_observation(self.table.joints(), self._poses())

    def _scene_observation(self, joints: Joints, poses: dict[str, Pose]) -> np.ndarray:
        values = list(self.table.observation(joints))
        for position, quaternion in poses.values():
            values += [*position, *pybullet.getEulerFromQuaternion(quaternion)]
        return np.array(values, dtype=np.float64)

    def observe(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Return ``robot_obs`` (15,), ``scene_obs`` (24,) and CALVIN's ``info`` of now, each thing read once."""
        robot, joints, poses = self.robot.read(), self.table.joints(), self._poses()
        scene_info = self.table.info(joints)
        scene_info["movable_objects"] = {name: self._block_info(name, pose) for name, pose in poses.items()}
        info = {"robot_info": self.robot.info(robot), "scene_info": scene_info}
        return self.robot.observation(robot), self._scene_observation(joints, poses), info

    def state(self) -> WorldState:
        """Return what tasks are judged by."""
        slider, drawer, _, _ = self.table.joints()
        return WorldState(
            blocks={name: self._block_state(body) for name, body in self.blocks.items()},
            robot_contacts=self._contacts(self.robot.body),
            slider=slider,
            drawer=drawer,
            lightbulb=self.table.bulb,
            led=self.table.led,
        )

    def _contacts(self, body: int) -> frozenset[Contact]:
        points = pybullet.getContactPoints(bodyA=body, physicsClientId=self.client)
        return frozenset(self._contact(point[2], point[4]) for point in points)

    def _contact(self, body: int, link: int) -> Contact:
        name = self._names[body]
        return (name, self._link_names[link]) if name == TABLE else (name, link)

    def _block_state(self, body: int) -> BlockState:
        position, quaternion = pybullet.getBasePositionAndOrientation(body, physicsClientId=self.client)
        linear, angular = pybullet.getBaseVelocity(body, physicsClientId=self.client)
        return BlockState(position, quaternion, linear, angular, self._contacts(body))

    def info(self) -> dict[str, Any]:
        """Return CALVIN's ``info``: ``robot_info`` and ``scene_info`` with raw contact points."""
        return self.observe()[2]

    def _block_info(self, name: str, pose: Pose) -> dict[str, Any]:
        body = self.blocks[name]
        linear, angular = pybullet.getBaseVelocity(body, physicsClientId=self.client)
        return {
            "current_pos": pose[0],
            "current_orn": pose[1],
            "current_lin_vel": linear,
            "current_ang_vel": angular,
            "contacts": pybullet.getContactPoints(bodyA=body, physicsClientId=self.client),
            "uid": body,
        }

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        if self.client >= 0:
            pybullet.disconnect(physicsClientId=self.client)
            self.client = -1


def _outline(length: float, width: float, position: np.ndarray, yaw: float) -> np.ndarray:
    """Return the corners (4, 2) of a block seen from above, grown by a little clearance, in order."""
    x, y = length / 2 + _CLEARANCE, width / 2 + _CLEARANCE
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    corners: np.ndarray = np.array([[x, y], [-x, y], [-x, -y], [x, -y]]) @ turn.T + position[:2]
    return corners


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Say whether two rectangles overlap: no edge of either separates them."""
    for corners in (a, b):
        for axis in corners[1:3] - corners[:2]:
            first, second = a @ axis, b @ axis
            if first.max() < second.min() or second.max() < first.min():
                return False
    return True
