"""What wrist-view generation is: the clip that goes in and comes out, and the generator between them.

Not here: networks, training, files.  Only NumPy and the standard library are imported.

Frames of reference: a camera looks along +z, x to the right, y down (OpenCV); ``b_from_a`` maps points of frame a
into frame b.  Lengths are metres, angles radians, images RGB uint8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

ANCHOR = "anchor"
WRIST = "wrist"


class WorldModelError(ValueError):
    """A mistake the user can mend: wrong checkpoint, missing view, unknown scale. One line, no traceback."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over the T frames of a clip.

    Attributes:
        intrinsics: (3, 3) float64, pixels of the stored image; pixel centres lie at integer + 0.5.
        camera_from_world: (T, 4, 4) float64 OpenCV extrinsics, or None where the pose is unknown.
    """

    intrinsics: NDArray[np.float64]
    camera_from_world: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Refuse matrices of another shape."""
        if self.intrinsics.shape != (3, 3):
            raise WorldModelError(f"intrinsics: expected (3, 3), got {self.intrinsics.shape}")
        pose = self.camera_from_world
        if pose is not None and (pose.ndim != 3 or pose.shape[1:] != (4, 4)):
            raise WorldModelError(f"camera_from_world: expected (T, 4, 4), got {pose.shape}")


@dataclass(frozen=True)
class Clip:
    """T frames of one or more views of one episode.

    Attributes:
        views: view name to uint8 (T, H, W, 3).  Anchors are ``"anchor"``, ``"anchor2"``, …; the wrist is ``"wrist"``.
            A missing view is a missing key.
        cameras: view name to its camera, where known.
        depth: view name to float32 (T, H, W), metres along the camera's z axis, where known.
        episode: identifier of the episode that the frames come from.
        start: index of the first frame within that episode.
        stride: episode frames between two clip frames.
        instruction: what the robot was told, or "".
    """

    views: Mapping[str, NDArray[np.uint8]]
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    depth: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    episode: str = ""
    start: int = 0
    stride: int = 1
    instruction: str = ""

    def __post_init__(self) -> None:
        """Refuse views of unequal length or another type, by name."""
        if not self.views:
            raise WorldModelError("a clip needs at least one view")
        for name, frames in self.views.items():
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
                raise WorldModelError(f"view {name!r}: expected uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
        lengths = {name: frames.shape[0] for name, frames in self.views.items()}
        if len(set(lengths.values())) > 1:
            raise WorldModelError(f"views differ in length: {lengths}")

    def __len__(self) -> int:
        """Return T, the number of frames."""
        return next(iter(self.views.values())).shape[0]

    @property
    def anchors(self) -> tuple[str, ...]:
        """Names of the anchor views, in order."""
        return tuple(sorted(name for name in self.views if name.startswith(ANCHOR)))

    def without(self, view: str) -> Clip:
        """Return the clip without one view, its camera and its depth: what a generator may see."""
        return Clip(
            views={name: value for name, value in self.views.items() if name != view},
            cameras={name: value for name, value in self.cameras.items() if name != view},
            depth={name: value for name, value in self.depth.items() if name != view},
            episode=self.episode,
            start=self.start,
            stride=self.stride,
            instruction=self.instruction,
        )


@dataclass(frozen=True)
class GeneratedClip(Clip):
    """A clip whose ``"wrist"`` view was generated.

    Attributes:
        condition: uint8 (T, H, W, 3), the condition map that the wrist view was generated from, or None.
        wrist_from_anchor: (T, 4, 4) float64, the predicted wrist pose relative to the first anchor, or None.
    """

    condition: NDArray[np.uint8] | None = None
    wrist_from_anchor: NDArray[np.float64] | None = None


@runtime_checkable
class WristGenerator(Protocol):
    """Generates the wrist view of a clip from its anchor views alone."""

    def generate(self, anchor: Clip, seed: int = 0) -> GeneratedClip:
        """Return ``anchor`` with a generated ``"wrist"`` view of the same length T; any true wrist view is ignored."""
        ...

    def stream(self, seed: int = 0) -> WristStream:
        """Return a stateful stream for the closed loop: anchor frames go in, wrist frames come out."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return what made the views: name, scale, weight hashes, sampler settings, training data hash."""
        ...


@runtime_checkable
class WristStream(Protocol):
    """The closed-loop face of a generator: one episode, frame after frame."""

    def push(self, anchors: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Take one frame (H, W, 3) of each anchor and return the wrist frame for the same moment."""
        ...


class ClipSource(Protocol):
    """A finite, indexable collection of clips: what training reads.  ``bench.data.clips`` provides one."""

    def __len__(self) -> int:
        """Return the number of clips."""
        ...

    def __getitem__(self, index: int) -> Clip:
        """Return one clip."""
        ...

    def __iter__(self) -> Iterator[Clip]:
        """Iterate over the clips in order."""
        ...
