"""Short clips of the demonstrations, as the video predictor is trained on: a frame and those that follow it.

Cut from :class:`policies.data.DeviceArrays`, so from the very frames that the policy is trained on: an arm without
wrist views has a predictor that never saw one.  Nothing here reads files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policies.augment import draw_shift, draw_tint, recoloured, shifted, tinted
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
        changed: whether clips are shifted and change colour as ``config.predictor`` says; false for validation.
    """

    def __init__(self, data: DeviceArrays, config: VideoPolicyConfig, *, changed: bool) -> None:
        self._data, self._config = data, config
        settings = config.predictor
        self._shift, self._jitter, self._recolour = (
            (settings.shift, settings.jitter, settings.recolour) if changed else (0.0, 0.0, 0.0)
        )
        self._steps = config.stride * torch.arange(config.frames + 1, device=data.device)
        side = config.anchor_size // config.stem_stride
        self._shape = (config.frames, 3 * config.stem_stride**2, side, side)

    def __len__(self) -> int:
        """Return the number of samples: one for each frame of a window, as the policy's."""
        return len(self._data)

    def batch(self, samples: Tensor, generator: torch.Generator) -> ClipBatch:
        """Return the clips that start at the samples numbered ``samples`` (B,).

        Half of them show the wrist view, where there is one.  ``generator`` decides which, shifts, colours and noise;
        it is drawn from in the same way for every arm, and was
        seeded for this batch.
        """
        data, B = self._data, len(samples)

        def draw(*shape: int) -> Tensor:
            return torch.rand(B, *shape, device=data.device, generator=generator)

        frame, window = data.frame[samples], data.window[samples]
        shown = torch.minimum(frame[:, None] + self._steps, data.stop[samples, None] - 1)  # (B, F + 1)
        view = ((draw() < 0.5) & data.wrist_present[frame]).long()
        shift = draw_shift(B, self._shift, self._config.anchor_size, generator)
        tint = draw_tint(B, self._jitter, generator)
        seed = generator.initial_seed()

        def seen(images: Tensor, frames: Tensor) -> Tensor:
            return recoloured(tinted(shifted(images, frames, shift), tint), self._recolour, seed)

        # Frame by frame with the same draws: what is random is so for the clip as a whole.
        clip = torch.stack([seen(data.anchor, frames) for frames in shown.T], dim=1)  # (B, F + 1, H, W, 3)
        if data.wrist is not None:
            wrist = torch.stack([seen(data.wrist, frames) for frames in shown.T], dim=1)
            clip = torch.where(view.view(-1, 1, 1, 1, 1) == 1, wrist, clip)
        level = (torch.randn(B, device=data.device, generator=generator) * LOG_SIGMA_STD + LOG_SIGMA_MEAN).exp()
        return ClipBatch(
            image=clip[:, 0],
            future=clip[:, 1:],
            sentence=data.embeddings[data.sentence[window]],
            view=view,
            noise=torch.randn(B, *self._shape, device=data.device, generator=generator),
            sigma=torch.where(draw() < self._config.at_noise_level, self._config.noise_level, level),
        )
