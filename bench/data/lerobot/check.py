"""Finding what is wrong with a LeRobot data set, every number and every picture of it.

LeRobot itself stops at the first picture whose time is off by 0.1 ms, in the middle of a training; here each such
episode is a row.  A fault is a row, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.defects import CheckReport, Defect
from bench.data.lerobot import parquet
from bench.data.lerobot.reader import LeRobotDataset, picture_size
from bench.data.video import VideoFile
from bench.errors import UserError

TIME_TOLERANCE = 1e-4
"""Seconds by which LeRobot lets a time differ (its ``tolerance_s``)."""

_BATCH = 64
_FLOAT_SLACK = 2e-5
"""Seconds that float32 loses in a recording of some minutes."""


def check_lerobot(
    directory: Path | str, *, mapping: Path | None = None, each: Callable[[int], object] | None = None
) -> CheckReport:
    """Read everything in a LeRobot folder and report what is wrong.

    Args:
        directory: the folder.
        mapping: see :class:`~bench.data.lerobot.LeRobotDataset`.
        each: called with the number of frames done since the last call.
    """
    try:
        dataset = LeRobotDataset(directory, mapping=mapping)
    except UserError as error:
        return CheckReport(0, 0, 0, (Defect(str(Path(directory) / "meta"), None, str(error)),))
    defects = [*_totals(dataset), *_files(dataset)]
    checked: dict[str, dict[Path, _Film]] = {key: {} for key in dataset.meta.video_keys}
    for row in range(len(dataset.episodes)):
        defects.extend(_numbers(dataset, row))
        for key in dataset.meta.video_keys:
            defects.extend(_film(dataset, row, key, checked[key]))
        defects.extend(_stills(dataset, row))
        if each is not None:
            each(len(dataset.episodes[row]))
    for films in checked.values():
        for path, film in films.items():
            defects.extend(film.unclaimed(path))
            film.close()
    return CheckReport(len(dataset), len(dataset.episodes), len(dataset.windows), tuple(dict.fromkeys(defects)))


def _totals(dataset: LeRobotDataset) -> Iterator[Defect]:
    """Compare ``info.json`` with the episode table."""
    info, path = dataset.meta.info, str(dataset.directory / "meta" / "info.json")
    for name, told, found in (
        ("total_episodes", info.total_episodes, len(dataset.episodes)),
        ("total_frames", info.total_frames, len(dataset)),
    ):
        if told != found:
            yield Defect(path, None, f"{name}: {told}, but the episode table has {found}")


def _files(dataset: LeRobotDataset) -> Iterator[Defect]:
    """Compare each data file's number of rows with the episodes that lie in it."""
    expected: dict[Path, int] = {}
    for row in range(len(dataset.episodes)):
        path, _, stop = dataset.frames.rows(row)
        expected[path] = max(expected.get(path, 0), stop)
    for path, rows in expected.items():
        try:
            found = parquet.count_rows(path)
        except UserError as error:
            yield Defect(str(path), None, str(error))
            continue
        if found != rows:
            yield Defect(str(path), None, f"{found} rows, but its episodes have {rows} frames")


def _numbers(dataset: LeRobotDataset, row: int) -> Iterator[Defect]:
    """Read an episode's columns: NaN, times, and the numbers that must count up."""
    table = dataset.meta.episodes
    path, start, stop = dataset.frames.rows(row)
    first, number = int(table.first[row]), int(table.number[row])
    index = np.arange(stop - start)
    exact = {"frame_index": index, "episode_index": np.full(len(index), number)}
    for key, feature in dataset.meta.info.features.items():
        if not feature.is_number:
            continue
        try:
            values = parquet.read_numbers(path, key, start, stop, feature.shape, feature.dtype)
        except UserError as error:
            yield Defect(str(path), first, str(error))
            continue
        flat = values.reshape(len(values), -1)
        if flat.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
            if len(bad):
                yield Defect(str(path), first + int(bad[0]), f"{key}: NaN or infinity in {len(bad)} frames")
        if key in exact and not np.array_equal(flat[:, 0], exact[key]):
            wrong = int(np.flatnonzero(flat[:, 0] != exact[key])[0])
            what = f"{key}: {flat[wrong, 0]} where {exact[key][wrong]} belongs (episode {number})"
            yield Defect(str(path), first + wrong, what)
        if key == "timestamp":
            yield from _times(path, first, flat[:, 0].astype(np.float64), dataset.meta.info.fps)
        if key == "task_index":
            unknown = [int(task) for task in np.unique(flat[:, 0]) if int(task) not in dataset.meta.tasks]
            if unknown:
                yield Defect(str(path), first, f"task_index: {unknown[:5]} are not in the table of tasks")


def _times(path: Path, first: int, times: NDArray[np.float64], rate: float) -> Iterator[Defect]:
    apart = np.abs(times - np.arange(len(times)) / rate)
    wrong = np.flatnonzero(~(apart <= TIME_TOLERANCE + _FLOAT_SLACK))
    if len(wrong):
        at = int(wrong[0])
        what = f"timestamp: {times[at]:.5f} s where {at / rate:.5f} s belongs, in {len(wrong)} frames"
        yield Defect(str(path), first + at, what)


class _Film:
    """One video and which of its frames an episode claims."""

    def __init__(self, path: Path) -> None:
        self.fault: str | None = None
        self.video: VideoFile | None = None
        try:
            self.video = VideoFile(path)
            self.claimed = np.zeros(len(self.video), bool)
        except UserError as error:
            self.fault = str(error)

    def unclaimed(self, path: Path) -> Iterator[Defect]:
        """Tell of frames in the file that belong to no episode."""
        if self.video is not None and not self.claimed.all():
            left, at = int((~self.claimed).sum()), int(np.flatnonzero(~self.claimed)[0])
            what = f"frames: {left} of {len(self.claimed)} pictures belong to no episode, the first is number {at}"
            yield Defect(str(path), None, what)

    def close(self) -> None:
        if self.video is not None:
            self.video.close()


def _film(dataset: LeRobotDataset, row: int, key: str, films: dict[Path, _Film]) -> Iterator[Defect]:
    """Find and decode every picture of an episode's camera."""
    table, info = dataset.meta.episodes, dataset.meta.info
    first = int(table.first[row])
    try:
        path = dataset.meta.video_file(row, key)
    except UserError as error:
        yield Defect(str(dataset.directory / "meta"), first, str(error))
        return
    if path not in films:
        for other in films.values():
            other.close()
        films[path] = _Film(path)
        size = picture_size(info.features[key])
        opened = films[path].video
        if opened is not None and opened.size != size:
            yield Defect(str(path), first, f"pictures of {opened.size}, but meta/info.json says {size}")
    film = films[path]
    if film.video is None:
        yield Defect(str(path), first, film.fault or "")
        return
    begin = float(table.videos[key].start[row])
    seconds = begin + np.arange(int(table.length[row])) / info.fps
    try:
        numbers = film.video.numbers_at(seconds, TIME_TOLERANCE)
    except UserError as error:
        what = f"times: episode {table.number[row]} has no pictures within {TIME_TOLERANCE} s of its frames: {error}"
        yield Defect(str(path), first, what)
        return
    if film.claimed[numbers].any():
        yield Defect(str(path), first, f"frames: pictures of episode {table.number[row]} belong to another one too")
    film.claimed[numbers] = True
    yield from _decode(film.video, path, numbers, first)


def _decode(video: VideoFile, path: Path, numbers: NDArray[np.int64], first: int) -> Iterator[Defect]:
    for start in range(0, len(numbers), _BATCH):
        try:
            video.read(numbers[start : start + _BATCH])
        except UserError as error:
            yield Defect(str(path), first + start, str(error))
            return


def _stills(dataset: LeRobotDataset, row: int) -> Iterator[Defect]:
    """Decode the pictures that lie in the table."""
    keys = [
        key for key, feature in dataset.meta.info.features.items() if feature.is_picture and feature.dtype == "image"
    ]
    episode = dataset.episodes[row]
    for key in keys:
        for start in range(0, len(episode), _BATCH):
            try:
                episode.load((key,), start, min(start + _BATCH, len(episode)))
            except UserError as error:
                yield Defect(str(dataset.frames.rows(row)[0]), episode.first + start, str(error))
                break
