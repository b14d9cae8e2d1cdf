"""Training frames of stage 2 on disk: wrist, anchors and condition maps of every frame, at the model's sizes.

Clips may overlap: a frame that several of them show is kept, and conditioned, once.  Making condition maps costs far
more than reading them, so they are kept in chunks named by a hash of what they were made from: a store that was
interrupted goes on with the next chunk, and other clips or another stage 1 never meet a stale one.

Not here: how condition maps are made (stage 1), encoding to latents (done per batch: cheap where the codec is linear).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldmodel.api import WRIST, Camera, Clip, ClipSource, WorldModelError
from worldmodel.conditioner import Conditioner
from worldmodel.stage2_config import Stage2Config
from worldmodel.vae import frames_to_tensor, tensor_to_frames

CHUNK_FRAMES = 64
PARTS = ("wrist", "anchors", "condition")


def resize(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 frames (T, H, W, 3) to ``size`` (height, width), antialiased."""
    if frames.shape[1:3] == size:
        return frames
    return tensor_to_frames(frames_to_tensor(frames, size), size)


def anchor_stack(clip: Clip, side: int) -> NDArray[np.uint8]:
    """Return all anchor views of a clip, resized: uint8 (T, V, side, side, 3)."""
    if not clip.anchors:
        raise WorldModelError(f"clip of episode {clip.episode!r}: expected a view 'anchor', got {sorted(clip.views)}")
    return np.stack([resize(clip.views[name], (side, side)) for name in clip.anchors], axis=1)


@dataclass(frozen=True)
class Window:
    """T consecutive frames of one clip, or a batch of such: uint8 arrays, channels last.

    Attributes:
        wrist: (T, H, W, 3).
        anchors: (T, V, S, S, 3).
        condition: (T, H, W, 3).
    """

    wrist: NDArray[np.uint8]
    anchors: NDArray[np.uint8]
    condition: NDArray[np.uint8]


class FrameStore:
    """All training frames and the windows of T of them that a clip shows one after the other."""

    def __init__(self, chunks: list[Path], windows: list[list[tuple[int, int]]]) -> None:
        """Open a complete store.

        Args:
            chunks: of each chunk, its path without the part's name.
            windows: of each window, (chunk, row) of its T frames.
        """
        self.windows = windows
        self._chunks = [
            {part: np.load(_file(chunk, part), mmap_mode="r", allow_pickle=False) for part in PARTS} for chunk in chunks
        ]
        views = sorted({chunk["anchors"].shape[1] for chunk in self._chunks})
        if len(views) != 1:
            raise WorldModelError(f"training clips have different numbers of anchor views: {views}; use one number")

    @classmethod
    def build(
        cls,
        directory: Path,
        clips: ClipSource,
        conditioner: Conditioner,
        config: Stage2Config,
        tick: Callable[[int, int], None] | None = None,
    ) -> FrameStore:
        """Make what is missing in ``directory``, and open it.

        Args:
            directory: the folder.
            clips: training clips, each with a wrist view.
            conditioner: makes the condition maps.
            config: sizes, and T.
            tick: told (clips done, clips in all).

        Raises:
            WorldModelError: there is no clip, or one lacks its wrist view.
        """
        directory.mkdir(parents=True, exist_ok=True)
        builder = _Builder(directory, conditioner, config)
        for index in range(len(clips)):
            builder.add(clips[index])
            if tick is not None:
                tick(index + 1, len(clips))
        builder.flush()
        if not builder.windows:
            raise WorldModelError("stage 2: expected at least one training clip, got none")
        return cls(builder.chunks, builder.windows)

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.windows)

    def batch(self, numbers: Iterable[int]) -> Window:
        """Return some windows, stacked: every array has a leading B."""
        chosen = [self.windows[number] for number in numbers]
        return Window(
            **{
                part: np.stack([np.stack([self._chunks[chunk][part][row] for chunk, row in rows]) for rows in chosen])
                for part in PARTS
            }
        )

    def sample_frames(self, part: str, count: int) -> NDArray[np.uint8]:
        """Return about ``count`` frames of one part, evenly spread over all: uint8 (N, …)."""
        step = max(1, sum(len(chunk[part]) for chunk in self._chunks) // count)
        return np.concatenate([np.asarray(chunk[part][::step]) for chunk in self._chunks])


class _Builder:
    """Takes clips one by one and writes each new frame into a chunk."""

    def __init__(self, directory: Path, conditioner: Conditioner, config: Stage2Config) -> None:
        self.directory, self.conditioner, self.config = directory, conditioner, config
        sizes = [config.size, config.anchor.image_size]
        self.made_from = json.dumps([sizes, conditioner.provenance()], sort_keys=True)
        self.chunks: list[Path] = []
        self.windows: list[list[tuple[int, int]]] = []
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        self._pending: list[Clip] = []

    def add(self, clip: Clip) -> None:
        """Queue the frames of a clip that are not yet known, and list its windows."""
        if WRIST not in clip.views:
            raise WorldModelError(
                f"stage 2 trains on recorded wrist views; episode {clip.episode!r} has only {sorted(clip.views)}: "
                "give it the paired share"
            )
        if self._pending and _kind(self._pending[-1]) != _kind(clip):
            self.flush()
        names = [(clip.episode, clip.start + index * clip.stride) for index in range(len(clip))]
        new = [index for index, name in enumerate(names) if name not in self._places]
        row = sum(map(len, self._pending))
        self._places.update({names[index]: (len(self.chunks), row + k) for k, index in enumerate(new)})
        if new:
            self._pending.append(_rows(clip, new))
        rows = [self._places[name] for name in names]
        T = self.config.frames
        rows += rows[-1:] * (T - len(rows))
        self.windows += [rows[start : start + T] for start in range(len(rows) - T + 1)]
        if row + len(new) >= CHUNK_FRAMES:
            self.flush()

    def flush(self) -> None:
        """Write the queued frames as a chunk, unless it is already there."""
        if not self._pending:
            return
        clip = _joined(self._pending)
        self._pending = []
        chunk = self.directory / hashlib.sha256((self.made_from + _content(clip)).encode()).hexdigest()[:24]
        self.chunks.append(chunk)
        # The last part is written last, so its presence says that the chunk is complete.
        if not _file(chunk, PARTS[-1]).exists():
            for part, array in zip(PARTS, self._parts(clip), strict=True):
                _save(_file(chunk, part), array)

    def _parts(self, clip: Clip) -> tuple[NDArray[np.uint8], ...]:
        maps, _ = self.conditioner.condition(clip.without(WRIST), self.config.size)
        wanted = (len(clip), *self.config.size, 3)
        if maps.shape != wanted or maps.dtype != np.uint8:
            raise WorldModelError(f"condition maps: expected uint8 {wanted}, got {maps.dtype} {maps.shape}")
        return resize(clip.views[WRIST], self.config.size), anchor_stack(clip, self.config.anchor.image_size), maps


def _kind(clip: Clip) -> tuple[object, ...]:
    """What clips must share to be conditioned together."""
    shapes = tuple((name, clip.views[name].shape[1:]) for name in sorted(clip.views))
    cameras = tuple((name, clip.cameras[name].intrinsics.tobytes()) for name in sorted(clip.cameras))
    return clip.episode, shapes, cameras


def _rows(clip: Clip, rows: list[int]) -> Clip:
    """Return some frames of a clip; depth is left out, as no generator may need it."""
    cameras = {
        name: replace(camera, camera_from_world=None if (pose := camera.camera_from_world) is None else pose[rows])
        for name, camera in clip.cameras.items()
    }
    views = {name: frames[rows] for name, frames in clip.views.items()}
    return replace(clip, views=views, cameras=cameras, depth={}, start=clip.start + rows[0] * clip.stride)


def _joined(clips: list[Clip]) -> Clip:
    first = clips[0]
    cameras: dict[str, Camera] = {}
    for name, camera in first.cameras.items():
        poses = [clip.cameras[name].camera_from_world for clip in clips]
        known = [pose for pose in poses if pose is not None]
        cameras[name] = replace(camera, camera_from_world=np.concatenate(known) if len(known) == len(poses) else None)
    views = {name: np.concatenate([clip.views[name] for clip in clips]) for name in first.views}
    return replace(first, views=views, cameras=cameras)


def _content(clip: Clip) -> str:
    digest = hashlib.sha256(repr(_kind(clip)).encode())
    for name in sorted(clip.views):
        digest.update(np.ascontiguousarray(clip.views[name]).tobytes())
    return digest.hexdigest()


def _file(chunk: Path, part: str) -> Path:
    return chunk.with_name(f"{chunk.name}.{part}.npy")


def _save(path: Path, array: NDArray[np.uint8]) -> None:
    beside = path.with_name(f".{path.name}")
    np.save(beside, array)
    beside.replace(path)
