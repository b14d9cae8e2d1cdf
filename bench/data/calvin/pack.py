"""Unpacking a data set once into memory-mapped arrays, so that training reads at the speed of the page cache.

The result is a data set of its own, which :class:`~bench.data.calvin.CalvinDataset` opens: the index files are copied,
the frames lie in shards (:mod:`bench.data.calvin.packed`).  Shards appear whole or not at all and the plan last, so
that an interrupted pack goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from bench import atomic
from bench.data.calvin.fingerprint import dataset_hash
from bench.data.calvin.index import write_ranges
from bench.data.calvin.packed import PLAN_FILE, Pack, make_plan, read_plan, stored
from bench.data.calvin.reader import FRAME_ARRAYS, SPLITS, CalvinDataset
from bench.data.episode import Episode
from bench.errors import UserError

PACKED_KEYS = ("rgb_static", "rgb_gripper", "robot_obs", "rel_actions")
"""What a policy reads."""

_ROWS = 4096
_BATCH = 128
_DRAFT = f"unfinished_{PLAN_FILE}"
_INDEX = ("scene_info.npy", "lang_annotations/auto_lang_ann.npy", "statistics.yaml", ".hydra/merged_config.yaml")


def pack(
    dataset: CalvinDataset,
    root: Path | str,
    *,
    keys: Sequence[str] = PACKED_KEYS,
    windows_only: bool = False,
    rows_per_shard: int = _ROWS,
    each: Callable[[int], object] | None = None,
) -> CalvinDataset:
    """Unpack a split into the same split of ``root``, or finish what an earlier run began, and return it opened.

    Args:
        dataset: what to unpack; its threads unpack.
        root: folder of the packed data set; another one than the data set's.
        keys: which arrays.
        windows_only: leave out frames that lie in no language window; every unbroken run of windows becomes an
            episode of its own.
        rows_per_shard: frames in one file.
        each: called with the number of frames done since the last call.

    Raises:
        UserError: the folder holds another data set or another process packs into it, a frame is damaged, or there is
            nothing to pack.
    """
    directory = Path(root) / dataset.split
    if directory.resolve() == dataset.directory.resolve():
        raise UserError(f"{root}: expected another folder than the data set's own; choose another --out")
    draft = directory / _DRAFT
    plan = _plan(dataset, keys, windows_only, rows_per_shard)
    packed = Pack(directory, plan)
    earlier = next((path for path in (directory / PLAN_FILE, draft) if path.is_file()), None)
    if directory.exists() and (earlier is None or read_plan(earlier) != plan):
        raise UserError(f"{directory}: expected a pack of these frames, got another data set; choose another folder")
    if earlier != directory / PLAN_FILE:
        atomic.write_json(draft, plan)
        with atomic.locked(directory) as lock:
            for shard in range(packed.shards):
                _write_shard(dataset, packed, shard)
                if each is not None:
                    each(len(packed.shard_rows(shard)))
            _copy_index(dataset, packed)
            draft.replace(directory / PLAN_FILE)
            lock.unlink()
    return CalvinDataset(root, dataset.split)


def pack_dataset(
    root: Path | str,
    out: Path | str,
    *,
    keys: Sequence[str] = PACKED_KEYS,
    windows_only: bool = False,
    workers: int = 2,
    each: Callable[[int], object] | None = None,
) -> dict[str, CalvinDataset]:
    """Unpack every split that a data set has into ``out``; see :func:`pack`.

    Raises:
        UserError: there is no split, or one cannot be packed.
    """
    present = [split for split in SPLITS if (Path(root) / split).is_dir()]
    if not present:
        raise UserError(f"{root}: expected a CALVIN data set with training/ or validation/, got neither; check it")
    return {
        split: pack(
            CalvinDataset(root, split, workers=workers), out, keys=keys, windows_only=windows_only, each=each
        )
        for split in present
    }  # fmt: skip


def _plan(dataset: CalvinDataset, keys: Sequence[str], windows_only: bool, rows_per_shard: int) -> dict[str, Any]:
    stretches = [stretch for episode in dataset.episodes for stretch in _stretches(episode, windows_only)]
    if not stretches:
        raise UserError(f"{dataset.directory}: expected language windows to pack, got none; pack all frames")
    unknown = sorted(set(keys) - set(FRAME_ARRAYS))
    if unknown or not keys:
        raise UserError(f"pack: expected keys among {', '.join(FRAME_ARRAYS)}, got {unknown or 'none'}")
    first = dataset.source.read(range(stretches[0][0], stretches[0][0] + 1), keys)
    kept = {key: stored(key, array) for key, array in first.items()}
    frames = sum(last - first + 1 for first, last in stretches)
    shards = [min(rows_per_shard, frames - start) for start in range(0, frames, rows_per_shard)]
    layout = {key: (array.dtype, array.shape[1:]) for key, array in kept.items()}
    return make_plan(layout, stretches, shards, dataset_hash(dataset))


def _copy_index(dataset: CalvinDataset, packed: Pack) -> None:
    write_ranges(packed.directory, packed.stretches)
    for name in _INDEX:
        if (dataset.directory / name).is_file():
            with atomic.replacing(packed.directory / name) as temporary:
                shutil.copyfile(dataset.directory / name, temporary)


def _stretches(episode: Episode, windows_only: bool) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of the unbroken runs of frames to pack."""
    wanted = np.full(len(episode) + 2, not windows_only)
    wanted[[0, -1]] = False
    for window in episode.windows:
        wanted[1 + window.start : 1 + window.stop] = True
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8)))
    for number, (start, stop) in enumerate(pairwise(edges.tolist())):
        if number % 2 == 0:
            yield episode.first + start, episode.first + stop - 1


def _write_shard(dataset: CalvinDataset, packed: Pack, shard: int) -> None:
    """Write the shard's file of each key that is not there yet; all keys of a frame are unpacked at once."""
    keys = [key for key in packed.keys if not packed.path(key, shard).is_file()]
    if not keys:
        return
    rows = packed.shard_rows(shard)
    with atomic.new_directory(packed.directory / f"shard_{shard:04d}") as folder:
        maps = {}
        for key in keys:
            dtype, shape = packed.layout[key]
            path = folder / packed.path(key, shard).name
            maps[key] = npy_format.open_memmap(path, mode="w+", dtype=dtype, shape=(len(rows), *shape))
        for row, frames in _batches(packed, rows):
            for key, array in dataset.source.read(frames, keys).items():
                maps[key][row - rows.start : row - rows.start + len(frames)] = stored(key, array)
        for array in maps.values():
            array.flush()
    for key in keys:
        made = packed.directory / f"shard_{shard:04d}" / packed.path(key, shard).name
        made.replace(packed.path(key, shard))
    (packed.directory / f"shard_{shard:04d}").rmdir()


def _batches(packed: Pack, rows: range) -> Iterator[tuple[int, range]]:
    """Yield (row, frames) for the rows, in pieces that lie in one stretch."""
    row = 0
    for first, last in packed.stretches:
        length = last - first + 1
        low, high = max(row, rows.start), min(row + length, rows.stop)
        for piece in range(low, high, _BATCH):
            yield piece, range(first + piece - row, first + min(piece + _BATCH, high) - row)
        row += length
