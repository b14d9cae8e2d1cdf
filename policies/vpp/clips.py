"""Short clips of the demonstrations, as the video predictor is trained on: a frame and those that follow it.

Cut from :class:`policies.data.DeviceArrays`, so from the very frames that the policy is trained on: an arm without
wrist views has a predictor that never saw one.  Nothing here reads files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policies.data import DeviceArrays
from policies.vpp.config import VideoPolicyConfig
from policies.vpp.predictor import LOG_SIGMA_MEAN, LOG_SIGMA_STD


@dataclass(frozen=True)
class ClipBatch:
    """What one training step of the predictor reads: see :meth:`policies.vpp.predictor.VideoPredictor.loss`."""

    image: Tensor
    future: Tensor
    sentence: Tensor
    view: Tensor
    noise: Tensor
    sigma: Tensor


class Clips:
    """Clips by sample number.

    Args:
        data: frames, windows and sentences.
        config: how many frames, how far apart, at which noise levels.
        shift: random shift as a share of the side; 0 for validation.
        jitter: random change of colours, see :class:`policies.config.TrainingConfig`; 0 for validation.
    """

    def __init__(self, data: DeviceArrays, config: VideoPolicyConfig, *, shift: float, jitter: float) -> None:
        self._data, self._config = data, config
        self._shift, self._jitter = shift, jitter
        self._steps = config.stride * torch.arange(config.frames + 1, device=data.device)
        side = config.anchor_size // config.stem_stride
        self._shape = (config.frames, 3 * config.stem_stride**2, side, side)

    def __len__(self) -> int:
        """Return the number of samples: one for each frame of a window, as the policy's."""
        return len(self._data)

    def batch(self, samples: Tensor, generator: torch.Generator) -> ClipBatch:
        """Return the clips that start at the samples numbered ``samples`` (B,).

        Half of them show the wrist view, where there is one.  ``generator`` decides which, shifts, colours and noise;
        it is drawn from in the same way for every arm.
        """
        data, B = self._data, len(samples)

        def draw(*shape: int) -> Tensor:
            return torch.rand(B, *shape, device=data.device, generator=generator)

        frame, window = data.frame[samples], data.window[samples]
        shown = torch.minimum(frame[:, None] + self._steps, data.stop[samples, None] - 1)  # (B, F + 1)
        view = ((draw() < 0.5) & data.wrist_present[frame]).long()
        shift, colour = draw(2), draw(4) * 2 - 1
        clip = _moved(data.anchor, shown, shift, self._shift)
        if data.wrist is not None:
            wrist = _moved(data.wrist, shown, shift, self._shift)
            clip = torch.where(view.view(-1, 1, 1, 1, 1) == 1, wrist, clip)
        if self._jitter:
            gain = (1 + self._jitter * colour[:, :3]).view(B, 1, 1, 1, 3)
            offset = (255 * self._jitter * colour[:, 3]).view(B, 1, 1, 1, 1)
            clip = (clip * gain + offset).clamp_(0, 255).to(torch.uint8)
        level = (torch.randn(B, device=data.device, generator=generator) * LOG_SIGMA_STD + LOG_SIGMA_MEAN).exp()
        return ClipBatch(
            image=clip[:, 0],
            future=clip[:, 1:],
            sentence=data.embeddings[data.sentence[window]],
            view=view,
            noise=torch.randn(B, *self._shape, device=data.device, generator=generator),
            sigma=torch.where(draw() < self._config.at_noise_level, self._config.noise_level, level),
        )


def _moved(images: Tensor, frames: Tensor, share: Tensor, most: float) -> Tensor:
    """Gather clips (B, T, H, W, 3), each moved as a whole; what comes in at the border repeats the border.

    Args:
        images: uint8 (N, H, W, 3).
        frames: rows of ``images`` (B, T).
        share: in 0..1, (B, 2): how far, between the largest shifts either way.
        most: largest shift as a share of the side; 0 moves nothing.
    """
    if most == 0:
        return images[frames]
    H, W = images.shape[1:3]
    largest = max(1, round(most * H))
    shift = (share * (2 * largest + 1)).long().clamp_max(2 * largest) - largest  # (B, 2)
    rows = (torch.arange(H, device=images.device) - shift[:, :1]).clamp_(0, H - 1)  # (B, H)
    columns = (torch.arange(W, device=images.device) - shift[:, 1:]).clamp_(0, W - 1)  # (B, W)
    return images[frames[:, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]
