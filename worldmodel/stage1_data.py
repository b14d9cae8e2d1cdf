"""What stage 1 trains on, in memory: resized anchors, their depth, cameras, and pixel pairs with the wrist.

Not here: reading data sets (a :class:`~worldmodel.api.ClipSource` does) and finding pairs (``tracks.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel import geometry
from worldmodel.api import WRIST, Clip, ClipSource, WorldModelError
from worldmodel.tracks import Pairs, Tracker

Progress = Callable[[str, int, int], None]


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 images (B, 3, H, W) to ``size``, averaging where they shrink; returns uint8."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images.float(), size=size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Frames:
    """N frames, each on its own: stage 1 has no notion of time.

    Attributes:
        anchors: uint8 (N, V, 3, h, w).
        depth: float32 (N, V, h, w) metres, 0 where unknown; None without depth.
        intrinsics: float32 (N, V, 3, 3) of the anchors in pixels of (h, w); None where unknown.
        poses: float32 (N, V, 4, 4) ``view_from_first``; None where unknown.
        wrist_intrinsics: float32 (N, 3, 3).
        wrist_size: height and width of the wrist image.
        wrist_poses: float32 (N, 4, 4) true ``wrist_from_anchor``, read by evaluation and by the ablation with
            ``pose_supervision`` only; None where unknown.
        offsets: int64 (N + 1,), frame n owns the pairs ``offsets[n]:offsets[n + 1]``.
        pair_wrist: float32 (P, 2) wrist pixels of all pairs.
        pair_anchor: float32 (P, 2) anchor pixels of (h, w).
        pair_view: int64 (P,).
        pair_depth: float32 (P,) metres, the anchor's recorded depth at its pixel, 0 where unknown.
        digest: hash of what training sees.
    """

    anchors: Tensor
    depth: Tensor | None
    intrinsics: Tensor | None
    poses: Tensor | None
    wrist_intrinsics: Tensor
    wrist_size: tuple[int, int]
    wrist_poses: Tensor | None
    offsets: Tensor
    pair_wrist: Tensor
    pair_anchor: Tensor
    pair_view: Tensor
    pair_depth: Tensor
    digest: str

    def __len__(self) -> int:
        """Return N."""
        return len(self.anchors)

    @property
    def paired(self) -> Tensor:
        """Indices of the frames that have at least one pair."""
        return (self.offsets[1:] > self.offsets[:-1]).nonzero()[:, 0]

    def draw_pairs(self, frames: Tensor, count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``count`` pairs of each of these frames (B,), with repetition where there are fewer.

        Returns:
            Indices (B, count) into the pair arrays, and which of them are real (all, unless a frame has none).
        """
        first, last = self.offsets[frames], self.offsets[frames + 1]
        share = torch.from_numpy(random.random((len(frames), count)))
        chosen = first[:, None] + (share * (last - first)[:, None]).long()
        real = (last > first)[:, None].expand(-1, count)
        return torch.where(real, chosen, torch.zeros_like(chosen)), real


def gather_frames(
    clips: ClipSource | Sequence[Clip],
    shape: Callable[[int, int], tuple[int, int]],
    tracker: Tracker | None,
    *,
    max_frames: int,
    minimum_confidence: float = 0.0,
    progress: Progress | None = None,
) -> Frames:
    """Read clips into memory.

    Args:
        clips: with anchors, and for training with a wrist view; all alike in views and sizes.
        shape: from an anchor's height and width to those that the network wants.
        tracker: finds the pairs; None leaves them out.
        max_frames: if the clips have more, evenly spaced ones are kept.
        minimum_confidence: pairs below are dropped.
        progress: told ``(what, done, total)`` after every clip.

    Raises:
        WorldModelError: there is no clip, the clips differ, or the tracker lacks something.
    """
    if len(clips) == 0:
        raise WorldModelError("stage 1: no clips to train on; record paired clips (anchor and wrist) first")
    total = sum(len(clips[index]) for index in range(len(clips)))
    keep = torch.linspace(0, total - 1, min(total, max_frames)).round().long().unique()
    parts: list[_Part] = []
    reference = clips[0]
    seen = 0
    for index in range(len(clips)):
        clip = clips[index]
        _alike(reference, clip)
        own = (keep[(keep >= seen) & (keep < seen + len(clip))] - seen).numpy()
        seen += len(clip)
        if len(own):
            parts.append(_Part.of(clip, own, shape, tracker, minimum_confidence))
        if progress is not None:
            progress("reading clips", index + 1, len(clips))
    return _join(parts, reference)


def _alike(reference: Clip, clip: Clip) -> None:
    for name in ("views", "cameras", "depth"):
        first, other = getattr(reference, name), getattr(clip, name)
        if set(first) != set(other):
            raise WorldModelError(
                f"clips differ in {name}: {reference.episode!r} has {sorted(first)}, {clip.episode!r} {sorted(other)}; "
                "train on clips of one kind"
            )
    for name, frames in clip.views.items():
        if frames.shape[1:] != reference.views[name].shape[1:]:
            raise WorldModelError(
                f"clips differ in the size of view {name!r}: {reference.views[name].shape[1:3]} and "
                f"{frames.shape[1:3]} in {clip.episode!r}; train on clips of one kind"
            )


@dataclass(frozen=True)
class _Part:
    anchors: Tensor
    depth: Tensor | None
    intrinsics: Tensor | None
    poses: Tensor | None
    wrist_intrinsics: Tensor
    wrist_poses: Tensor | None
    pairs: list[Pairs]
    pair_depth: list[NDArray[np.float32]]

    @classmethod
    def of(
        cls,
        clip: Clip,
        own: np.ndarray,
        shape: Callable[[int, int], tuple[int, int]],
        tracker: Tracker | None,
        minimum_confidence: float,
    ) -> _Part:
        views = clip.anchors
        original = clip.views[views[0]].shape[1:3]
        size = shape(*original)
        images = [torch.from_numpy(clip.views[view][own]).permute(0, 3, 1, 2) for view in views]
        depth = None
        if all(view in clip.depth for view in views):
            maps = [torch.from_numpy(clip.depth[view][own])[:, None].float() for view in views]
            depth = torch.stack([F.interpolate(one, size=size, mode="nearest-exact")[:, 0] for one in maps], dim=1)
        intrinsics = poses = None
        if all(view in clip.cameras for view in views):
            sizes = [clip.views[view].shape[1:3] for view in views]
            matrices = [torch.from_numpy(clip.cameras[view].intrinsics).float() for view in views]
            resized = [geometry.resize_intrinsics(one, old, size) for one, old in zip(matrices, sizes, strict=True)]
            intrinsics = torch.stack(resized).expand(len(own), -1, -1, -1)
            poses = _relative(clip, views, own)
        wrist = clip.cameras.get(WRIST)
        true = _relative(clip, (WRIST,), own)
        pairs, pair_depth = _pairs(clip, own, tracker, size, minimum_confidence) if tracker is not None else ([], [])
        return cls(
            anchors=torch.stack([resize_images(one, size) for one in images], dim=1),
            depth=depth,
            intrinsics=intrinsics,
            poses=poses,
            wrist_intrinsics=torch.from_numpy(wrist.intrinsics).float().expand(len(own), -1, -1)
            if wrist is not None
            else torch.zeros(len(own), 3, 3),
            wrist_poses=None if true is None else true[:, 0],
            pairs=pairs,
            pair_depth=pair_depth,
        )


def _pairs(
    clip: Clip, own: np.ndarray, tracker: Tracker, size: tuple[int, int], minimum_confidence: float
) -> tuple[list[Pairs], list[NDArray[np.float32]]]:
    """Return the pairs of the chosen frames, anchor pixels in the network's image size, and their recorded depth."""
    found = tracker.pairs(clip)
    scales = np.array([[size[1] / clip.views[v].shape[2], size[0] / clip.views[v].shape[1]] for v in clip.anchors])
    kept, depths = [], []
    for index in own:
        pairs = found[index]
        good = pairs.confidence >= minimum_confidence
        view, pixels = pairs.view[good], pairs.anchor[good]
        depth = np.zeros(len(view), np.float32)
        for number, name in enumerate(clip.anchors):
            if name in clip.depth:
                image, here = clip.depth[name][index], view == number
                # Read at the full resolution: a mean over the edge of an object would be a place where nothing is.
                column, row = np.floor(pixels[here]).astype(int).T
                depth[here] = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)]
        anchor = (pixels * scales[view]).astype(np.float32)
        kept.append(Pairs(pairs.wrist[good], anchor, view, pairs.confidence[good]))
        depths.append(depth)
    return kept, depths


def _relative(clip: Clip, views: Sequence[str], own: np.ndarray) -> Tensor | None:
    """Return (n, V, 4, 4) poses of these views relative to the first anchor, or None where one is unknown."""
    poses = []
    for view in (clip.anchors[0], *views):
        camera = clip.cameras.get(view)
        if camera is None or camera.camera_from_world is None:
            return None
        poses.append(torch.from_numpy(camera.camera_from_world[own]))
    return torch.stack([pose @ geometry.invert(poses[0]) for pose in poses[1:]], dim=1).float()


def _join(parts: list[_Part], reference: Clip) -> Frames:
    def stacked(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else torch.cat(values)

    pairs = [pairs for part in parts for pairs in part.pairs]
    anchors = torch.cat([part.anchors for part in parts])
    counts = torch.tensor([0] + ([len(one) for one in pairs] or [0] * len(anchors)))
    wrist = np.concatenate([one.wrist for one in pairs]) if pairs else np.zeros((0, 2), np.float32)
    anchor = np.concatenate([one.anchor for one in pairs]) if pairs else np.zeros((0, 2), np.float32)
    view = np.concatenate([one.view for one in pairs]) if pairs else np.zeros(0, np.int64)
    hashed = hashlib.sha256()
    for array in (anchors.numpy(), wrist, anchor, view):
        hashed.update(np.ascontiguousarray(array).tobytes())
    return Frames(
        anchors=anchors,
        depth=stacked("depth"),
        intrinsics=stacked("intrinsics"),
        poses=stacked("poses"),
        wrist_intrinsics=torch.cat([part.wrist_intrinsics for part in parts]),
        wrist_size=reference.views[WRIST].shape[1:3] if WRIST in reference.views else (0, 0),
        wrist_poses=stacked("wrist_poses"),
        offsets=counts.cumsum(0),
        pair_wrist=torch.from_numpy(wrist),
        pair_anchor=torch.from_numpy(anchor),
        pair_view=torch.from_numpy(view),
        pair_depth=torch.from_numpy(
            np.concatenate([one for part in parts for one in part.pair_depth] or [np.zeros(0, np.float32)])
        ),
        digest=hashed.hexdigest(),
    )
