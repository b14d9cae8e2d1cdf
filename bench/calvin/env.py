"""CALVIN's play table as a gymnasium environment.

Reset to any recorded state, step with 7-d relative actions, read both cameras, ``robot_obs`` and ``scene_obs`` as in
CALVIN's data sets.  What differs from the original (calvin_env ``envs/play_table_env.py``) is on purpose:

* a reset depends on its arguments alone, never on the episodes before it;
* the gripper value is thresholded at 0 (> 0 opens) instead of being asserted to be ±1;
* views are drawn only when somebody reads them (``render_views=False``, ``views()``);
* actions and states that make no sense are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np

from bench.calvin.assets import calvin_files
from bench.calvin.builtin import builtin_files
from bench.calvin.bullet_render import BulletRenderer, load_egl
from bench.calvin.camera import CAMERAS, gripper_view_matrix, static_view_matrix
from bench.calvin.film import Film, MomentRenderer
from bench.calvin.gl import gl_available
from bench.calvin.robot import ROBOT_OBS_SIZE, check_action, check_robot_obs
from bench.calvin.scene import SceneSpec, scene_named
from bench.calvin.state import WorldState
from bench.calvin.table import LED_BUTTONS
from bench.calvin.world import SCENE_OBS_SIZE, World, check_scene_obs
from bench.errors import UserError

RENDERERS = ("auto", "gl", "bullet-egl", "bullet-tiny")

Observation = dict[str, Any]


class Renderer(MomentRenderer, Protocol):
    """What draws the views, at once or of moments that were noted."""

    def draw(self, names: Iterable[str], kinds: Iterable[str] = ("rgb",)) -> Mapping[str, np.ndarray]:
        """Return ``rgb_NAME`` -> uint8 (H, W, 3) and/or ``depth_NAME`` -> float32 (H, W) in metres."""

    def close(self) -> None:
        """Give back what the renderer holds."""


class CalvinEnv(gymnasium.Env[Observation, np.ndarray]):
    """One play table with a robot.

    Args:
        scene: ``A`` … ``D``.
        assets: a calvin_env checkout (or its ``data`` folder's parent): the original's meshes, bit-equal physics.
            None builds the scene from numbers.
        renderer: ``gl`` (fast), ``bullet-egl`` or ``bullet-tiny`` (the original's), or ``auto``: gl where it can
            start, else bullet-tiny.
        led_button: ``main`` or ``pinned``, see ``bench.calvin.table.LED_BUTTONS``.
        depth: observations also have ``depth_obs``.
        render_mode: ``rgb_array``; what ``render()`` gives.  None means the same.

    Raises:
        UserError: an argument names nothing that exists.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(
        self,
        scene: str = "D",
        *,
        assets: Path | str | None = None,
        renderer: str = "auto",
        led_button: str = "main",
        depth: bool = False,
        render_mode: str | None = "rgb_array",
    ) -> None:
        _one_of("renderer", renderer, RENDERERS)
        _one_of("led_button", led_button, LED_BUTTONS)
        if render_mode is not None:
            _one_of("render_mode", render_mode, tuple(self.metadata["render_modes"]))
        self.scene: SceneSpec = scene_named(scene)
        self.assets = None if assets is None else Path(assets)
        self.render_mode = render_mode
        self.depth = depth
        files = builtin_files(self.scene) if self.assets is None else calvin_files(self.assets, self.scene)
        if renderer == "auto":
            renderer = "gl" if gl_available()[0] else "bullet-tiny"
        prepare = load_egl if renderer == "bullet-egl" else None
        self.world = World(self.scene, files, led_button, prepare, pictures=renderer != "gl")
        self.observation_space = _observation_space(depth)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (7,), np.float32)
        self._start: WorldState | None = None
        self._closed = False
        self._wanted_renderer = renderer
        self._renderer: Renderer | None = None
        self._renderer_name = ""

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Put the world into a state; one physics step passes.

        Args:
            seed: seeds the places of the blocks when no ``scene_obs`` is given.
            options: ``robot_obs`` (15,) and/or ``scene_obs`` (24,); a missing one means the robot's rest pose, or a
                closed table with blocks at random places.  ``render_views=False`` leaves out the pictures.

        Returns:
            observation, CALVIN's info.

        Raises:
            UserError: a state that no table can hold.
        """
        super().reset(seed=seed)
        if options is not None and not isinstance(options, Mapping):
            raise UserError(f"reset options: expected a mapping, got {options!r}; e.g. {{'render_views': False}}")
        options = dict(options or {})
        robot_obs, scene_obs = options.pop("robot_obs", None), options.pop("scene_obs", None)
        render_views = bool(options.pop("render_views", True))
        if options:
            raise UserError(f"reset options: expected robot_obs, scene_obs or render_views, got {list(options)}")
        robot = None if robot_obs is None else check_robot_obs(robot_obs)
        table = (
            self.world.random_scene_obs(self.np_random) if scene_obs is None else check_scene_obs(scene_obs, self.scene)
        )
        self._require_open()
        self.world.reset(robot, table)
        self._start = self.world.state()
        return self._observe(render_views)

    def step(self, action: Any, render_views: bool = True) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Let one control step (1/30 s) pass.

        Args:
            action: (7,) relative: xyz · 0.02 m and Euler · 0.05 rad added to the running target, gripper > 0 opens;
                or ``(xyz (3,), Euler (3,) or quaternion xyzw (4,), gripper)``: absolute, in the world, which leaves
                the running target alone.
            render_views: draw the cameras into the observation.

        Raises:
            UserError: an action of the wrong shape, or NaN, or beyond float range; no reset before.
        """
        self._require_open()
        if self._start is None:
            raise UserError("step: expected a reset first, got none; call reset()")
        checked = check_action(action)
        if isinstance(checked, tuple):
            self.world.robot.apply_absolute(*checked)
        else:
            self.world.robot.apply_relative(checked)
        self.world.advance()
        observation, info = self._observe(render_views)
        return observation, 0.0, False, False, info

    def _observe(self, render_views: bool) -> tuple[Observation, dict[str, Any]]:
        """Return the observation and the info; a GPU draws while the numbers are read."""
        kinds = ("rgb", "depth") if self.depth else ("rgb",)
        drawer = self._drawer() if render_views else None
        begun = drawer.begin([drawer.moment(CAMERAS)], kinds) if drawer is not None else []
        robot_obs, scene_obs, info = self.world.observe()
        numbers = {"robot_obs": robot_obs, "scene_obs": scene_obs}
        observation: Observation = {}
        for pictures in begun:
            views = pictures()
            for kind in kinds:
                observation[f"{kind}_obs"] = {name: view for name, view in views.items() if name.startswith(kind)}
        return observation | numbers, info

    def views(self) -> dict[str, np.ndarray]:
        """Draw now: ``rgb_static`` uint8 (200, 200, 3) and ``rgb_gripper`` uint8 (84, 84, 3)."""
        return dict(self._drawer().draw(CAMERAS))

    def depth_views(self) -> dict[str, np.ndarray]:
        """Draw depth now: ``depth_static`` and ``depth_gripper``, float32 metres along the camera's z."""
        return dict(self._drawer().draw(CAMERAS, ("depth",)))

    def film(self) -> Film:
        """Return what takes the pictures of a motion: both cameras, with depth where the world was made with it."""
        return Film(self._drawer(), ("rgb", "depth") if self.depth else ("rgb",))

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Draw the static camera now: uint8 (200, 200, 3)."""
        return self._drawer().draw(("static",))["rgb_static"]

    @property
    def renderer(self) -> str:
        """Return the renderer in use: ``gl``, ``bullet-egl`` or ``bullet-tiny``."""
        self._drawer()
        return self._renderer_name

    def _drawer(self) -> Renderer:
        self._require_open()
        if self._renderer is None:
            self._renderer, self._renderer_name = self._make_renderer(self._wanted_renderer)
        return self._renderer

    def _make_renderer(self, wanted: str) -> tuple[Renderer, str]:
        if wanted == "gl":
            from bench.calvin.render import GlRenderer

            return GlRenderer(self.world.client, self.scene, self.assets, self.world.undrawn), wanted
        matrices = {
            "static": static_view_matrix,
            "gripper": lambda: gripper_view_matrix(self.world.robot.camera()),
        }
        return BulletRenderer(self.world.client, matrices), wanted

    def state(self) -> WorldState:
        """Return the world as tasks are judged by it."""
        self._require_open()
        return self.world.state()

    def info(self) -> dict[str, Any]:
        """Return CALVIN's ``info``: ``robot_info`` and ``scene_info``."""
        self._require_open()
        return self.world.info()

    def begin_subtask(self) -> None:
        """Remember the state now: ``task_done`` compares with it.  A reset does so too."""
        self._start = self.state()

    def task_done(self, task: str) -> bool:
        """Say whether ``task`` has been solved since ``begin_subtask``."""
        from bench.calvin.tasks import task_done

        if self._start is None:
            raise UserError("task_done: expected a reset first, got none; call reset() or begin_subtask()")
        return task_done(task, self._start, self.state())

    def _require_open(self) -> None:
        if self._closed:
            raise UserError("environment: expected an open one, got a closed one; make a new CalvinEnv")

    def close(self) -> None:
        """Give back the simulator and the renderer; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._renderer is not None:
            self._renderer.close()
        self.world.close()


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name}: expected one of {', '.join(known)}, got {value!r}; choose one of them")


def _observation_space(depth: bool) -> gymnasium.spaces.Dict:
    boxes = gymnasium.spaces.Box
    spaces: dict[str, gymnasium.Space[Any]] = {
        "rgb_obs": gymnasium.spaces.Dict(
            {f"rgb_{name}": boxes(0, 255, (camera.size, camera.size, 3), np.uint8) for name, camera in CAMERAS.items()}
        ),
        "robot_obs": boxes(-np.inf, np.inf, (ROBOT_OBS_SIZE,), np.float64),
        "scene_obs": boxes(-np.inf, np.inf, (SCENE_OBS_SIZE,), np.float64),
    }
    if depth:
        spaces["depth_obs"] = gymnasium.spaces.Dict(
            {
                f"depth_{name}": boxes(0.0, np.inf, (camera.size, camera.size), np.float32)
                for name, camera in CAMERAS.items()
            }
        )
    return gymnasium.spaces.Dict(spaces)
