"""Clips for the world model: T frames of an episode with their cameras, and the split into paired and unpaired.

The data set's names end here: its rig (:mod:`bench.data.rig`) says which key is which view, so CALVIN's ``rgb_static``
becomes ``"anchor"`` and ``rgb_gripper`` ``"wrist"``.  Camera poses come from what was recorded, not from a simulator.
Not here: any network.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.episode import Dataset, Episode
from bench.errors import UserError
from worldmodel.api import WRIST, Clip


def _keys(episode: Episode, wrist: bool, depth: bool) -> tuple[str, ...]:
    """Return the keys that a clip of this episode is made of."""
    rig = episode.rig
    views = [view for view in rig.views if wrist or view != WRIST]
    wanted = [*rig.needs(views), *(rig.views[view] for view in views)]
    if depth and rig.depth:
        recorded = episode.keys
        wanted += [rig.depth[view] for view in views if rig.depth.get(view) in recorded]
    return tuple(dict.fromkeys(wanted))


def _clip(episode: Episode, arrays: dict[str, NDArray[Any]], start: int, stop: int, stride: int) -> Clip:
    rig = episode.rig
    views = {view: arrays[key] for view, key in rig.views.items() if key in arrays}
    sizes = {view: (frames.shape[1], frames.shape[2]) for view, frames in views.items()}
    return Clip(
        views=views,
        cameras=rig.cameras(arrays, sizes),
        depth={view: arrays[key].astype(np.float32, copy=False) for view, key in rig.depth.items() if key in arrays},
        episode=episode.id,
        start=start,
        stride=stride,
        instruction=episode.instruction_at(start, stop),
    )


def read_clip(
    episode: Episode,
    start: int = 0,
    stop: int | None = None,
    *,
    stride: int = 1,
    wrist: bool = True,
    depth: bool = True,
) -> Clip:
    """Return the frames ``start:stop:stride`` of an episode as a clip.

    Args:
        episode: of any data set.
        start: index of the first frame within the episode.
        stop: index after the last; None means the episode's end.
        stride: episode frames between two clip frames.
        wrist: whether the wrist view, its camera and its depth are read; without it they are absent.
        depth: whether depth is read where it was recorded.

    Raises:
        UserError: the range leaves the episode, or a frame is damaged.
    """
    stop = len(episode) if stop is None else stop
    arrays = episode.load(_keys(episode, wrist, depth), start, stop, stride)
    return _clip(episode, arrays, start, stop, stride)


def clip_starts(frames: int, span: int, hop: int) -> tuple[int, ...]:
    """Return the starts of stretches of ``span`` frames, ``hop`` apart, the last one flush with the end.

    Every frame lies in a stretch (where ``hop <= span``); no stretch leaves the episode; a shorter episode has none.
    """
    if frames < span:
        return ()
    starts = list(range(0, frames - span + 1, hop))
    if starts[-1] != frames - span:
        starts.append(frames - span)
    return tuple(starts)


class ClipDataset:
    """The clips of some episodes, in order: a ``worldmodel.api.ClipSource``.

    Attributes:
        episodes: the episodes that clips are taken from.
        length: T, frames of a clip.
        stride: episode frames between two clip frames.
    """

    def __init__(
        self,
        dataset: Dataset | Sequence[Episode],
        *,
        length: int,
        stride: int = 1,
        hop: int | None = None,
        episodes: Collection[str] | None = None,
        wrist: bool = True,
        depth: bool = True,
        cache: bool = True,
        cache_bytes: int = 1 << 30,
    ) -> None:
        """List the clips; no frame is read.

        Args:
            dataset: a data set, or some of its episodes.
            length: T, frames of a clip.
            stride: episode frames between two clip frames.
            hop: episode frames between the starts of two clips; None means that they do not overlap.
            episodes: ids of those to use; None means all.
            wrist: whether clips have the true wrist view.
            depth: whether clips have depth where it was recorded.
            cache: whether unpacked episodes are kept in memory.
            cache_bytes: most memory that they may take; the longest unused goes first.

        Raises:
            UserError: an unknown id, or no episode is long enough for one clip.
        """
        if min(length, stride, 1 if hop is None else hop) < 1:
            raise UserError(f"clips: expected length, stride and hop of at least 1, got {length}, {stride}, {hop}")
        self.episodes = _chosen(_episodes_of(dataset), episodes)
        self.length = length
        self.stride = stride
        self._span = (length - 1) * stride + 1
        self._wrist, self._depth = wrist, depth
        self._index = [
            (number, start)
            for number, episode in enumerate(self.episodes)
            for start in clip_starts(len(episode), self._span, length * stride if hop is None else hop)
        ]
        if not self._index:
            longest = max((len(episode) for episode in self.episodes), default=0)
            raise UserError(
                f"clips: expected an episode of at least {self._span} frames (length {length}, stride {stride}), "
                f"got {len(self.episodes)} of at most {longest}; ask for shorter clips"
            )
        self._cache: OrderedDict[str, dict[str, NDArray[Any]]] = OrderedDict()
        self._cache_bytes, self._cached = cache_bytes if cache else 0, 0
        self._lock = Lock()

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._index)

    def __iter__(self) -> Iterator[Clip]:
        """Iterate over the clips, by episode and start."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Clip:
        """Return one clip; its arrays are the caller's own.

        Raises:
            UserError: one of its frames is missing or damaged.
        """
        number, start = self._index[index]
        episode = self.episodes[number]
        stop = start + self._span
        held = self._held(episode)
        if held is None:
            return read_clip(episode, start, stop, stride=self.stride, wrist=self._wrist, depth=self._depth)
        arrays = {key: array[start : stop : self.stride].copy() for key, array in held.items()}
        return _clip(episode, arrays, start, stop, self.stride)

    def _held(self, episode: Episode) -> dict[str, NDArray[Any]] | None:
        """Return the episode's arrays from the cache, reading them if they fit; None where they do not."""
        with self._lock:
            if episode.id in self._cache:
                self._cache.move_to_end(episode.id)
                return self._cache[episode.id]
            keys = _keys(episode, self._wrist, self._depth)
            if self._cache_bytes <= 0:
                return None
            frame = episode.load(keys, 0, 1)
            size = len(episode) * sum(array.nbytes for array in frame.values())
            if size > self._cache_bytes:
                return None
            while self._cached + size > self._cache_bytes:
                _, dropped = self._cache.popitem(last=False)
                self._cached -= sum(array.nbytes for array in dropped.values())
            arrays = self._cache[episode.id] = episode.load(keys)
            self._cached += size
            return arrays


def _episodes_of(dataset: Dataset | Sequence[Episode]) -> tuple[Episode, ...]:
    return tuple(dataset) if isinstance(dataset, Sequence) else dataset.episodes


def _chosen(episodes: tuple[Episode, ...], wanted: Collection[str] | None) -> tuple[Episode, ...]:
    if wanted is None:
        return episodes
    unknown = sorted(set(wanted) - {episode.id for episode in episodes})
    if unknown:
        raise UserError(f"clips: expected ids of this data set's episodes, got {unknown[:5]}")
    return tuple(episode for episode in episodes if episode.id in wanted)


def split_paired(
    dataset: Dataset | Sequence[Episode], share: float, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (ids of the paired episodes, ids of the unpaired): whole episodes, never frames.

    The choice hangs on the ids and the seed alone, not on order or machine.  With two episodes or more each side has
    at least one, unless the share is exactly 0 or 1.

    Args:
        dataset: a data set, or some of its episodes.
        share: of the episodes that are paired, 0 to 1.
        seed: another seed, another choice.

    Raises:
        UserError: the share is out of range, or there are no episodes.
    """
    ids = [episode.id for episode in _episodes_of(dataset)]
    if not 0 <= share <= 1 or not ids:
        raise UserError(f"paired share: expected 0 to 1 of at least one episode, got {share} of {len(ids)}")
    drawn = sorted(ids, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    count = round(share * len(ids))
    if 0 < share < 1:
        count = min(max(count, 1), max(len(ids) - 1, 1))
    paired = set(drawn[:count])
    return tuple(name for name in ids if name in paired), tuple(name for name in ids if name not in paired)
