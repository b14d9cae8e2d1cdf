"""A hash that says whether two splits hold the same recordings: stable between machines, cheap on a large one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from bench.data.calvin.packed import PLAN_FILE, PackedFrames
from bench.data.calvin.reader import CalvinDataset, frame_path
from bench.errors import UserError

_INDEX_FILES = ("ep_start_end_ids.npy", "scene_info.npy", "lang_annotations/auto_lang_ann.npy")
_SAMPLES = 256


def dataset_hash(dataset: CalvinDataset) -> str:
    """Return a SHA-256 over a split's recordings.

    It covers the whole content of the index files (episode ranges, scenes, language windows), the name and size of
    every frame file of an episode (of a packed split: its plan, which fixes them), and the whole content of up to 256
    frames spread evenly over them.  It does not cover file times, the folder's name, statistics, or frames outside of
    every episode; a frame changed at equal size between two samples is not noticed (``wristbench data check`` reads
    them all).  The same recordings packed and unpacked have different hashes.

    Raises:
        UserError: a frame of an episode is missing.
    """
    digest = hashlib.sha256()
    for name in _INDEX_FILES:
        path = dataset.directory / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name}:{len(content)}:".encode() + hashlib.sha256(content).digest())
    for piece in _packed(dataset, dataset.source) if isinstance(dataset.source, PackedFrames) else _unpacked(dataset):
        digest.update(piece)
    return digest.hexdigest()


def _unpacked(dataset: CalvinDataset) -> Iterator[bytes]:
    with os.scandir(dataset.directory) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(".npz")}
    total, step = len(dataset), max(1, len(dataset) // _SAMPLES)
    position = 0
    for episode in dataset.episodes:
        for frame in range(episode.first, episode.last + 1):
            path = frame_path(dataset.directory, frame)
            if path.name not in sizes:
                raise UserError(f"{path}: expected a frame of episode {episode.id}, got no such file; fetch it again")
            yield f"{path.name}:{sizes[path.name]};".encode()
            if position % step == 0 or position == total - 1:
                yield hashlib.sha256(path.read_bytes()).digest()
            position += 1


def _packed(dataset: CalvinDataset, source: PackedFrames) -> Iterator[bytes]:
    pack = source.pack
    yield (dataset.directory / PLAN_FILE).read_bytes()
    for row in sorted({*range(0, len(pack), max(1, len(pack) // _SAMPLES)), len(pack) - 1}):
        shard = pack.shard_of(row)
        for key in pack.keys:
            yield pack.map_shard(key, shard)[row - pack.shard_rows(shard).start].tobytes()
