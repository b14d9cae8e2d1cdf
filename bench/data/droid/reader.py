"""DROID as it was recorded: folders of three videos and ``trajectory.h5``, and folders of videos alone.

Layout after droid-dataset/droid ``docs/the-droid-dataset.md``: an episode has ``metadata_*.json`` (camera serials,
task), ``trajectory.h5`` (states, actions, camera matrices) and ``recordings/MP4/SERIAL.mp4``, whose n-th picture
belongs to the n-th step.  Calibrations and sentences published later (``intrinsics.json``,
``cam2base_extrinsics.json``, ``droid_language_annotations.json``) are read where they lie in the data set's folder.  A
folder with ``wrist.mp4``, ``ext1.mp4`` and perhaps ``ext2.mp4`` is an episode without a trajectory.

Poses in these files are x y z (metres) and Euler angles about the fixed axes (radians), of the left lens in the robot's
base frame.  Not here: stereo videos, depth, the SVO recordings.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.arrays import printable
from bench.data.droid.hdf5 import MAX_ROWS, list_arrays, read_arrays
from bench.data.episode import Episode, Window
from bench.data.fingerprint import files_hash
from bench.data.json_yaml import read_json
from bench.data.rig import Lens
from bench.data.video import VideoCache
from bench.errors import UserError
from worldmodel.api import ANCHOR, WRIST, Camera

RATE = 15.0
"""Steps a second (DROID's control rate); the videos' own clocks say otherwise."""

TRAJECTORY = "trajectory.h5"
STATE, ACTION = "state", "action"
"""Keys of joint positions and gripper together (8), as LeRobot's DROID has them."""

_JOINED = {
    STATE: ("observation/robot_state/joint_positions", "observation/robot_state/gripper_position"),
    ACTION: ("action/joint_position", "action/gripper_position"),
}
_NUMBERS = (
    "observation/robot_state/cartesian_position",
    "observation/robot_state/joint_positions",
    "observation/robot_state/gripper_position",
    *(f"action/{what}_{how}" for what in ("cartesian", "joint", "gripper") for how in ("position", "velocity")),
)
_CAMERAS = {ANCHOR: "ext1", "anchor2": "ext2", WRIST: "wrist"}
_IMAGES = "images/"
_MAX_DEPTH = 8
_SENTENCES = ("language_instruction1", "language_instruction2", "language_instruction3")


def find_episodes(root: Path, limit: int | None = None) -> list[Path]:
    """Return the folders of episodes below ``root``, sorted; links are not followed."""
    found: list[Path] = []
    for directory, folders, files in os.walk(root):
        folders.sort()
        if TRAJECTORY in files or {"wrist.mp4", "ext1.mp4"} <= set(files):
            found.append(Path(directory))
            folders.clear()
        elif len(Path(directory).relative_to(root).parts) >= _MAX_DEPTH:
            folders.clear()
        if limit is not None and len(found) >= limit:
            break
    return sorted(found)


@dataclass(frozen=True)
class Calibration:
    """What was published later, by episode: camera matrices, poses and sentences."""

    intrinsics: Mapping[str, Any] = field(default_factory=dict)
    extrinsics: Mapping[str, Any] = field(default_factory=dict)
    language: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Calibration:
        """Return the files of a folder; absent ones are empty."""
        names = ("intrinsics.json", "cam2base_extrinsics.json", "droid_language_annotations.json")
        tables = [read_json(root / name) if (root / name).is_file() else {} for name in names]
        for name, table in zip(names, tables, strict=True):
            if not isinstance(table, dict):
                raise UserError(f"{root / name}: expected episodes by id, got {type(table).__name__}; fetch it again")
        return cls(*tables)

    def sentence(self, episode: str) -> str:
        """Return the first published sentence of an episode, or ``""``."""
        told = self.language.get(episode)
        words = [told.get(name) for name in _SENTENCES] if isinstance(told, dict) else []
        return next((word.strip() for word in words if isinstance(word, str) and word.strip()), "")

    def lens(self, episode: str, serial: str) -> tuple[float, float, float, float] | None:
        """Return (fx, fy, cx, cy) of a camera, or None; the file's order is fx, cx, fy, cy."""
        try:
            fx, cx, fy, cy = (float(value) for value in self.intrinsics[episode][serial]["cameraMatrix"])
        except (KeyError, TypeError, ValueError):
            return None
        return fx, fy, cx + 0.5, cy + 0.5

    def pose(self, episode: str, serial: str) -> tuple[float, ...] | None:
        """Return a camera's fixed pose, or None."""
        try:
            pose = tuple(float(value) for value in self.extrinsics[episode][serial])
        except (KeyError, TypeError, ValueError):
            return None
        return pose if len(pose) == 6 and np.isfinite(pose).all() else None


@dataclass(frozen=True)
class DroidFrames:
    """Reads the frames of one episode; it is also its rig.

    Attributes:
        folder: the episode's folder.
        episode: DROID's own id of it.
        first: number of its first frame.
        videos: camera (``"wrist"``, …) to its file.
        serials: camera to its serial number.
        calibration: what was published later.
        cache: open videos.
        size: (height, width) that pictures are scaled to, or None.
    """

    folder: Path
    episode: str
    first: int
    videos: Mapping[str, Path]
    serials: Mapping[str, str]
    calibration: Calibration = field(repr=False)
    cache: VideoCache = field(repr=False, compare=False)
    size: tuple[int, int] | None = None
    depth: Mapping[str, str] = field(default_factory=dict)
    generated: str = f"{_IMAGES}wrist_generated"
    state: str = STATE
    action: str = ACTION

    @cached_property
    def arrays(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every array of the trajectory; {} without one."""
        path = self.folder / TRAJECTORY
        return list_arrays(path) if path.is_file() else {}

    @property
    def views(self) -> Mapping[str, str]:
        """View name to key."""
        return {view: f"{_IMAGES}{camera}" for view, camera in _CAMERAS.items() if camera in self.videos}

    def keys(self, frame: int) -> tuple[str, ...]:
        """Return the cameras, the joined state and action, and the trajectory's arrays."""
        del frame
        joined = [key for key, parts in _JOINED.items() if all(part in self.arrays for part in parts)]
        return (*self.views.values(), *joined, *self.arrays)

    def read(self, frames: range, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return key to array (T, …)."""
        local = range(frames.start - self.first, frames.stop - self.first, frames.step)
        rows = slice(local.start, local[-1] + 1, local.step)
        pictures = [key for key in keys if key.startswith(_IMAGES)]
        unknown = [key for key in pictures if key.removeprefix(_IMAGES) not in self.videos]
        if unknown:
            raise UserError(f"{self.folder}: expected cameras {', '.join(self.videos)}, got {printable(str(unknown))}")
        names = [name for key in keys if key not in pictures for name in _JOINED.get(key, (key,))]
        stored = read_arrays(self.folder / TRAJECTORY, names, rows) if names else {}
        with ThreadPoolExecutor(max(len(pictures), 1)) as pool:
            shown = dict(zip(pictures, pool.map(lambda key: self._pictures(key, local), pictures), strict=True))
        return {key: shown[key] if key in shown else _joined(key, stored) for key in keys}

    def _pictures(self, key: str, local: range) -> NDArray[np.uint8]:
        return self.cache.open(self.videos[key.removeprefix(_IMAGES)]).read(
            np.arange(local.start, local.stop, local.step), self.size
        )

    def needs(self, views: Collection[str]) -> tuple[str, ...]:
        """Return the keys of the camera matrices and poses that were recorded for these views."""
        wanted = [name for view in views if view in self.views for name in self._names(view)]
        return tuple(name for name in wanted if name in self.arrays)

    def cameras(self, arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Camera]:
        """Return the cameras whose matrices are known."""
        frames = len(next(iter(arrays.values())))
        found = {}
        for view, size in sizes.items():
            lens = self._lens(view, arrays)
            if lens is not None:
                found[view] = lens.camera(arrays, size, frames)
        return found

    def _names(self, view: str) -> tuple[str, str]:
        serial = self.serials.get(_CAMERAS[view], "")
        return f"observation/camera_intrinsics/{serial}_left", f"observation/camera_extrinsics/{serial}_left"

    def _lens(self, view: str, arrays: Mapping[str, NDArray[Any]]) -> Lens | None:
        matrix_name, pose_name = self._names(view)
        serial = self.serials.get(_CAMERAS[view], "")
        numbers = self.calibration.lens(self.episode, serial)
        if numbers is None and matrix_name in arrays and arrays[matrix_name].shape[1:] == (3, 3):
            matrix = arrays[matrix_name][0].astype(float)
            numbers = (matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5)
        if numbers is None or not np.isfinite(numbers).all():
            return None
        stored = self.cache.open(self.videos[_CAMERAS[view]]).size
        pose = self.calibration.pose(self.episode, serial)
        recorded = pose is None and pose_name in arrays and arrays[pose_name].shape[1:] == (6,)
        return Lens(numbers, stored, pose, pose_name if recorded else None)


def _joined(key: str, stored: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    parts = [stored[name].reshape(len(stored[name]), -1) for name in _JOINED.get(key, ())]
    return np.concatenate(parts, axis=1) if parts else stored[key]


class DroidDataset:
    """All raw DROID episodes below a folder.

    Attributes:
        directory: the folder.
        episodes: its episodes, by path.
        skipped: folders that look like episodes and cannot be used, each with the reason.
    """

    format = "DROID, raw"
    robot = "franka_panda"
    rate = RATE
    number_keys = (STATE, ACTION, *_NUMBERS)

    def __init__(self, directory: Path | str, *, size: tuple[int, int] | None = None) -> None:
        """Read the metadata; no trajectory or picture is read where the metadata tells the length.

        Args:
            directory: any folder above the episodes, or one episode.
            size: (height, width) to scale pictures to; None keeps the videos' (720, 1280).

        Raises:
            UserError: there are no episodes, or none of them can be used.
        """
        self.directory = Path(directory)
        folders = find_episodes(self.directory)
        if not folders:
            raise UserError(f"{self.directory}: expected folders with trajectory.h5 or wrist.mp4, got none")
        calibration, cache = Calibration.read(self.directory), VideoCache()
        episodes: list[Episode] = []
        skipped: list[tuple[Path, str]] = []
        names: Counter[str] = Counter()
        for folder in folders:
            first = episodes[-1].last + 1 if episodes else 0
            try:
                episode = _episode(self.directory, folder, first, calibration, cache, size)
            except UserError as error:
                skipped.append((folder, str(error)))
                continue
            names[episode.id] += 1
            if names[episode.id] > 1:
                skipped.append((folder, f"{folder}: a second episode of id {episode.id}; remove one"))
                continue
            episodes.append(episode)
        if not episodes:
            raise UserError(
                f"{self.directory}: none of {len(folders)} episodes can be used; the first: {skipped[0][1]}"
            )
        self.episodes, self.skipped = tuple(episodes), tuple(skipped)
        self._by_id = {episode.id: episode for episode in episodes}

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.episodes[-1].last + 1

    def __getitem__(self, identifier: str) -> Episode:
        """Return an episode by its id."""
        if identifier in self._by_id:
            return self._by_id[identifier]
        raise UserError(f"{self.directory}: expected an episode id such as {self.episodes[0].id}, got {identifier!r}")

    @property
    def windows(self) -> tuple[tuple[Episode, Window], ...]:
        """Every language window with its episode."""
        return tuple((episode, window) for episode in self.episodes for window in episode.windows)

    def describe(self) -> dict[str, Any]:
        """Return what the data set holds, as JSON data."""
        sentences = {window.instruction for _episode, window in self.windows}
        return {
            "format": self.format,
            "robot": self.robot,
            "frames_per_second": self.rate,
            "frames": len(self),
            "episodes": len(self.episodes),
            "skipped": len(self.skipped),
            "windows": len(self.windows),
            "instructions": len(sentences),
            "keys": list(self.episodes[0].keys),
            "views": dict(self.episodes[0].rig.views),
            "longest_episode": max(map(len, self.episodes)),
        }

    def hash(self) -> str:
        """Return a SHA-256 over the episodes' files: name, size and end of each."""
        folders = find_episodes(self.directory)
        return files_hash(self.directory, (path for folder in folders for path in folder.rglob("*") if path.is_file()))


def _episode(
    root: Path, folder: Path, first: int, calibration: Calibration, cache: VideoCache, size: tuple[int, int] | None
) -> Episode:
    metadata = _metadata(folder)
    own = metadata.get("uuid")
    place = "_".join(folder.relative_to(root).parts) or folder.name
    identifier = own if isinstance(own, str) and own else place
    serials = {camera: str(metadata.get(f"{camera}_cam_serial", "")) for camera in _CAMERAS.values()}
    videos = {camera: path for camera, serial in serials.items() if (path := _video(folder, camera, serial))}
    if WRIST not in videos and not any(camera in videos for camera in ("ext1", "ext2")):
        raise UserError(f"{folder}: expected videos of ext1, ext2 or wrist, got none; fetch the recordings")
    frames = DroidFrames(folder, identifier, first, videos, serials, calibration, cache, size)
    length = _length(folder, metadata, frames)
    task = metadata.get("current_task")
    task = task.strip() if isinstance(task, str) else ""
    sentence = calibration.sentence(identifier) or task
    windows = (Window(0, length, task or sentence, sentence),) if sentence else ()
    safe = re.sub(r"^\.|[^\w.+-]", "_", identifier)[:120]
    return Episode(safe, "", first, first + length - 1, windows, frames, frames)


def _metadata(folder: Path) -> dict[str, Any]:
    for path in sorted(folder.glob("metadata_*.json")):
        content = read_json(path)
        if not isinstance(content, dict):
            raise UserError(f"{path}: expected a mapping, got {type(content).__name__}; fetch it again")
        return content
    return {}


def _video(folder: Path, camera: str, serial: str) -> Path | None:
    """Return a camera's file: by its serial number, or by its role in a folder of videos alone."""
    numbered = [folder / "recordings" / "MP4" / f"{serial}.mp4"] if serial.isalnum() and len(serial) < 100 else []
    return next((path for path in (*numbered, folder / f"{camera}.mp4") if path.is_file()), None)


def _length(folder: Path, metadata: Mapping[str, Any], frames: DroidFrames) -> int:
    told = metadata.get("trajectory_length")
    if type(told) is int and 0 < told <= MAX_ROWS:
        return told
    if (folder / TRAJECTORY).is_file():
        for name in _NUMBERS:
            if name in frames.arrays:
                return frames.arrays[name][0]
        raise UserError(f"{folder / TRAJECTORY}: expected robot states or actions, got neither; fetch it again")
    return min(len(frames.cache.open(path)) for path in frames.videos.values())
