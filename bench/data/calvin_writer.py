"""CALVIN's on-disk format, written: the files, keys and types of the original, readable by its own loader.

Frames go to a hidden folder beside the split; a journal tells which episodes are whole.  ``finish`` writes the index
files and renames the folder, so a split that exists is complete and a killed run goes on where it stopped.
Layout after calvin_env ``datarenderer.py``; the two object arrays are pickles because the original reads pickles, in
the module paths that every NumPy understands.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from bench import atomic
from bench.data.calvin import FRAME_ARRAYS, REQUIRED, CalvinDataset, frame_path, relative_actions, scene_letter
from bench.data.calvin_config import merged_config
from bench.data.episode import Window
from bench.errors import UserError

_DTYPES = {key: "float32" if key.startswith("depth") else spec.dtypes[0] for key, spec in FRAME_ARRAYS.items()}
_STD_FLOOR = 1e-4
_WORKERS = 4
EMBEDDING_SIZE = 384
"""Width of the original's default sentence embeddings (paraphrase-MiniLM-L6-v2)."""


class CalvinWriter:
    """Writes one split, episode by episode.

    Attributes:
        directory: folder of the finished split.
        done: names of the episodes that are already written, for a run that continues.
    """

    def __init__(self, directory: Path | str, split: str = "training", *, first_frame: int = 0) -> None:
        """Open a new split, or one that an earlier run left unfinished.

        Args:
            directory: root of the data set.
            split: ``"training"`` or ``"validation"``.
            first_frame: number of the first frame of a new split; the splits of a data set share one numbering.

        Raises:
            UserError: the split is already finished.
        """
        self.directory = Path(directory) / split
        if self.directory.exists():
            raise UserError(f"{self.directory}: expected a new split, it exists already; choose another folder")
        self._partial = Path(directory) / f".{split}.partial"
        self._partial.mkdir(parents=True, exist_ok=True)
        self._journal = self._partial / "journal.jsonl"
        self._entries = _read_journal(self._journal)
        self._first_frame = first_frame
        written = {frame for entry in self._entries for frame in range(entry["first"], entry["last"] + 1)}
        for path in self._partial.glob("episode_*.npz"):
            if int(path.stem.removeprefix("episode_")) not in written:
                path.unlink()

    @property
    def done(self) -> frozenset[str]:
        """Names of the episodes that are already written."""
        return frozenset(entry["name"] for entry in self._entries)

    def __len__(self) -> int:
        """Return the number of frames written."""
        return sum(entry["last"] - entry["first"] + 1 for entry in self._entries)

    def add_episode(
        self, frames: Mapping[str, NDArray[Any]], windows: Sequence[Window] = (), scene: str = "D", name: str = ""
    ) -> str:
        """Write one episode and return its id.

        Args:
            frames: key to array (T, …) in CALVIN's names and shapes; depth, touch and ``"executed_actions"`` may be
                absent.  Without ``"actions"`` all arrays hold T + 1 frames: the action of a frame is the pose of the
                next, and the last is not written.  Without ``"rel_actions"`` they follow from actions and poses.
            windows: its instructions, in indices of the T written frames.
            scene: the scene's letter; the episodes of a scene must follow one another.
            name: what to find it by in :attr:`done`.

        Raises:
            UserError: an array is missing or of another shape or type, a window ends outside, or a scene returns.
        """
        arrays = _complete(frames)
        length = len(arrays["robot_obs"])
        for window in windows:
            if window.stop > length:
                raise UserError(f"window {window}: expected to end within {length} frames; shorten it")
        scene_letter(f"calvin_scene_{scene}")
        scenes = [entry["scene"] for entry in self._entries]
        if scene in scenes and scenes[-1] != scene:
            raise UserError(
                f"scene {scene}: expected its episodes in a row, got them after {scenes[-1]}; sort by scene"
            )
        first = self._entries[-1]["last"] + 1 if self._entries else self._first_frame

        def write(index: int) -> None:
            row = {key: array[index] for key, array in arrays.items()}
            _write_frame(frame_path(self._partial, first + index), row)

        with ThreadPoolExecutor(_WORKERS) as pool:
            for _ in pool.map(write, range(length)):
                pass
        entry = {
            "name": name,
            "scene": scene,
            "first": first,
            "last": first + length - 1,
            "windows": [[window.start, window.stop, window.task, window.instruction] for window in windows],
            "moments": _moments(arrays),
        }
        _append(self._journal, json.dumps(entry) + "\n")
        self._entries.append(entry)
        return f"{first:07d}"

    def finish(self, embed: Callable[[Sequence[str]], NDArray[np.float32]] | None = None) -> CalvinDataset:
        """Write the index files, give the split its name and return it opened.

        Args:
            embed: sentences to embeddings (N, D).  Without one the file's embeddings are NaN: CALVIN's own agents
                would train on zeros without a word.

        Raises:
            UserError: no episode was written.
        """
        if not self._entries:
            raise UserError(f"{self.directory}: expected at least one episode, got none; collect some first")
        entries = self._entries
        ranges = np.array([(entry["first"], entry["last"]) for entry in entries], dtype=np.int64)
        _save(self._partial / "ep_start_end_ids.npy", ranges)
        _save(self._partial / "ep_lens.npy", ranges[:, 1] - ranges[:, 0] + 1)
        scenes: dict[str, list[int]] = {}
        for entry in entries:
            span = scenes.setdefault(f"calvin_scene_{entry['scene']}", [entry["first"], entry["last"]])
            span[1] = entry["last"]
        save_object_npy(self._partial / "scene_info.npy", scenes)
        save_object_npy(self._partial / "lang_annotations" / "auto_lang_ann.npy", _annotations(entries, embed))
        atomic.write_text(self._partial / "statistics.yaml", yaml.safe_dump(_statistics(entries), sort_keys=False))
        config = yaml.safe_dump(merged_config(entries[-1]["scene"]), sort_keys=False)
        atomic.write_text(self._partial / ".hydra" / "merged_config.yaml", config)
        self._journal.unlink()
        self._partial.rename(self.directory)
        return CalvinDataset(self.directory.parent, self.directory.name)


def _append(path: Path, line: str) -> None:
    """Add a line to the journal, whole or not at all: on a full disk the journal is as before."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("a") as journal:
            journal.write(line)
            journal.flush()
            os.fsync(journal.fileno())
    except OSError:
        if path.is_file():
            os.truncate(path, size)
        raise


def _read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the journal and cut off a torn last one."""
    if not path.is_file():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        atomic.write_text(path, whole)
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError:
        raise UserError(
            f"{path}: expected JSON lines, got damaged ones; delete {path.parent} and begin again"
        ) from None


def _complete(frames: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of the T frames in the file's types, actions included."""
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


def _write_frame(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with path.open("wb") as stream:
        # The fastest level: a third more bytes of depth, a twentieth more of images, half of the time.
        with zipfile.ZipFile(stream, "w") as archive:
            for key, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                member = zipfile.ZipInfo(f"{key}.npy")
                archive.writestr(member, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
        stream.flush()
        os.fsync(stream.fileno())


def _save(path: Path, array: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    atomic.write_bytes(path, buffer.getvalue())


def save_object_npy(path: Path, value: Any) -> None:
    """Write ``value`` as ``np.save`` writes an object, in module paths that NumPy 1 and 2 both resolve."""
    array = np.empty((), dtype=object)
    array[()] = value
    buffer = io.BytesIO()
    npy_format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    buffer.write(pickle.dumps(array, protocol=3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    atomic.write_bytes(path, buffer.getvalue())


def _annotations(
    entries: Sequence[Mapping[str, Any]], embed: Callable[[Sequence[str]], NDArray[np.float32]] | None
) -> dict[str, Any]:
    windows = [(entry["first"], *window) for entry in entries for window in entry["windows"]]
    sentences = [sentence for _first, _start, _stop, _task, sentence in windows]
    vectors = np.full((len(windows), EMBEDDING_SIZE), np.nan, dtype=np.float32)
    if embed is not None and sentences:
        vectors = np.asarray(embed(sentences), dtype=np.float32)
    spans = [(np.int64(first + start), np.int64(first + stop - 1)) for first, start, stop, *_ in windows]
    tasks = [task for _first, _start, _stop, task, _sentence in windows]
    return {
        "language": {"ann": sentences, "task": tasks, "emb": vectors[:, None]},
        "info": {"episodes": [], "indx": spans},
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


def _statistics(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = np.array([entry["last"] - entry["first"] + 1 for entry in entries], dtype=np.float64)[:, None]
    content: dict[str, Any] = {}
    for key in ("robot_obs", "scene_obs"):
        means = np.array([entry["moments"][key]["mean"] for entry in entries])
        squares = np.array([entry["moments"][key]["squares"] for entry in entries])
        mean = (counts * means).sum(0) / counts.sum()
        variance = (squares + counts * np.square(means - mean)).sum(0) / counts.sum()
        std = np.maximum(np.sqrt(variance), _STD_FLOOR)
        target = "calvin_models.calvin_agent.utils.transforms.NormalizeVector"
        content[key] = [{"_target_": target, "mean": mean.tolist(), "std": std.tolist()}]
    content["act_min_bound"] = np.min([entry["moments"]["low"] for entry in entries], axis=0).tolist()
    content["act_max_bound"] = np.max([entry["moments"]["high"] for entry in entries], axis=0).tolist()
    return content
