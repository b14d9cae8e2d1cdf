"""The training loop: batch, gradients, step, averaged weights; what is logged, validated and saved on the way.

One loop for all that is trained on :class:`policies.data.DeviceArrays`: the policy (:mod:`policies.train`) and the
predictor that a video policy begins with (:mod:`policies.vpp.train`).  Everything random is a function of seed and step
(which samples, noise, flow times, shifts), so a run that was killed continues to the same weights, and the arms of a
comparison read the same samples with the same noise.  The state to continue from is one safetensors file, replaced
whole (:mod:`policies.progress`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from policies.api import PolicyError
from policies.config import TrainingConfig
from policies.data import SampleOrder
from policies.progress import History, restore_state, save_state, training_bar
from policies.tracking import NONE, open_tracker

STEPS_PER_SEED = 1_000_003
EMA_RAMP = 10

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Course(Generic[Network]):
    """What is trained, and on what.

    Attributes:
        name: in the bar and in trackers.
        directory: gets the history and, while it runs, the state to continue from.
        identity: what the training is of, as JSON data with ``config``; the state of another one is refused.
        network: on the device to train on.
        settings: steps, batch, learning rate, ….
        seed: of order, noise, changes of the pictures.
        samples: how many there are.
        batch: sample numbers (B,) and a generator that was seeded for this step, to a batch.
        gradients: takes a batch, leaves its gradients in the network and returns the loss, detached.
        score: the averaged network on data that is only looked at, as JSON data; None for none while it trains.
    """

    name: str
    directory: Path
    identity: dict[str, Any]
    network: Network
    settings: TrainingConfig
    seed: int
    samples: int
    batch: Callable[[Tensor, torch.Generator], Any]
    gradients: Callable[[Any], Tensor]
    score: Callable[[Network], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Trained(Generic[Network]):
    """How a training ended.

    Attributes:
        average: the network with averaged weights.
        history: still open: the last score is the caller's.
        steps: all that were done.
        elapsed: seconds that they took, those before a kill included.
        samples_per_s: of the steps that were done now.
    """

    average: Network
    history: History
    steps: int
    elapsed: float
    samples_per_s: float


def train(
    course: Course[Network],
    device: torch.device,
    *,
    time_limit_s: float | None = None,
    progress: bool = True,
    log: str = NONE,
    on_step: Callable[[int], None] | None = None,
) -> Trained[Network]:
    """Train to the last step or the end of the time, from where an earlier attempt was saved.

    Args:
        course: what is trained.
        device: where.
        time_limit_s: stop after this much training time; the learning rate then falls with the time as well.
        progress: draw a progress bar on stderr.
        log: where the curves go besides ``history.jsonl``, see :mod:`policies.tracking`.
        on_step: called with the number of steps done after each.

    Raises:
        PolicyError: the folder holds the state of another training, the loss became NaN, or the disk is full.
    """
    directory, identity, network, settings = course.directory, course.identity, course.network, course.settings
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = make_optimiser(network, settings)
    step, elapsed_before = restore_state(directory, identity, network, average, optimiser)
    history = History(directory, step, open_tracker(log, directory, step, course.name, identity))
    order, generator = SampleOrder(course.samples, settings.batch, course.seed), torch.Generator(device)

    started, first_step, rates = time.monotonic(), step, Schedule(settings, time_limit_s)
    losses: list[Tensor] = []
    with training_bar(progress) as bar:
        task = bar.add_task(course.name, total=settings.steps, completed=step, loss="–")
        elapsed = elapsed_before
        while step < settings.steps and (time_limit_s is None or elapsed < time_limit_s):
            generator.manual_seed(course.seed * STEPS_PER_SEED + step)
            batch = course.batch(torch.from_numpy(order.indices(step)).to(device), generator)
            rate = rates.at(step, elapsed)
            for group in optimiser.param_groups:
                group["lr"] = rate
            losses.append(course.gradients(batch))
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            update_average(average, network, settings.ema, step)
            step += 1
            elapsed = elapsed_before + time.monotonic() - started

            if step % settings.log_every == 0 or step == settings.steps:
                mean = _finite_mean(losses, course, step)
                losses.clear()
                history.add(step, loss=mean, learning_rate=rate, gradient_norm=float(norm), elapsed_s=round(elapsed, 3))
                history.flush()
                bar.update(task, completed=step, loss=f"{mean:.4f}")
            if course.score is not None and settings.validate_every and step % settings.validate_every == 0:
                history.add(step, validation=course.score(average))
            if step % settings.checkpoint_every == 0 and step < settings.steps:
                _finite_mean(losses, course, step)
                save_state(directory, identity, step, elapsed, network, average, optimiser)
            if on_step is not None:
                on_step(step)
    seconds = max(time.monotonic() - started, 1e-9)
    return Trained(average, history, step, elapsed, (step - first_step) * settings.batch / seconds)


def _finite_mean(losses: list[Tensor], course: Course[Any], step: int) -> float:
    """Return the mean, 0 of none; a loss that is none ends the training, before it is saved."""
    mean = float(torch.stack(losses).mean()) if losses else 0.0
    if not math.isfinite(mean):
        raise PolicyError(
            f"{course.name}: loss became {mean} before step {step}; lower learning_rate {course.settings.learning_rate}"
        )
    return mean


class Schedule:
    """Linear warm-up, then cosine to 0 over the steps, or over the time limit where that ends first."""

    def __init__(self, settings: TrainingConfig, time_limit_s: float | None) -> None:
        self.settings, self.limit = settings, time_limit_s
        self.warmup = min(settings.warmup, settings.steps // 10)

    def at(self, step: int, elapsed_s: float) -> float:
        """Return the learning rate of ``step``."""
        settings = self.settings
        if step < self.warmup:
            return settings.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, settings.steps - self.warmup)
        if self.limit is not None:
            done = max(done, min(1.0, elapsed_s / self.limit))
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimiser(network: nn.Module, settings: TrainingConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels only; learned tokens and positions are called by name."""
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in network.named_parameters():
        token = name.rsplit(".", 1)[-1] in ("position", "camera", "absent")
        (free if parameter.ndim < 2 or token else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards those of ``network``; ``decay`` is reached gradually, as ``step`` grows."""
    decay = min(decay, (1 + step) / (EMA_RAMP + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
