"""One recorded episode on its way to disk: its arrays checked and completed, and the entry that the index keeps of it.

An entry is plain JSON: name, scene, number of frames, windows, and the moments from which the statistics of the whole
split are computed without reading a frame again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.calvin.reader import FRAME_ARRAYS, REQUIRED, relative_actions, scene_letter
from bench.data.episode import Window
from bench.errors import UserError

Entry = dict[str, Any]

_DTYPES = {key: "float32" if key.startswith("depth") else spec.dtypes[0] for key, spec in FRAME_ARRAYS.items()}


def complete(frames: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of the T frames in the file's types, actions included.

    Args:
        frames: key to array (T, …) in CALVIN's names and shapes; depth, touch and ``"executed_actions"`` may be
            absent.  Without ``"actions"`` all arrays hold T + 1 frames: the action of a frame is the pose of the
            next, and the last is left out.  Without ``"rel_actions"`` they follow from actions and poses.

    Raises:
        UserError: an array is missing, of another shape, length or type, or not finite.
    """
    missing = set(REQUIRED) - {"actions", "rel_actions"} - set(frames)
    unknown = set(frames) - set(FRAME_ARRAYS)
    if missing or unknown:
        raise UserError(
            f"episode: expected {', '.join(REQUIRED)}; missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
    lengths = {key: len(array) for key, array in frames.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"episode: expected arrays of one length, got {lengths}")
    arrays = {key: _checked(key, np.asarray(array)) for key, array in frames.items()}
    if "actions" not in arrays:
        robot = arrays["robot_obs"]
        gripper = np.where(robot[1:, 14:15] == 0, -1.0, robot[1:, 14:15])
        arrays = {key: array[:-1] for key, array in arrays.items()}
        arrays["actions"] = np.concatenate([robot[1:, :6], gripper], axis=1)
    if len(arrays["actions"]) == 0:
        raise UserError("episode: expected at least one frame (two observations where no actions are given), got none")
    if "rel_actions" not in arrays:
        arrays["rel_actions"] = relative_actions(arrays["actions"], arrays["robot_obs"])
    return {key: arrays[key] for key in FRAME_ARRAYS if key in arrays}


def _checked(key: str, array: NDArray[Any]) -> NDArray[Any]:
    spec = FRAME_ARRAYS[key]
    same_kind = array.dtype == np.uint8 if "uint8" in spec.dtypes else array.dtype.kind == "f"
    if array.shape[1:] != spec.shape or not same_kind:
        raise UserError(f"{key}: expected {spec} per frame, got {array.dtype} {array.shape[1:]}; convert it first")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{key}: expected finite numbers, got NaN or infinity; this episode is not written")
    return array.astype(_DTYPES[key], copy=False)


def entry_of(name: str, scene: str, arrays: Mapping[str, NDArray[Any]], windows: Sequence[Window]) -> Entry:
    """Return what the index keeps of one episode.

    Raises:
        UserError: a window ends outside of it, or there is no such scene.
    """
    length = len(arrays["robot_obs"])
    for window in windows:
        if window.stop > length:
            raise UserError(f"window {window}: expected to end within {length} frames; shorten it")
    scene_letter(f"calvin_scene_{scene}")
    return {
        "name": name,
        "scene": scene,
        "frames": length,
        "windows": [[window.start, window.stop, window.task, window.instruction] for window in windows],
        "moments": _moments(arrays),
    }


def _moments(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what the statistics of the whole split need of one episode."""
    moments: dict[str, Any] = {
        key: {
            "mean": arrays[key].mean(0).tolist(),
            "squares": np.square(arrays[key] - arrays[key].mean(0)).sum(0).tolist(),
        }
        for key in ("robot_obs", "scene_obs")
    }
    return moments | {"low": arrays["actions"].min(0).tolist(), "high": arrays["actions"].max(0).tolist()}
