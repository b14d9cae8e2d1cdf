"""Finding what is wrong with raw DROID episodes, every array and every picture.

A fault is a row, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.data.defects import CheckReport, Defect
from bench.data.droid.hdf5 import read_arrays
from bench.data.droid.reader import TRAJECTORY, DroidDataset, DroidFrames
from bench.data.episode import Episode
from bench.errors import UserError

_CAMERAS = ("wrist", "ext1", "ext2")
_GROUPS = ("observation/robot_state/", "action/", "observation/camera_")
_BATCH = 32


def check_droid(directory: Path | str, *, each: Callable[[int], object] | None = None) -> CheckReport:
    """Read every episode below a folder and report what is wrong.

    Args:
        directory: the folder.
        each: called with the number of frames done since the last call.
    """
    try:
        dataset = DroidDataset(directory)
    except UserError as error:
        return CheckReport(0, 0, 0, (Defect(str(directory), None, str(error)),))
    defects = [Defect(str(folder), None, f"left out: {reason}") for folder, reason in dataset.skipped]
    for episode in dataset.episodes:
        if isinstance(episode.source, DroidFrames):
            defects.extend(_arrays(episode, episode.source))
            defects.extend(_films(episode, episode.source))
        if each is not None:
            each(len(episode))
    return CheckReport(len(dataset), len(dataset.episodes), len(dataset.windows), tuple(dict.fromkeys(defects)))


def _arrays(episode: Episode, source: DroidFrames) -> Iterator[Defect]:
    """Compare the rows of every array with the episode's frames; look for NaN."""
    path = source.folder / TRAJECTORY
    try:
        shapes = {name: shape for name, shape in source.arrays.items() if name.startswith(_GROUPS)}
    except UserError as error:
        yield Defect(str(path), episode.first, str(error))
        return
    if path.is_file() and not shapes:
        yield Defect(str(path), episode.first, "no robot states, actions or cameras in it")
    for name, shape in shapes.items():
        if shape[0] != len(episode):
            yield Defect(str(path), episode.first, f"{name}: {shape[0]} rows for {len(episode)} frames")
            continue
        try:
            values = read_arrays(path, [name], slice(0, len(episode)))[name].reshape(len(episode), -1)
        except UserError as error:
            yield Defect(str(path), episode.first, str(error))
            continue
        if values.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                what = f"{name}: NaN or infinity in {len(bad)} frames"
                yield Defect(str(path), episode.first + int(bad[0]), what)


def _films(episode: Episode, source: DroidFrames) -> Iterator[Defect]:
    """Compare the pictures of every camera with the episode's frames, and decode them."""
    for camera in _CAMERAS:
        path = source.videos.get(camera)
        if path is None:
            if camera != "ext2" or source.serials.get(camera):
                yield Defect(str(source.folder), episode.first, f"no video of {camera}")
            continue
        try:
            video = source.cache.open(path)
            if len(video) != len(episode):
                yield Defect(str(path), episode.first, f"{len(video)} pictures for {len(episode)} frames")
            for start in range(0, min(len(video), len(episode)), _BATCH):
                video.read(range(start, min(start + _BATCH, len(video), len(episode))))
        except UserError as error:
            yield Defect(str(path), episode.first, str(error))
