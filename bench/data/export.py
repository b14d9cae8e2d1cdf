"""A data set of any format as LeRobot v3.0, generated wrist views beside the recorded ones.

CALVIN's ``rgb_static`` becomes ``observation.images.anchor``, ``rgb_gripper`` ``observation.images.wrist`` and an
overlay ``observation.images.wrist_generated``.  State and action are float32, as LeRobot's policies want them; CALVIN's
own arrays go along in their own precision under ``calvin.``, which LeRobot's policies leave alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.data.episode import Dataset, Episode, Window
from bench.data.lerobot import Column, Layout, LeRobotWriter, Piece
from bench.data.overlay import Overlay
from bench.data.rig import CalvinRig
from bench.data.video import CODECS
from bench.errors import UserError
from worldmodel.api import WRIST

CALVIN_RATE = 30
"""CALVIN records at its control rate (calvin_env ``conf/config_data_collection.yaml``: ``control_freq``)."""

_GRIPPER = ("gripper_width", *(f"joint_{number}" for number in range(7)), "gripper_action")
_STATE = ("x", "y", "z", "roll", "pitch", "yaw", *_GRIPPER)
_ACTION = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_CALVIN_NUMBERS = ("robot_obs", "scene_obs", "actions", "rel_actions", "executed_actions")
_PREFIX = "observation.images."
_FRAMES_PER_FILE = 20_000


def export_lerobot(
    dataset: Dataset,
    out: Path | str,
    *,
    overlay: Overlay | None = None,
    codec: str = "h264",
    crf: int | None = None,
    windows_only: bool = False,
    frames_per_file: int = _FRAMES_PER_FILE,
    each: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Write a data set as LeRobot v3.0, or finish what an earlier run began.

    Args:
        dataset: any opened data set (:func:`bench.data.open_dataset`).
        out: the new folder.
        overlay: generated wrist views of this data set.
        codec: ``"h264"``, ``"av1"`` or ``"lossless"``.
        crf: quality of the videos, 0 to 51, lower is better; None takes the codec's own.
        windows_only: whether every language window becomes an episode of its own and other frames are left out.
        frames_per_file: frames after which a new file is begun.
        each: called with the number of frames done since the last call.

    Raises:
        UserError: the folder exists, a frame is damaged, or there is nothing to export.
    """
    if codec not in CODECS:
        raise UserError(f"export: expected a codec among {', '.join(CODECS)}, got {codec!r}")
    episodes = dataset.episodes
    if overlay is not None:
        covered = [episode for episode in episodes if episode.id in overlay]
        if len(covered) != len(episodes):
            missing = next(episode.id for episode in episodes if episode.id not in overlay)
            raise UserError(
                f"{overlay.directory}: expected generated views of all {len(episodes)} episodes, got {len(covered)} "
                f"({missing} has none); generate the rest first"
            )
        episodes = tuple(overlay.attach(episode) for episode in episodes)
    pieces = [piece for episode in episodes for piece in _pieces(episode, windows_only)]
    if not pieces:
        raise UserError(f"{dataset.directory}: expected language windows to export, got none; export all frames")
    layout = _layout(dataset, episodes[0], codec, crf, generated=overlay is not None)
    parts = list(_parts(pieces, frames_per_file))
    provenance = {
        "format": dataset.format,
        "dataset": dataset.hash(),
        "overlay": overlay.provenance if overlay is not None else None,
        "codec": codec,
        "exact_pictures": layout.codec.exact,
    }
    shape = {"layout": asdict(layout), "windows_only": windows_only, "frames_per_file": frames_per_file}
    writer = LeRobotWriter(Path(out), layout, parts, provenance | shape)
    writer.write(each)
    info = writer.finish(provenance)
    written = {column.key for column in layout.columns.values()} | set(layout.pictures.values())
    return {
        "directory": str(out),
        "format": "LeRobot v3.0",
        "frames": info["total_frames"],
        "episodes": info["total_episodes"],
        "instructions": info["total_tasks"],
        "features": list(info["features"]),
        "left_out": [key for key in episodes[0].keys if key not in written],
        "codec": codec,
        "exact_pictures": layout.codec.exact,
    }


def _pieces(episode: Episode, windows_only: bool) -> Iterator[Piece]:
    if not windows_only:
        yield Piece(episode, 0, len(episode), episode.windows)
        return
    for window in episode.windows:
        told = Window(0, window.stop - window.start, window.task, window.instruction)
        yield Piece(episode, window.start, window.stop, (told,))


def _parts(pieces: Sequence[Piece], limit: int) -> Iterator[list[Piece]]:
    part: list[Piece] = []
    for piece in pieces:
        if part and sum(map(len, part)) + len(piece) > limit:
            yield part
            part = []
        part.append(piece)
    yield part


def _layout(dataset: Dataset, episode: Episode, codec: str, crf: int | None, *, generated: bool) -> Layout:
    rate = float(getattr(dataset, "rate", CALVIN_RATE))
    if rate != int(rate):
        raise UserError(f"{dataset.directory}: expected whole frames per second, as LeRobot v3.0 has, got {rate}")
    pictures = {_feature(view, key): key for view, key in episode.rig.views.items() if key in episode.keys}
    if generated:
        pictures[f"{_PREFIX}{WRIST}_generated"] = episode.rig.generated
    if isinstance(episode.rig, CalvinRig) and episode.rig.state == "robot_obs":
        columns, robot = _calvin_columns(episode), "calvin_franka_panda"
    else:
        columns, robot = _own_columns(dataset, episode), str(getattr(dataset, "robot", None) or "unknown")
    return Layout(int(rate), robot, pictures, columns, CODECS[codec], crf)


def _feature(view: str, key: str) -> str:
    """Return a camera's name in LeRobot: its own where it has one, else the view's."""
    return key if key.startswith(_PREFIX) else f"{_PREFIX}{view}"


def _calvin_columns(episode: Episode) -> dict[str, Column]:
    columns = {
        "observation.state": Column("robot_obs", "float32", _STATE),
        "action": Column("rel_actions", "float32", _ACTION),
    }
    kept = [key for key in _CALVIN_NUMBERS if key in episode.keys]
    first = episode.load(kept, 0, 1)
    return columns | {f"calvin.{key}": Column(key, first[key].dtype.name) for key in kept}


def _own_columns(dataset: Dataset, episode: Episode) -> dict[str, Column]:
    """Return the numbers of another data set: state and action under LeRobot's names, the rest under their own."""
    pictures = {*episode.rig.views.values(), *episode.rig.depth.values()}
    left = {"timestamp", "frame_index", "episode_index", "index", "task_index", *pictures}
    keys = [key for key in getattr(dataset, "number_keys", ()) if key in episode.keys and key not in left]
    first = episode.load(keys, 0, 1) if keys else {}
    named = {getattr(episode.rig, "state", None): "observation.state", getattr(episode.rig, "action", None): "action"}
    columns = {}
    for key in keys:
        array = first[key]
        if array.ndim > 2 or array.dtype.kind not in "fiub":
            continue
        columns[named.get(key, key.replace("/", "."))] = Column(key, array.dtype.name)
    return columns
