"""A split's index files as CALVIN has them: ranges, scenes, language windows, statistics, configuration.

Layout after calvin_env ``datarenderer.py``; the two object arrays are pickles because the original reads pickles, in
the module paths that every NumPy understands.  The frames themselves are written elsewhere.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from bench import atomic
from bench.data.calvin.config import merged_config
from bench.data.calvin.recorded import Entry

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Sentences to vectors (N, D)."""

EMBEDDING_SIZE = 384
"""Width of the original's default sentence embeddings (paraphrase-MiniLM-L6-v2), and of all-MiniLM-L6-v2."""

_STD_FLOOR = 1e-4


def write_index(directory: Path, entries: Sequence[Entry], first_frame: int, embed: Embed | None = None) -> None:
    """Write everything but the frames of a split.

    Args:
        directory: the split's folder.
        entries: its episodes in order; the episodes of a scene follow one another.
        first_frame: number of the first one's first frame; the rest follow without a gap.
        embed: sentences to embeddings (N, D).  Without one the file's embeddings are NaN: CALVIN's own agents would
            train on zeros without a word.
    """
    ends = first_frame + np.cumsum([entry["frames"] for entry in entries])
    firsts = np.concatenate([[first_frame], ends[:-1]])
    write_ranges(directory, zip(firsts.tolist(), (ends - 1).tolist(), strict=True))
    scenes: dict[str, list[int]] = {}
    for entry, first, end in zip(entries, firsts.tolist(), ends.tolist(), strict=True):
        scenes.setdefault(f"calvin_scene_{entry['scene']}", [first, end - 1])[1] = end - 1
    save_object_npy(directory / "scene_info.npy", scenes)
    annotations = _annotations(entries, firsts.tolist(), embed)
    save_object_npy(directory / "lang_annotations" / "auto_lang_ann.npy", annotations)
    atomic.write_text(directory / "statistics.yaml", yaml.safe_dump(_statistics(entries), sort_keys=False))
    config = yaml.safe_dump(merged_config(entries[-1]["scene"]), sort_keys=False)
    atomic.write_text(directory / ".hydra" / "merged_config.yaml", config)


def write_ranges(directory: Path, ranges: Iterable[tuple[int, int]]) -> None:
    """Write ``ep_start_end_ids.npy`` and ``ep_lens.npy`` for (first, last) of each episode."""
    table = np.array(list(ranges), dtype=np.int64)
    for name, array in (("ep_start_end_ids", table), ("ep_lens", table[:, 1] - table[:, 0] + 1)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        atomic.write_bytes(directory / f"{name}.npy", buffer.getvalue())


def save_object_npy(path: Path, value: Any) -> None:
    """Write ``value`` as ``np.save`` writes an object, in module paths that NumPy 1 and 2 both resolve."""
    array = np.empty((), dtype=object)
    array[()] = value
    buffer = io.BytesIO()
    npy_format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    buffer.write(pickle.dumps(array, protocol=3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    atomic.write_bytes(path, buffer.getvalue())


def _annotations(entries: Sequence[Entry], firsts: Sequence[int], embed: Embed | None) -> dict[str, Any]:
    windows = [(first, *window) for entry, first in zip(entries, firsts, strict=True) for window in entry["windows"]]
    # A pickle tells equal strings from one and the same: without this the bytes would hang on who made the strings.
    sentences = [sys.intern(sentence) for _first, _start, _stop, _task, sentence in windows]
    vectors = np.full((len(windows), EMBEDDING_SIZE), np.nan, dtype=np.float32)
    if embed is not None and sentences:
        vectors = np.asarray(embed(sentences), dtype=np.float32)
    spans = [(np.int64(first + start), np.int64(first + stop - 1)) for first, start, stop, *_ in windows]
    tasks = [sys.intern(task) for _first, _start, _stop, task, _sentence in windows]
    return {
        "language": {"ann": sentences, "task": tasks, "emb": vectors[:, None]},
        "info": {"episodes": [], "indx": spans},
    }


def _statistics(entries: Sequence[Entry]) -> dict[str, Any]:
    counts = np.array([entry["frames"] for entry in entries], dtype=np.float64)[:, None]
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
