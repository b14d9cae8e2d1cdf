"""The original environment behind our interface: drives an installed ``calvin_env``, unchanged.

For comparing, not for speed: its resets remember the episodes before, and it draws both views at every step.  It is on
no package index; install it from https://github.com/mees/calvin_env with this project's extra ``calvin``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.calvin.robot import check_action, check_robot_obs
from bench.calvin.scene import scene_named
from bench.calvin.state import PLANE, ROBOT, TABLE, BlockState, Contact, WorldState
from bench.calvin.tasks import task_done
from bench.calvin.world import check_scene_obs
from bench.errors import UserError


def original_available() -> bool:
    """Say whether ``calvin_env`` and what configures it can be imported; imports nothing."""
    return all(importlib.util.find_spec(name) is not None for name in ("calvin_env", "hydra", "gym"))


class OriginalEnv:
    """The original ``PlayTableSimEnv`` with the methods of ``bench.calvin.env.CalvinEnv``.

    Args:
        scene: ``A`` … ``D``.
        use_egl: draw with PyBullet's EGL plugin as the data sets were, otherwise with TinyRenderer.
        fresh: reseed and load again at each reset (some 90 ms), so that nothing is remembered.

    Raises:
        UserError: ``calvin_env`` is not installed.
    """

    def __init__(self, scene: str = "D", *, use_egl: bool = False, fresh: bool = True) -> None:
        if not original_available():
            raise UserError(
                "original backend: expected an importable calvin_env, hydra and gym, got none; install "
                "https://github.com/mees/calvin_env and this project with its extra 'calvin'"
            )
        self.scene = scene_named(scene)
        self._fresh = fresh
        self._env: Any = _instantiate(self.scene.name, use_egl)
        self._start: WorldState | None = None
        self._views: Mapping[str, np.ndarray] = {}
        self._info: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset as ``CalvinEnv.reset`` does."""
        options = options or {}
        robot_obs, scene_obs = options.get("robot_obs"), options.get("scene_obs")
        if self._fresh:
            self._env.scene.np_random = np.random.default_rng(0)
            self._env.load()
            self._env.robot.gripper_action = 1
        if seed is not None:
            self._env.scene.np_random = np.random.default_rng(seed)
        observation = self._env.reset(
            robot_obs=None if robot_obs is None else check_robot_obs(robot_obs),
            scene_obs=None if scene_obs is None else check_scene_obs(scene_obs, self.scene),
        )
        self._info = self._env.get_info()
        self.begin_subtask()
        return self._kept(observation), self._info

    def step(self, action: Any, render_views: bool = True) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Step as ``CalvinEnv.step`` does; the original always draws, ``render_views`` only leaves the pictures out."""
        checked = check_action(action)
        if not isinstance(checked, tuple):
            checked = checked.copy()  # the pinned commit scales the caller's array in place
            checked[6] = 1 if checked[6] > 0 else -1
        observation, _, _, self._info = self._env.step(checked)
        kept = self._kept(observation)
        if not render_views:
            kept.pop("rgb_obs")
        return kept, 0.0, False, False, self._info

    def _kept(self, observation: dict[str, Any]) -> dict[str, Any]:
        self._views = observation["rgb_obs"]
        return {key: observation[key] for key in ("rgb_obs", "robot_obs", "scene_obs")}

    def views(self) -> dict[str, np.ndarray]:
        """Return the pictures of the last step or reset."""
        return dict(self._views)

    def info(self) -> dict[str, Any]:
        """Return the original's ``info`` of the last step or reset."""
        return self._info

    def state(self) -> WorldState:
        """Return the last ``info`` as tasks are judged by it."""
        return world_state(self._info)

    def begin_subtask(self) -> None:
        """Remember the state now: ``task_done`` compares with it."""
        self._start = self.state()

    def task_done(self, task: str) -> bool:
        """Say whether ``task`` has been solved since ``begin_subtask``, by our oracle on the original's info."""
        if self._start is None:
            raise UserError("task_done: expected a reset first, got none; call reset()")
        return task_done(task, self._start, self.state())

    def close(self) -> None:
        """Disconnect once; the original complains when it is closed twice."""
        if self._env is not None:
            self._env.close()
            self._env.ownsPhysicsClient = False
            self._env = None


def _instantiate(scene: str, use_egl: bool) -> Any:
    import calvin_env
    import hydra
    from calvin_env.envs import play_table_env

    root = Path(calvin_env.__file__).resolve().parents[1]
    # The original asks git for its commit and fails in a copy without .git; the answer is only logged.
    play_table_env.get_git_commit_hash = lambda _path: "unknown"
    hydra.core.global_hydra.GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(root / "conf"), version_base=None):
        config = hydra.compose(
            "config_data_collection",
            overrides=[
                "cameras=static_and_gripper",
                f"scene=calvin_scene_{scene}",
                "robot=panda_longer_finger",
                f"data_path={root / 'data'}",
                # its own choice needs a plug-in for coloured logs
                "hydra/job_logging=default",
                "hydra/hydra_logging=default",
            ],
        )
        return hydra.utils.instantiate(config.env, show_gui=False, use_vr=False, use_scene_info=True, use_egl=use_egl)


def world_state(info: Mapping[str, Any]) -> WorldState:
    """Turn CALVIN's ``info`` (contacts by PyBullet ids) into a ``WorldState`` (contacts by name)."""
    robot, scene = info["robot_info"], info["scene_info"]
    table = scene["fixed_objects"]["table"]
    names = {robot["uid"]: ROBOT, table["uid"]: TABLE}
    names |= {block["uid"]: name for name, block in scene["movable_objects"].items()}
    links = {index: name for name, index in table["links"].items()}

    def contacts(points: Any) -> frozenset[Contact]:
        pairs = ((names.get(point[2], PLANE), point[4]) for point in points)
        return frozenset((name, links[link] if name == TABLE else link) for name, link in pairs)

    blocks = {
        name: BlockState(
            tuple(block["current_pos"]),
            tuple(block["current_orn"]),
            tuple(block["current_lin_vel"]),
            tuple(block["current_ang_vel"]),
            contacts(block["contacts"]),
        )
        for name, block in scene["movable_objects"].items()
    }
    return WorldState(
        blocks=blocks,
        robot_contacts=contacts(robot["contacts"]),
        slider=scene["doors"]["base__slide"]["current_state"],
        drawer=scene["doors"]["base__drawer"]["current_state"],
        lightbulb=scene["lights"]["lightbulb"]["logical_state"],
        led=scene["lights"]["led"]["logical_state"],
    )
