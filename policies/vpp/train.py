"""Training the video predictor on the demonstrations: the first stage of the video policy.

A sample is a frame t of a window and one of its views; what is to be predicted are the frames t + stride, t + 2 stride,
…, past the window's end its last one again.  As in :mod:`policies.train`, everything random is a function of seed and
step, and the state to continue from is one file.  All of it lies in ``predictor/`` of the policy's folder.
"""

from __future__ import annotations

import copy
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policies.api import PolicyError
from policies.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from policies.data import DeviceArrays, SampleOrder
from policies.progress import HISTORY_FILE, STATE_FILE, History, remove_state, restore_state, save_state, training_bar
from policies.tracking import NONE, open_tracker
from policies.vpp.clips import Clips
from policies.vpp.config import PREDICTOR_FOLDER, VideoPolicyConfig
from policies.vpp.predictor import VideoPredictor, new_predictor
from policies.vpp.weights import finished_predictor, save_predictor

SCALE_SAMPLES = 512
VALIDATION_SAMPLES = 512
BATCH = 64


@dataclass(frozen=True)
class VideoValidation:
    """Averages over clips that were not trained on.

    Attributes:
        error: mean squared error of the frames expected in one pass over noise; 1 is the mean square of the changes in
            the training data.
        copy_error: the same of repeating the current frame.
        samples: how many clips.
    """

    error: float
    copy_error: float
    samples: int


def train_predictor(
    data: DeviceArrays,
    config: VideoPolicyConfig,
    folder: Path,
    *,
    identity: dict[str, Any],
    time_limit_s: float | None = None,
    held_out: DeviceArrays | None = None,
    progress: bool = True,
    resume: bool = True,
    log: str = NONE,
) -> VideoPredictor:
    """Train the predictor of the policy in ``folder``; a finished one is read, an interrupted one continued.

    Args:
        data: the demonstrations, on the device to train on.
        config: the policy's.
        folder: the policy's.
        identity: what the training is of: arm, data, and the seed of weights, order and noise; a predictor of another
            training is refused.
        time_limit_s: stop after this much training time; the learning rate then falls with the time as well.
        held_out: demonstrations that are only looked at.
        progress: draw a progress bar on stderr.
        resume: false throws away what is there.
        log: where the curves go besides ``history.jsonl``, see :mod:`policies.tracking`.

    Raises:
        PolicyError: the folder holds another training, the loss became NaN, or the disk is full.
    """
    from policies.train import STEPS_PER_SEED, Schedule, make_optimiser, update_average

    directory, device, settings = folder / PREDICTOR_FOLDER, data.device, config.predictor
    seed = int(identity["seed"])
    identity = identity | {"config": config.predictor_json()}
    if not resume:
        for name in (CONFIG_FILE, WEIGHTS_FILE, STATE_FILE, HISTORY_FILE):
            (directory / name).unlink(missing_ok=True)
    done = finished_predictor(config, folder, identity)
    if done is not None:
        return done.to(device)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = new_predictor(config).to(device)
    clips = Clips(data, config, changed=True)
    predictor.change.fill_(_change(predictor, Clips(data, config, changed=False), seed))
    average = copy.deepcopy(predictor).requires_grad_(False)
    optimiser = make_optimiser(predictor, settings)
    step, elapsed_before = restore_state(directory, identity, predictor, average, optimiser)
    name = f"{config.label} predictor {identity['arm']} seed {seed}"
    history = History(directory, step, open_tracker(log, directory, step, name, identity))
    order, generator = SampleOrder(len(clips), settings.batch, seed), torch.Generator(device)
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()

    started, rates = time.monotonic(), Schedule(settings, time_limit_s)
    losses: list[Tensor] = []
    with training_bar(progress) as bar:
        task = bar.add_task(name, total=settings.steps, completed=step, loss="–")
        elapsed = elapsed_before
        while step < settings.steps and (time_limit_s is None or elapsed < time_limit_s):
            generator.manual_seed(seed * STEPS_PER_SEED + step)
            batch = clips.batch(torch.from_numpy(order.indices(step)).to(device), generator)
            rate = rates.at(step, elapsed)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with autocast:
                loss = predictor.loss(**vars(batch))
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(predictor.parameters(), settings.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            update_average(average, predictor, settings.ema, step)
            losses.append(loss.detach())
            step += 1
            elapsed = elapsed_before + time.monotonic() - started

            if step % settings.log_every == 0 or step == settings.steps:
                mean = float(torch.stack(losses).mean())
                losses.clear()
                if not math.isfinite(mean):
                    raise PolicyError(
                        f"video predictor: loss became {mean} before step {step}; lower its learning_rate "
                        f"{settings.learning_rate}"
                    )
                history.add(step, loss=mean, learning_rate=rate, gradient_norm=float(norm), elapsed_s=round(elapsed, 3))
                history.flush()
                bar.update(task, completed=step, loss=f"{mean:.4f}")
            if held_out is not None and settings.validate_every and step % settings.validate_every == 0:
                history.add(step, validation=asdict(validate_predictor(average, held_out)))
            if step % settings.checkpoint_every == 0 and step < settings.steps:
                save_state(directory, identity, step, elapsed, predictor, average, optimiser)

    record = identity | {"steps_done": step, "seconds": round(elapsed, 3), "loss": history.last_loss}
    record["validation"] = asdict(validate_predictor(average, data if held_out is None else held_out))
    record["validated_on"] = "training" if held_out is None else "validation"
    history.add(step, validation=record["validation"])
    history.close()
    average.training_record = record
    save_predictor(average, folder)
    remove_state(directory)
    return average


@torch.no_grad()
def _change(predictor: VideoPredictor, clips: Clips, seed: int) -> float:
    """Return the root mean square of what changes from the current frame, in latents: the predictor's unit."""
    chosen = np.random.default_rng(seed).permutation(len(clips))[:SCALE_SAMPLES]
    squares: list[float] = []
    generator = torch.Generator(predictor.noise.device).manual_seed(seed)
    for start in range(0, len(chosen), BATCH):
        batch = clips.batch(torch.from_numpy(chosen[start : start + BATCH]).to(predictor.noise.device), generator)
        squares.append(float(_wanted(predictor, batch.image, batch.future).square().mean()))
    return max(math.sqrt(float(np.mean(squares))), 1e-3)


def _wanted(predictor: VideoPredictor, image: Tensor, future: Tensor) -> Tensor:
    latents = predictor.latents(future.flatten(0, 1)).unflatten(0, future.shape[:2])
    return predictor.targets(predictor.latents(image), latents)


@torch.no_grad()
def validate_predictor(
    predictor: VideoPredictor, data: DeviceArrays, *, samples: int = VALIDATION_SAMPLES
) -> VideoValidation:
    """Score the predictor's one pass over noise on a fixed random subset of ``data``."""
    clips = Clips(data, predictor.config, changed=False)
    chosen = np.random.default_rng(0).permutation(len(clips))[:samples]
    generator = torch.Generator(data.device).manual_seed(0)
    errors, copies, sizes = [], [], []
    for start in range(0, len(chosen), BATCH):
        batch = clips.batch(torch.from_numpy(chosen[start : start + BATCH]).to(data.device), generator)
        wanted = _wanted(predictor, batch.image, batch.future)
        expected = predictor.expected(batch.image, batch.sentence, batch.view)
        errors.append(float((expected - wanted).square().mean()))
        copies.append(float(wanted.square().mean()))
        sizes.append(len(wanted))
    return VideoValidation(
        float(np.average(errors, weights=sizes)), float(np.average(copies, weights=sizes)), len(chosen)
    )
