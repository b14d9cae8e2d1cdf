"""Training the video predictor on the demonstrations: the first stage of the video policy.

A sample is a frame t of a window and one of its views; what is to be predicted are the frames t + stride, t + 2 stride,
…, past the window's end its last one again.  The loop is :func:`policies.loop.train`; all files lie in ``predictor/``
of the policy's folder.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policies.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from policies.data import DeviceArrays
from policies.loop import Course, train
from policies.progress import HISTORY_FILE, STATE_FILE, remove_state
from policies.tracking import NONE
from policies.vpp.clips import ClipBatch, Clips
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
    directory, device, settings = folder / PREDICTOR_FOLDER, data.device, config.predictor
    seed = int(identity["seed"])
    identity = identity | {"config": config.predictor_json()}
    if not resume:
        for name in (CONFIG_FILE, WEIGHTS_FILE, STATE_FILE, HISTORY_FILE):
            (directory / name).unlink(missing_ok=True)
    earlier = finished_predictor(config, folder, identity)
    if earlier is not None:
        return earlier.to(device)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = new_predictor(config).to(device)
    clips = Clips(data, config, changed=True)
    predictor.change.fill_(_change(predictor, Clips(data, config, changed=False), seed))
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()

    def gradients(batch: ClipBatch) -> Tensor:
        predictor.zero_grad(set_to_none=True)
        with autocast:
            loss = predictor.loss(**vars(batch))
        loss.backward()
        return loss.detach()

    def score(average: VideoPredictor) -> dict[str, Any]:
        return asdict(validate_predictor(average, data if held_out is None else held_out))

    course = Course(
        f"{config.label} predictor {identity['arm']} seed {seed}", directory, identity, predictor, settings, seed,
        len(clips), clips.batch, gradients, None if held_out is None else score,
    )  # fmt: skip
    done = train(course, device, time_limit_s=time_limit_s, progress=progress, log=log)

    record = identity | {"steps_done": done.steps, "seconds": round(done.elapsed, 3), "loss": done.history.last_loss}
    record["validation"] = score(done.average)
    record["validated_on"] = "training" if held_out is None else "validation"
    done.history.add(done.steps, validation=record["validation"])
    done.history.close()
    done.average.training_record = record
    save_predictor(done.average, folder)
    remove_state(directory)
    return done.average


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
