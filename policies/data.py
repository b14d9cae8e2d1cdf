"""The arrays that training reads: frames at the network's size, actions, windows, sentences; in memory or on a GPU.

A sample is a frame t of a window: both views at t, the window's sentence, and the actions t … t + K − 1, masked past
the window's end.  The arms of a comparison differ in ``wrist`` and ``wrist_present`` only: order, noise, and shifts of
the images depend on the seed and the step alone.  Nothing here reads files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.api import ACTION_DIM, ANCHOR, PROPRIO_DIM, WRIST, PolicyError
from policies.augment import draw_shift, draw_tint, recoloured, shifted, tinted
from policies.encoders import resize_images
from policies.network import Inputs
from policies.normalise import Normaliser

RESIZE_BATCH = 256


def resize_frames(
    frames: NDArray[np.uint8], size: int, device: str | torch.device = "cpu", out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Resize uint8 (N, H, W, 3) to (N, size, size, 3) exactly as the policy resizes what it sees at test time.

    Args:
        frames: the images.
        size: wanted side in pixels.
        device: where to compute: a GPU is much faster, and may round a value the other way.
        out: where to write, or None for a new array.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise PolicyError(f"frames: expected uint8 (N, H, W, 3), got {frames.dtype} {frames.shape}")
    small = np.empty((len(frames), size, size, 3), np.uint8) if out is None else out
    for start in range(0, len(frames), RESIZE_BATCH):
        part = torch.from_numpy(np.ascontiguousarray(frames[start : start + RESIZE_BATCH]))
        small[start : start + RESIZE_BATCH] = resize_images(part.to(device), size).cpu().numpy()
    return small


@dataclass(frozen=True)
class PolicyArrays:
    """Demonstrations as plain arrays.

    Attributes:
        anchor: uint8 (N, h, w, 3), resized to the network's size with :func:`resize_frames`.
        wrist: uint8 (N, h, w, 3), or None if no frame has a wrist view.
        wrist_present: bool (N,), false where ``wrist`` holds nothing.
        actions: float32 (N, 7), relative actions in −1..1, gripper exactly ±1.
        windows: int64 (W, 2), first frame and one past the last; windows may overlap.
        window_sentence: int64 (W,), row of ``sentences``.
        sentences: the instructions.
        window_task: W task names for the per-task errors, or empty.
        proprio: float32 (N, 15), or None.
        view_sizes: camera name to (height, width) before resizing; a test view of another shape is refused.
    """

    anchor: NDArray[np.uint8]
    wrist: NDArray[np.uint8] | None
    wrist_present: NDArray[np.bool_]
    actions: NDArray[np.float32]
    windows: NDArray[np.int64]
    window_sentence: NDArray[np.int64]
    sentences: tuple[str, ...]
    window_task: tuple[str, ...] = ()
    proprio: NDArray[np.float32] | None = None
    view_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together, hold a NaN, or point outside."""
        N, W = len(self.anchor), len(self.windows)
        if N == 0 or W == 0:
            raise PolicyError(f"policy data: expected frames and windows, got {N} frames and {W} windows")
        for name in (ANCHOR, WRIST):
            images = getattr(self, name)
            if images is not None and (images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3):
                raise PolicyError(
                    f"policy data: {name}: expected uint8 (N, h, w, 3), got {images.dtype} {images.shape}"
                )
        if self.wrist is None and self.wrist_present.any():
            raise PolicyError("policy data: wrist_present is true for some frames, but there is no wrist array")
        self._check_lengths(N, W)
        if not np.isfinite(self.actions).all() or (self.proprio is not None and not np.isfinite(self.proprio).all()):
            raise PolicyError("policy data: actions or proprio hold a NaN or infinity; repair the recording")
        if (np.abs(self.actions[:, -1]) != 1).any():
            raise PolicyError("policy data: the gripper action must be exactly +1 (open) or -1 (close)")
        if (self.windows[:, 0] < 0).any() or (self.windows[:, 1] > N).any() or (np.diff(self.windows) < 1).any():
            raise PolicyError(f"policy data: every window must be start < stop inside the {N} frames")
        if (self.window_sentence < 0).any() or (self.window_sentence >= len(self.sentences)).any():
            raise PolicyError(f"policy data: window_sentence points outside the {len(self.sentences)} sentences")

    def _check_lengths(self, N: int, W: int) -> None:
        expected: dict[str, tuple[int, ...]] = {
            "wrist_present": (N,), "actions": (N, ACTION_DIM), "windows": (W, 2), "window_sentence": (W,),
        }  # fmt: skip
        if self.proprio is not None:
            expected["proprio"] = (N, PROPRIO_DIM)
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise PolicyError(f"policy data: {name}: expected shape {shape}, got {getattr(self, name).shape}")
        if self.wrist is not None and len(self.wrist) != N:
            raise PolicyError(f"policy data: {N} anchor frames, but {len(self.wrist)} wrist frames")
        if self.window_task and len(self.window_task) != W:
            raise PolicyError(f"policy data: {W} windows, but {len(self.window_task)} task names")

    @property
    def samples(self) -> int:
        """Number of samples: frames summed over the windows."""
        return int(np.diff(self.windows).sum())

    def fingerprint(self) -> str:
        """Return a hash of everything that training reads."""
        digest = hashlib.blake2b(digest_size=16)
        for name in ("anchor", "wrist", "wrist_present", "actions", "windows", "window_sentence", "proprio"):
            array = getattr(self, name)
            digest.update(f"{name}:{None if array is None else array.shape};".encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        digest.update("\n".join(self.sentences).encode())
        return digest.hexdigest()

    def fit_normaliser(self) -> Normaliser:
        """Measure the actions of all samples; the wrist view plays no part, so all arms get the same numbers."""
        frames = np.concatenate([np.arange(start, stop) for start, stop in self.windows])
        return Normaliser.fit(self.actions[frames], None if self.proprio is None else self.proprio[frames])


@dataclass(frozen=True)
class Batch:
    """What one training step reads: see :meth:`policies.network.FlowNetwork.loss` for the shapes."""

    inputs: Inputs
    actions: Tensor
    valid: Tensor
    noise: Tensor
    t: Tensor
    window: Tensor


class DeviceArrays:
    """:class:`PolicyArrays` on one device, giving batches by sample number.

    Args:
        arrays: the demonstrations.
        normaliser: scales actions and robot state once, here.
        embeddings: (S, D) vectors of ``arrays.sentences``.
        chunk: K.
        device: where everything is kept.
        use_wrist: false for the anchor arm, whose wrist views are never even copied.
        shift: random shift as a share of the side; 0 for validation.
        jitter: random change of colours, see :class:`policies.config.TrainingConfig`; 0 for validation.
        recolour: strength of recolouring, see there; 0 for validation.
        proprio: whether the robot state is given to the network.
        proprio_dropout: share of the samples whose robot state is hidden.
    """

    def __init__(
        self,
        arrays: PolicyArrays,
        normaliser: Normaliser,
        embeddings: NDArray[np.float32],
        chunk: int,
        device: torch.device,
        *,
        use_wrist: bool,
        shift: float = 0.0,
        jitter: float = 0.0,
        recolour: float = 0.0,
        proprio: bool = False,
        proprio_dropout: float = 0.0,
    ) -> None:
        def put(array: NDArray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        lengths = np.diff(arrays.windows)[:, 0]
        window = np.repeat(np.arange(len(lengths)), lengths)
        first_sample = np.repeat(np.cumsum(lengths) - lengths, lengths)
        frame = arrays.windows[window, 0] + np.arange(len(window)) - first_sample
        self.device, self.shift, self.jitter, self.proprio_dropout = device, shift, jitter, proprio_dropout
        self.recolour = recolour
        self.window, self.frame, self.stop = put(window), put(frame), put(arrays.windows[window, 1])
        self.sentence = put(arrays.window_sentence)
        self.embeddings = put(embeddings)
        self.anchor = put(arrays.anchor)
        shown = use_wrist and arrays.wrist is not None and bool(arrays.wrist_present.any())
        self.wrist = put(arrays.wrist) if shown and arrays.wrist is not None else None
        self.wrist_present = put(arrays.wrist_present if shown else np.zeros(len(arrays.anchor), np.bool_))
        self.actions = put(normaliser.scale_actions(arrays.actions))
        self.proprio: Tensor | None = None
        if proprio:
            if arrays.proprio is None:
                raise PolicyError("use_proprio is on, but the data has no proprio; record it or switch it off")
            self.proprio = put(normaliser.scale_proprio(arrays.proprio))
        self.offsets = torch.arange(chunk, device=device)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.frame)

    def batch(self, samples: Tensor, generator: torch.Generator) -> Batch:
        """Return the samples numbered ``samples`` (B,).

        ``generator`` decides shifts, colours, noise and flow times, in the same way for every arm; it is one that was
        seeded for this batch.
        """
        B, K, seed = len(samples), len(self.offsets), generator.initial_seed()
        anchor_shift = draw_shift(B, self.shift, self.anchor.shape[1], generator)
        wrist_side = self.anchor.shape[1] if self.wrist is None else self.wrist.shape[1]
        wrist_shift = draw_shift(B, self.shift, wrist_side, generator)
        anchor_tint, wrist_tint = draw_tint(B, self.jitter, generator), draw_tint(B, self.jitter, generator)
        noise = torch.randn(B, K, ACTION_DIM, device=self.device, generator=generator)
        t = torch.rand(B, device=self.device, generator=generator)
        frame, window = self.frame[samples], self.window[samples]
        steps = frame[:, None] + self.offsets  # (B, K)
        last = self.stop[samples, None] - 1
        proprio = hidden = None
        if self.proprio is not None:
            proprio = self.proprio[frame]
            hidden = torch.rand(B, device=self.device, generator=generator) < self.proprio_dropout
        inputs = Inputs(
            anchor=recoloured(tinted(shifted(self.anchor, frame, anchor_shift), anchor_tint), self.recolour, 2 * seed),
            wrist=None
            if self.wrist is None
            else recoloured(tinted(shifted(self.wrist, frame, wrist_shift), wrist_tint), self.recolour, 2 * seed + 1),
            wrist_present=self.wrist_present[frame],
            sentence=self.embeddings[self.sentence[window]],
            proprio=proprio,
            proprio_present=None if hidden is None else ~hidden,
        )
        return Batch(inputs, self.actions[torch.minimum(steps, last)], steps <= last, noise, t, window)


class SampleOrder:
    """Which samples each step reads: shuffled passes over all samples, a function of seed and step alone.

    So a run that continues after a kill, and every arm with the same seed, reads the same samples in the same order.
    """

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        self._samples, self._batch, self._seed = samples, batch, seed
        self._passes: dict[int, NDArray[np.int64]] = {}

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the sample numbers (batch,) of ``step``."""
        positions = np.arange(step * self._batch, (step + 1) * self._batch)
        passes = positions // self._samples
        out = np.empty(self._batch, np.int64)
        for number in np.unique(passes):
            here = passes == number
            out[here] = self._permutation(int(number))[positions[here] % self._samples]
        return out

    def _permutation(self, number: int) -> NDArray[np.int64]:
        if number not in self._passes:
            self._passes = {key: value for key, value in self._passes.items() if key == number - 1}
            self._passes[number] = np.random.default_rng([self._seed, number]).permutation(self._samples)
        return self._passes[number]
