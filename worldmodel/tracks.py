"""Which pixel of the wrist image shows the same spot as which pixel of an anchor image.

Not here: what is done with the pairs (``spc.py``).  A tracker gives pixel pairs and nothing else: the pose of the
wrist camera is what stage 1 has to find out, and the pairs are its only supervision.

Two trackers: :class:`SimulatorTracker` reads the pairs off depth images and camera matrices that a simulator
recorded; it stands in for a pretrained tracker where no such weights can be had, and a checkpoint trained with it
says so.  ``worldmodel.vggt.track_head.VggtTracker`` asks VGGT's own track head, as WristWorld does (arXiv 2510.07313;
published code ``training/trainer.py``: a grid of 32 x 32 queries on the wrist image, 32 pixels from its border).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel import geometry
from worldmodel.api import WRIST, Camera, Clip, WorldModelError


@dataclass(frozen=True)
class Pairs:
    """K pixel pairs of one moment; pixels of the stored images, the first pixel's centre at (0.5, 0.5).

    Attributes:
        wrist: (K, 2) float32 x, y in the wrist image.
        anchor: (K, 2) float32 x, y in the anchor image.
        view: (K,) int64, the index of the anchor view in ``clip.anchors``.
        confidence: (K,) float32 in [0, 1].
    """

    wrist: NDArray[np.float32]
    anchor: NDArray[np.float32]
    view: NDArray[np.int64]
    confidence: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        count = len(self.view)
        shapes = (self.wrist.shape, self.anchor.shape, self.confidence.shape)
        if shapes != ((count, 2), (count, 2), (count,)):
            raise WorldModelError(f"pairs: expected (K, 2), (K, 2), (K,) for K = {count}, got {shapes}")

    def __len__(self) -> int:
        """Return K."""
        return len(self.view)


class Tracker(Protocol):
    """Finds pixel pairs in a clip that has a wrist view and at least one anchor view."""

    @property
    def name(self) -> str:
        """What the provenance of a checkpoint calls this source of supervision."""
        ...

    def pairs(self, clip: Clip) -> list[Pairs]:
        """Return one :class:`Pairs` for each of the T frames; a frame without any match gives an empty one."""
        ...


def query_grid(size: tuple[int, int], count: int, margin: float) -> Tensor:
    """Return (count², 2) query pixels on an image, evenly spaced between its margins.

    Args:
        size: height and width in pixels.
        count: queries along each side.
        margin: distance from the border as a share of the side (WristWorld: 32 of 518 pixels).
    """
    height, width = size
    y, x = torch.meshgrid(
        torch.linspace(margin * height, (1 - margin) * height, count),
        torch.linspace(margin * width, (1 - margin) * width, count),
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def _camera(clip: Clip, view: str) -> tuple[Camera, Tensor]:
    camera = clip.cameras.get(view)
    if camera is None or camera.camera_from_world is None:
        raise WorldModelError(
            f"tracks 'simulator': clip {clip.episode!r} has no camera matrices for view {view!r}; "
            "record them, or use the scale 'paper', whose tracker needs images only"
        )
    return camera, torch.from_numpy(camera.camera_from_world)


def _depth(clip: Clip, view: str) -> Tensor:
    if view not in clip.depth:
        raise WorldModelError(
            f"tracks 'simulator': clip {clip.episode!r} has no depth for view {view!r}; "
            "record it (CalvinEnv(depth=True)), or use the scale 'paper', whose tracker needs images only"
        )
    return torch.from_numpy(clip.depth[view]).double()


@dataclass(frozen=True)
class SimulatorTracker:
    """Pixel pairs from recorded depth and camera matrices, with a visibility check; gives pixels, never poses.

    Attributes:
        count: queries along each side of the wrist image.
        margin: their distance from the border, as a share of the side.
        tolerance_m: how far the anchor's recorded depth may lie from the true distance for the spot to count as
            visible.  CALVIN's recorded static depth has steps of 2 to 6 cm.
        noise_px: standard deviation of Gaussian noise on the anchor pixel: how a real tracker errs.
        drop: share of the pairs that is left out at random.
        seed: for noise and drop.
    """

    count: int = 32
    margin: float = 32 / 518
    tolerance_m: float = 0.06
    noise_px: float = 0.0
    drop: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that leave no pairs."""
        if self.count < 1 or not 0 <= self.margin < 0.5 or not 0 <= self.drop < 1 or self.tolerance_m <= 0:
            raise WorldModelError(f"tracker settings leave no pairs: {self}")

    @property
    def name(self) -> str:
        """``"simulator"``."""
        return "simulator"

    def pairs(self, clip: Clip) -> list[Pairs]:
        """Return one :class:`Pairs` for each frame.

        Raises:
            WorldModelError: the clip lacks the wrist view, depth or camera matrices of a view.
        """
        if WRIST not in clip.views:
            raise WorldModelError(f"tracks: clip {clip.episode!r} has no {WRIST!r} view; train on paired recordings")
        camera, wrist_from_world = _camera(clip, WRIST)
        depth = _depth(clip, WRIST)  # (T, h, w)
        frames = len(clip)
        pixels = query_grid((depth.shape[1], depth.shape[2]), self.count, self.margin).double()
        pixels = pixels.expand(frames, -1, -1)  # (T, Q, 2)
        z = _read_nearest(depth, pixels)
        wrist_points = geometry.unproject(pixels, z, torch.from_numpy(camera.intrinsics).expand(frames, 3, 3))
        world = geometry.transform(geometry.invert(wrist_from_world), wrist_points)
        found = [self._in_anchor(clip, name, world, z > 0) for name in clip.anchors]
        random = np.random.default_rng([self.seed, clip.start, len(clip)])
        return [self._frame(pixels[t], [(at[t], seen[t]) for at, seen in found], random) for t in range(frames)]

    def _in_anchor(self, clip: Clip, view: str, world: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the points (T, Q, 3) lie in an anchor image (T, Q, 2), and which of them it shows (T, Q)."""
        camera, anchor_from_world = _camera(clip, view)
        depth = _depth(clip, view)
        points = geometry.transform(anchor_from_world, world)
        at, z = geometry.project(points, torch.from_numpy(camera.intrinsics).expand(len(clip), 3, 3))
        size = torch.tensor([depth.shape[2], depth.shape[1]], dtype=at.dtype)
        inside = (z > 0) & ((at > 0) & (at < size)).all(dim=-1)
        recorded = _read_nearest(depth, at)
        return at, inside & valid & ((recorded - z).abs() < self.tolerance_m)

    def _frame(self, pixels: Tensor, found: list[tuple[Tensor, Tensor]], random: np.random.Generator) -> Pairs:
        wrist, anchor, view = [], [], []
        for index, (at, seen) in enumerate(found):
            keep = seen.numpy() & (random.random(len(pixels)) >= self.drop)
            shift = random.normal(size=(len(pixels), 2)) * self.noise_px
            wrist.append(pixels.numpy()[keep])
            anchor.append((at.numpy() + shift)[keep])
            view.append(np.full(int(keep.sum()), index))
        views = np.concatenate(view).astype(np.int64)
        return Pairs(
            wrist=np.concatenate(wrist).astype(np.float32),
            anchor=np.concatenate(anchor).astype(np.float32),
            view=views,
            confidence=np.ones(len(views), dtype=np.float32),
        )


def _read_nearest(depth: Tensor, pixels: Tensor) -> Tensor:
    """Read (T, H, W) at (T, Q, 2): no interpolation, for a mean of two surfaces is a place where nothing is."""
    height, width = depth.shape[1:]
    x = pixels[..., 0].floor().long().clamp(0, width - 1)
    y = pixels[..., 1].floor().long().clamp(0, height - 1)
    return depth.flatten(1).gather(1, y * width + x)
