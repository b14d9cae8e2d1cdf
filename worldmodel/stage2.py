"""Training stage 2 on the paired share: resumable, and the same for the same seed.

Each step draws windows, noise and noise levels, and takes the gradient of the flow-matching loss (``flow``); an average
of the weights over the last few hundred steps is what samples.  Not here: the model and its sampling
(``stage2_model``), the data on disk (``frame_store``).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel import checkpoint
from worldmodel.api import WRIST, ClipSource, WorldModelError
from worldmodel.conditioner import as_conditioner, keep_beside
from worldmodel.dit import WristDenoiser
from worldmodel.flow import flow_loss, shifted
from worldmodel.frame_store import FrameStore, Window
from worldmodel.stage2_config import Stage2Config
from worldmodel.stage2_model import Stage2, make_codec, pixels
from worldmodel.vae import LinearCodec

__all__ = ["Stage2", "Stage2Config", "train_stage2"]

CODEC_FRAMES = 2000  # enough to fit a basis of a few hundred numbers; more only takes longer
WARM_UP = 0.05  # of the run


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

    With a fixed number of steps and no time limit the result is the same for the same seed on a CPU, however often
    the run was interrupted.

    Args:
        clips: the paired share: clips with anchor and wrist views.
        stage1: a trained ``Stage1`` or any ``Conditioner``: makes the condition maps.
        config: the scale.
        directory: gets the checkpoint and a copy of stage 1 (in ``stage1/``), so that it is the whole generator.
            Until it is complete ``training/`` keeps the state of the run and ``frames/`` the condition maps.
        seed: of initial weights, noise and batches.
        device: where to train.
        steps: instead of the configuration's.
        time_limit_s: seconds of training after which the run ends early; the learning rate falls along with it.
        progress: draw a bar on stderr.
        data_hash: identifies the clips, for provenance.

    Raises:
        WorldModelError: clips without wrist views, or a folder of another run.
    """
    directory = Path(directory)
    steps = config.training.steps if steps is None else steps
    run = {
        "config": config.to_json(),
        "seed": seed,
        "steps": steps,
        "time_limit_s": time_limit_s,
        "data_hash": data_hash,
    }
    conditioner = as_conditioner(stage1)
    if (directory / checkpoint.INDEX).is_file():
        _same_run(checkpoint.load(directory)[2].get("run"), run, directory)
        return Stage2.load(directory, device)
    working, frames = directory / "training", directory / "frames"
    with _bar(progress) as bar, torch.random.fork_rng():
        store = FrameStore.build(frames, clips, conditioner, config, bar("condition maps"))
        trainer = _Trainer(config, store, seed, device)
        state = checkpoint.load_training_state(working)
        if state is not None:
            _same_run(state.extra.get("run"), run, directory)
            trainer.restore(state)
        trainer.train(steps, time_limit_s, working, run, bar("stage 2"))
    extra = {
        "generator": "wristworld",
        "run": run,
        "data_hash": data_hash,
        "history": trainer.history,
        "seconds": round(trainer.seconds, 1),
        "steps_done": trainer.step,
        "windows": len(store),
        "wrist_size": list(clips[0].views[WRIST].shape[1:3]),
        "conditioner": conditioner.provenance(),
    }
    keep_beside(conditioner, directory)
    Stage2(config, trainer.codec, trainer.averaged(), extra).save(directory)
    for folder in (working, frames):
        shutil.rmtree(folder, ignore_errors=True)
    return Stage2.load(directory, device)


def _same_run(found: Any, run: dict[str, Any], directory: Path) -> None:
    wanted = json.loads(json.dumps(run))
    if found != wanted:
        names = sorted(name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name])
        raise WorldModelError(f"{directory} holds a stage-2 run with other settings ({', '.join(names)}): name another")


class _Trainer:
    """The moving parts of one training run."""

    def __init__(self, config: Stage2Config, store: FrameStore, seed: int, device: str) -> None:
        self.config, self.store, self.device = config, store, device
        torch.manual_seed(seed)
        self.random = np.random.default_rng(seed)
        self.codec = make_codec(config.codec, config.size)
        if isinstance(self.codec, LinearCodec):
            parts = [store.sample_frames(part, CODEC_FRAMES) for part in ("wrist", "condition")]
            self.codec.fit(*(pixels(part) for part in parts))
        if isinstance(self.codec, nn.Module):
            self.codec.to(device)
        self.denoiser = WristDenoiser(config, self.codec.channels).to(device)
        if config.flow.precondition:
            self._measure_spread()
        self.trained = {name: p for name, p in self.denoiser.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.trained.items()}
        options = config.training
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.99)
        )
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []

    @torch.no_grad()
    def _measure_spread(self) -> None:
        """Measure the latents' standard deviation per channel, over windows spread evenly over the store."""
        chosen = np.linspace(0, len(self.store) - 1, min(len(self.store), 64)).astype(int).tolist()
        latents = torch.cat(
            [self.codec.encode(pixels(self.store.batch([number]).wrist).to(self.device)) for number in chosen]
        )
        self.denoiser.spread.copy_(latents.pow(2).mean((0, 2, 3, 4)).sqrt().clamp(min=1e-2))

    def restore(self, state: checkpoint.TrainingState) -> None:
        """Continue from a saved state."""
        weights = {name.removeprefix("now."): value for name, value in state.tensors.items() if name[:4] == "now."}
        self.denoiser.load_state_dict(weights, strict=False)
        for name, value in self.average.items():
            value.copy_(state.tensors[f"average.{name}"])
        state.restore_optimizer(self.optimizer)
        state.restore_rng(self.random)
        self.step, self.seconds = int(state.extra["step"]), float(state.extra["seconds"])
        self.history = list(state.extra["history"])

    def save(self, directory: Path, run: dict[str, Any]) -> None:
        """Write a state that ``restore`` continues from."""
        tensors = {f"now.{name}": value.detach() for name, value in self.trained.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        extra = {"run": run, "step": self.step, "seconds": self.seconds, "history": self.history}
        checkpoint.save_training_state(
            directory, self.config.to_json(), tensors, extra, optimizer=self.optimizer, numpy_generator=self.random
        )

    def train(
        self,
        steps: int,
        time_limit_s: float | None,
        directory: Path,
        run: dict[str, Any],
        tick: Callable[[int, int], None],
    ) -> None:
        """Run until ``steps`` steps are done or the time is over."""
        options = self.config.training
        before, saved = time.monotonic() - self.seconds, time.monotonic()
        losses: list[float] = []
        while self.step < steps:
            done = self.step / steps
            if time_limit_s is not None:
                done = max(done, self.seconds / time_limit_s)
                if done >= 1:
                    break
            rate = options.learning_rate * min(1.0, (done + 1 / steps) / WARM_UP) * _cosine(done)
            losses.append(self.update(rate))
            self.step += 1
            self.seconds = time.monotonic() - before
            if self.step % 20 == 0 or self.step == steps:
                self.history.append({"step": self.step, "loss": float(np.mean(losses)), "seconds": self.seconds})
                losses = []
            tick(self.step, steps)
            if time.monotonic() - saved > options.save_every_s and not losses:
                self.save(directory, run)
                saved = time.monotonic()

    def update(self, rate: float) -> float:
        """Do one optimizer step and return its loss."""
        options = self.config.training
        self.denoiser.train()
        batch = self.store.batch(self.random.integers(len(self.store), size=options.batch_size).tolist())
        loss = self.loss(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained.values(), options.gradient_clip)
        self.optimizer.step()
        decay = min(options.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1 - decay)
        return float(loss.detach())

    def loss(self, batch: Window) -> Tensor:
        """Return the flow-matching loss of one batch."""
        flow = self.config.flow
        with torch.no_grad():
            clean, condition = (self.codec.encode(pixels(x).to(self.device)) for x in (batch.wrist, batch.condition))
        # Random numbers are drawn on the CPU, so that a device does not change them.
        noise = torch.randn(clean.shape).to(self.device)
        sigma = shifted(torch.rand(len(clean)), flow.shift).to(self.device)
        dropped = (torch.rand(len(clean)) < flow.anchor_dropout).to(self.device)
        mixed = self.config.training.mixed_precision and self.device.startswith("cuda")
        with torch.autocast("cuda", torch.bfloat16) if mixed else contextlib.nullcontext():
            context = self.denoiser.context(pixels(batch.anchors).to(self.device))
            context = torch.where(dropped[:, None, None], self.denoiser.null_context(context), context)
            return flow_loss(lambda x, s: self.denoiser(x, condition, s, context), clean, noise, sigma, flow)

    def averaged(self) -> WristDenoiser:
        """Return the denoiser with the averaged weights in it."""
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(self.average[name])
        return self.denoiser.eval()


def _cosine(done: float) -> float:
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, done))))


@contextlib.contextmanager
def _bar(visible: bool) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Give a function that makes a named progress bar and returns what advances it."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not visible) as bars:

        def make(name: str) -> Callable[[int, int], None]:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield make
