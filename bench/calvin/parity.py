"""How far this world is from recordings of the original: trajectories, verdicts, starts, chains and pictures.

``parity`` runs whatever a folder of recordings holds and counts; it judges nothing.  The folder's layout is that of
the project's reference: ``trajectories/seed*.npz``, ``oracle_cases.json``, ``initial_states*.json``,
``sequences.json``, ``demos*.json`` and ``states.npz``, each looked for in the folder and in its ``ref``, ``renders``
and ``demos``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.calvin.assets import calvin_files, find_assets
from bench.calvin.builtin import builtin_files
from bench.calvin.contact_sheet import write_sheets
from bench.calvin.env import CalvinEnv
from bench.calvin.parity_cross import cross
from bench.calvin.scene import SceneSpec, scene_named
from bench.calvin.sequences import evaluation_sequences, initial_observation
from bench.calvin.state import BlockState, Contact, WorldState
from bench.calvin.tasks import task_done, tasks_done
from bench.calvin.world import World
from bench.errors import UserError

_PLACES = ("", "ref", "renders", "demos")
_RENDER_KEYS = ("scene", "reset_robot_obs", "reset_scene_obs", "rgb_static", "rgb_gripper")


class _Worlds:
    """Makes each scene's world once."""

    def __init__(self, assets: Path | None, led_button: str) -> None:
        self._assets = assets
        self._led_button = led_button
        self._made: dict[str, World] = {}

    def __getitem__(self, scene: str) -> World:
        spec: SceneSpec = scene_named(scene)
        if spec.name not in self._made:
            files = builtin_files(spec) if self._assets is None else calvin_files(self._assets, spec)
            self._made[spec.name] = World(spec, files, self._led_button)
        return self._made[spec.name]

    def close(self) -> None:
        for world in self._made.values():
            world.close()


def parity(
    assets: Path | str | None,
    reference: Path | str,
    *,
    builtin: bool = False,
    led_button: str = "main",
    cross_count: int = 0,
    sheets: Path | None = None,
) -> dict[str, Any]:
    """Compare this world with recordings of the original.

    Args:
        assets: a calvin_env checkout; None looks for an installed one.
        reference: folder of recordings.
        builtin: use the built-in scenes instead of CALVIN's assets.
        led_button: see ``bench.calvin.table.LED_BUTTONS``.
        cross_count: demonstrations to record on each of the two tables and to replay on the other; needs assets.
        sheets: folder for contact sheets of the recorded pictures beside ours.

    Returns:
        The counts and errors by name; a part that the folder lacks is 0, a number nobody could measure None.
        ``bitwise`` counts trajectories equal in every bit; errors are the largest absolute differences (m, rad).

    Raises:
        UserError: no such folder, no assets, or a recording that cannot be read.
    """
    folder = Path(reference)
    if not folder.is_dir():
        raise UserError(f"reference: expected a folder of recordings, got {folder}; give one that exists")
    root = None if builtin else Path(assets) if assets is not None else find_assets()
    if root is None and not builtin:
        raise UserError("parity: expected CALVIN's assets, found none; give --assets DIR or compare with --builtin")
    beside = root if not builtin else Path(assets) if assets is not None else find_assets()
    if cross_count and beside is None:
        raise UserError("parity: expected CALVIN's assets to cross with, found none; give --assets DIR")
    worlds = _Worlds(root, led_button)
    try:
        report = {
            "backend": "built-in" if builtin else "calvin-assets",
            **_trajectories(folder, worlds),
            **_oracle(folder),
            **_initial_states(folder),
            "sequences_equal": _sequences_equal(folder),
            **_demonstrations(folder, worlds),
            **_renders(folder, root, led_button),
        }
    finally:
        worlds.close()
    if cross_count and beside is not None:
        report |= cross(beside, cross_count)
    if sheets is not None:
        paths = _found(folder, "states.npz")
        report["sheets"] = write_sheets(sheets, _arrays(paths[0], _RENDER_KEYS), beside) if paths else []
    return report


def _found(folder: Path, pattern: str) -> list[Path]:
    paths = {path.resolve() for place in _PLACES for path in (folder / place).glob(pattern)}
    return sorted(paths)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"reference: expected JSON in {path}, got {error}; copy the file again") from None


def _arrays(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as data:
            return {key: data[key] for key in keys}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"reference: expected arrays {', '.join(keys)} in {path}, got {error}") from None


def _replay(world: World, robot_obs: np.ndarray, scene_obs: np.ndarray, actions: np.ndarray) -> Iterator[World]:
    world.reset(robot_obs, scene_obs)
    yield world
    for action in actions:
        world.robot.apply_relative(action)
        world.advance()
        yield world


def _trajectories(folder: Path, worlds: _Worlds) -> dict[str, Any]:
    robot_errors, scene_errors, tcp_errors, bitwise = [], [], [], 0
    for path in _found(folder, "trajectories/seed*.npz"):
        data = _arrays(path, ("actions", "robot_obs", "scene_obs", "init_robot_obs", "init_scene_obs"))
        states = [
            (world.robot.observation(), world.scene_observation())
            for world in _replay(worlds["D"], data["init_robot_obs"], data["init_scene_obs"], data["actions"])
        ]
        robot, scene = (np.array(rows) for rows in zip(*states, strict=True))
        robot_errors.append(float(np.abs(robot - data["robot_obs"]).max()))
        scene_errors.append(float(np.abs(scene - data["scene_obs"]).max()))
        tcp_errors.append(float(np.linalg.norm((robot - data["robot_obs"])[:, :3], axis=1).max()))
        bitwise += int(np.array_equal(robot, data["robot_obs"]) and np.array_equal(scene, data["scene_obs"]))
    return {
        "trajectories": len(robot_errors),
        "bitwise": bitwise,
        "max_robot_obs_error": max(robot_errors, default=None),
        "max_scene_obs_error": max(scene_errors, default=None),
        "median_tcp_error": float(np.median(tcp_errors)) if tcp_errors else None,
    }


def _recorded_state(snapshot: Mapping[str, Any]) -> WorldState:
    def contacts(rows: list[list[Any]]) -> frozenset[Contact]:
        return frozenset((body, link) for body, link in rows)

    blocks = {
        name: BlockState(
            tuple(one["pos"]),
            tuple(one["quat_xyzw"]),
            tuple(one["lin_vel"]),
            tuple(one["ang_vel"]),
            contacts(one["contacts"]),
        )
        for name, one in snapshot["blocks"].items()
    }
    return WorldState(
        blocks=blocks,
        robot_contacts=frozenset((body, -1) for body in snapshot["robot_contacts"]),
        slider=snapshot["doors"]["base__slide"],
        drawer=snapshot["doors"]["base__drawer"],
        lightbulb=snapshot["lights"]["lightbulb"],
        led=snapshot["lights"]["led"],
    )


def _oracle(folder: Path) -> dict[str, Any]:
    cases = mismatches = 0
    for path in _found(folder, "oracle_cases.json"):
        recording = _json(path)
        states = [_recorded_state(snapshot) for snapshot in recording["snapshots"]]
        for case in recording["cases"]:
            cases += 1
            mismatches += tasks_done(states[case["start"]], states[case["end"]]) != set(case["achieved"])
    return {"oracle_cases": cases, "oracle_mismatches": mismatches}


def _initial_states(folder: Path) -> dict[str, Any]:
    count = mismatches = 0
    for path in _found(folder, "initial_states*.json"):
        for recorded in _json(path):
            robot_obs, scene_obs = initial_observation(recorded["initial_state"])
            equal = robot_obs.tolist() == recorded["robot_obs"] and scene_obs.tolist() == recorded["scene_obs"]
            count, mismatches = count + 1, mismatches + (not equal)
    return {"initial_states": count, "initial_state_mismatches": mismatches}


def _sequences_equal(folder: Path) -> bool | int:
    paths = _found(folder, "sequences.json")
    if not paths:
        return 0
    recorded = _json(paths[0])
    rows = recorded["sequences"] if isinstance(recorded, dict) else recorded
    pairs = [(row["initial_state"], row["tasks"]) if isinstance(row, dict) else tuple(row) for row in rows]
    ours = evaluation_sequences(len(pairs))
    return [(dict(state), list(tasks)) for state, tasks in pairs] == [(dict(s), list(t)) for s, t in ours]


def _demonstrations(folder: Path, worlds: _Worlds) -> dict[str, Any]:
    count = same_step = same_verdict = 0
    for path in _found(folder, "demos*.json"):
        for demo in _json(path)["demos"]:
            start, fired = None, None
            values = (np.array(demo[key]) for key in ("start_robot_obs", "start_scene_obs", "actions"))
            for step, world in enumerate(_replay(worlds[demo["scene"]], *values), start=-1):
                if step == demo["task_start_step"] - 1:
                    start = world.state()
                elif start is not None and fired is None and task_done(demo["task"], start, world.state()):
                    fired = step
            count += 1
            same_step += fired == demo["oracle_fired_at_action"]
            same_verdict += (fired is None) == (demo["oracle_fired_at_action"] is None)
    return {"demonstrations": count, "demonstrations_same_verdict": same_verdict, "demonstrations_same_step": same_step}


def _psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    error = float(np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2))
    return 10 * float(np.log10(255.0**2 / max(error, 1e-10)))


def _renders(folder: Path, assets: Path | None, led_button: str) -> dict[str, Any]:
    scores: dict[str, list[float]] = {"static": [], "gripper": []}
    by_scene: dict[str, list[float]] = defaultdict(list)
    renderer = None
    for path in _found(folder, "states.npz"):
        data = _arrays(path, _RENDER_KEYS)
        for scene in sorted(set(data["scene"].tolist())):
            env = CalvinEnv(scene, assets=assets, led_button=led_button)
            for row in np.nonzero(data["scene"] == scene)[0]:
                options = {"robot_obs": data["reset_robot_obs"][row], "scene_obs": data["reset_scene_obs"][row]}
                views = env.reset(options=options)[0]["rgb_obs"]
                for name, values in scores.items():
                    values.append(_psnr(views[f"rgb_{name}"], data[f"rgb_{name}"][row]))
                by_scene[scene].append(scores["static"][-1])
            renderer = env.renderer
            env.close()
    return {
        "renders": len(scores["static"]),
        "renderer": renderer,
        **{f"psnr_{name}": float(np.mean(values)) if values else None for name, values in scores.items()},
        "psnr_static_by_scene": {scene: float(np.mean(values)) for scene, values in by_scene.items()},
    }
