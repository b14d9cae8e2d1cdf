"""Training stage 2 on the paired share of the clips.

Each step draws windows, noise and noise levels, and follows the gradient of the flow-matching loss (``flow``).
Not here: the model and its sampling (``stage2_model``), the loop (``training_loop``), data on disk (``frame_store``).
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel import checkpoint
from worldmodel.api import WRIST, ClipSource
from worldmodel.conditioner import as_conditioner, keep_beside
from worldmodel.dit import WristDenoiser
from worldmodel.flow import flow_loss, shifted
from worldmodel.frame_store import FrameStore
from worldmodel.stage2_config import Stage2Config
from worldmodel.stage2_model import Stage2, make_codec, pixels
from worldmodel.training_loop import TrainingLoop, progress_bars, same_run
from worldmodel.vae import LinearCodec

__all__ = ["Stage2", "Stage2Config", "train_stage2"]

CODEC_FRAMES = 2000  # enough to fit a basis of a few hundred numbers; more only takes longer
SPREAD_WINDOWS = 64


def train_stage2(
    clips: ClipSource,
    stage1: Any,
    config: Stage2Config,
    directory: Path | str,
    *,
    seed: int = 0,
    device: str = "cpu",
    steps: int | None = None,
    time_limit_s: float | None = None,
    progress: bool = True,
    data_hash: str | None = None,
) -> Stage2:
    """Train stage 2, or go on where a killed run stopped, or load what is finished.

    Args:
        clips: the paired share: clips with anchor and wrist views.
        stage1: a trained ``Stage1`` or any ``Conditioner``: makes the condition maps.
        config: the scale.
        directory: gets the checkpoint and a copy of stage 1 (in ``stage1/``), so that it is the whole generator.
            Until it is complete ``training/`` keeps the state of the run and ``frames/`` the condition maps.
        seed: of initial weights, noise and batches.
        device: where to train.
        steps: instead of the configuration's.
        time_limit_s: seconds of training after which the run ends early; such a run is not repeatable.
        progress: draw a bar on stderr.
        data_hash: identifies the clips, for provenance.

    Raises:
        WorldModelError: clips without wrist views, or a folder of another run.
    """
    directory = Path(directory)
    run = {
        "config": config.to_json(),
        "seed": seed,
        "steps": config.training.steps if steps is None else steps,
        "time_limit_s": time_limit_s,
        "data_hash": data_hash,
    }
    if (directory / checkpoint.INDEX).is_file():
        same_run(checkpoint.load(directory)[2].get("run"), run, directory)
        return Stage2.load(directory, device)
    conditioner = as_conditioner(stage1)
    with progress_bars(progress) as bar, torch.random.fork_rng():
        store = FrameStore.build(directory / "frames", clips, conditioner, config, bar("condition maps"))
        torch.manual_seed(seed)
        lesson = _Lesson(config, store, device)
        loop = TrainingLoop(lesson.denoiser, config.training, run, directory / "training")
        loop.train(lesson.loss, bar("stage 2"))
    extra = {
        "generator": "wristworld",
        "data_hash": data_hash,
        "windows": len(store),
        "wrist_size": list(clips[0].views[WRIST].shape[1:3]),
        "conditioner": conditioner.provenance(),
        **loop.finish(),
    }
    keep_beside(conditioner, directory)
    Stage2(config, lesson.codec, lesson.denoiser, extra).save(directory)
    for folder in ("training", "frames"):
        shutil.rmtree(directory / folder, ignore_errors=True)
    return Stage2.load(directory, device)


class _Lesson:
    """Codec, denoiser and frames: what a step's loss is made of."""

    def __init__(self, config: Stage2Config, store: FrameStore, device: str) -> None:
        self.config, self.store, self.device = config, store, device
        self.codec = make_codec(config.codec, config.size)
        if isinstance(self.codec, LinearCodec):
            self.codec.fit(*(pixels(store.sample_frames(part, CODEC_FRAMES)) for part in ("wrist", "condition")))
        if isinstance(self.codec, nn.Module):
            self.codec.to(device)
        self.denoiser = WristDenoiser(config, self.codec.channels).to(device)
        if config.flow.precondition:
            self._measure_spread()

    @torch.no_grad()
    def _encoded(self, frames: NDArray[np.uint8]) -> Tensor:
        return self.codec.encode(pixels(frames).to(self.device))

    def _measure_spread(self) -> None:
        """Measure the latents' standard deviation per channel, over windows spread evenly over the store."""
        chosen = np.linspace(0, len(self.store) - 1, min(len(self.store), SPREAD_WINDOWS)).astype(int).tolist()
        latents = torch.cat([self._encoded(self.store.batch([number]).wrist) for number in chosen])
        self.denoiser.spread.copy_(latents.pow(2).mean((0, 2, 3, 4)).sqrt().clamp(min=1e-2))

    def loss(self, random: np.random.Generator) -> Tensor:
        """Return the flow-matching loss of a batch drawn with ``random``."""
        options, flow = self.config.training, self.config.flow
        batch = self.store.batch(random.integers(len(self.store), size=options.batch_size).tolist())
        condition = self._encoded(batch.condition)
        clean = self._encoded(batch.wrist)
        # Random numbers are drawn on the CPU, so that a device does not change them.
        noise = torch.randn(clean.shape).to(self.device)
        sigma = shifted(torch.rand(len(clean)), flow.shift).to(self.device)
        dropped = (torch.rand(len(clean)) < flow.anchor_dropout).to(self.device)
        mixed = options.mixed_precision and self.device.startswith("cuda")
        with torch.autocast("cuda", torch.bfloat16) if mixed else contextlib.nullcontext():
            context = self.denoiser.context(pixels(batch.anchors).to(self.device))
            context = torch.where(dropped[:, None, None], self.denoiser.null_context(context), context)
            return flow_loss(lambda x, s: self.denoiser(x, condition, s, context), clean, noise, sigma, flow)
