"""The training loop that stage 2 and its learned baselines share: schedule, weight average, history, resumption.

A killed run continues from its last state as if nothing had happened; with a fixed number of steps and no time limit,
the result is the same for the same seed on a CPU.  Not here: losses, data, what becomes of the weights.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel import checkpoint
from worldmodel.api import WorldModelError
from worldmodel.stage2_config import TrainingConfig

WARM_UP = 0.05  # of the run
HISTORY_STEPS = 20

Tick = Callable[[int, int], None]


def same_run(found: Any, run: dict[str, Any], directory: Path) -> None:
    """Refuse to go on with a run of other settings.

    Raises:
        WorldModelError: ``found``, read from ``directory``, differs from ``run``; the message names the settings.
    """
    wanted = json.loads(json.dumps(run))
    if found != wanted:
        names = sorted(name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name])
        raise WorldModelError(
            f"{directory} holds a training run with other settings ({', '.join(names)}): name another folder"
        )


class TrainingLoop:
    """The moving parts of one run."""

    def __init__(self, model: nn.Module, options: TrainingConfig, run: dict[str, Any], directory: Path) -> None:
        """Set up, and restore what an interrupted run left in ``directory``.

        Args:
            model: its parameters that require a gradient are trained.
            options: optimizer settings.
            run: JSON data that identifies the run; ``seed`` and ``steps`` are read from it, and ``time_limit_s``:
                seconds of training after which the run ends early, the learning rate falling along with it.
            directory: where the state is kept.
        """
        self.model, self.options, self.run, self.directory = model, options, run, directory
        self.random = np.random.default_rng(run["seed"])
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.weights.items()}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.99)
        )
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        state = checkpoint.load_training_state(directory)
        if state is not None:
            self._restore(state)

    def _restore(self, state: checkpoint.TrainingState) -> None:
        same_run(state.config, self.run, self.directory)
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(state.tensors[f"now.{name}"])
                self.average[name].copy_(state.tensors[f"average.{name}"])
        state.restore_optimizer(self.optimizer)
        state.restore_rng(self.random)
        self.step, self.seconds = int(state.extra["step"]), float(state.extra["seconds"])
        self.history = list(state.extra["history"])

    def save(self) -> None:
        """Write a state from which a later run goes on."""
        tensors = {f"now.{name}": value.detach() for name, value in self.weights.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        extra = {"step": self.step, "seconds": self.seconds, "history": self.history}
        checkpoint.save_training_state(
            self.directory, self.run, tensors, extra, optimizer=self.optimizer, numpy_generator=self.random
        )

    def train(self, loss: Callable[[np.random.Generator], Tensor], tick: Tick) -> None:
        """Run to the end.

        Args:
            loss: draws a batch with the generator it is given, and returns its loss.
            tick: told (steps done, steps in all) after every step.
        """
        steps = int(self.run["steps"])
        start, saved = time.monotonic() - self.seconds, time.monotonic()
        losses: list[float] = []
        while self.step < steps and (done := self._done(steps)) < 1:
            losses.append(self._update(loss, done + 1 / steps))
            self.seconds = time.monotonic() - start
            if self.step % HISTORY_STEPS == 0 or self.step == steps:
                seconds = round(self.seconds, 2)
                self.history.append({"step": self.step, "loss": float(np.mean(losses)), "seconds": seconds})
                losses = []
                if time.monotonic() - saved > self.options.save_every_s:
                    self.save()
                    saved = time.monotonic()
            tick(self.step, steps)

    def _done(self, steps: int) -> float:
        limit = self.run.get("time_limit_s")
        return max(self.step / steps, 0.0 if limit is None else self.seconds / limit)

    def _update(self, loss: Callable[[np.random.Generator], Tensor], done: float) -> float:
        """Do one optimizer step and return its loss."""
        options = self.options
        falling = 0.5 * (1 + float(np.cos(np.pi * min(1.0, done))))
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1.0, done / WARM_UP) * falling
        self.model.train()
        value = loss(self.random)
        if not torch.isfinite(value):
            raise WorldModelError(
                f"training diverged at step {self.step}: lower learning_rate ({options.learning_rate})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.weights.values(), options.gradient_clip)
        self.optimizer.step()
        self.step += 1
        decay = min(options.ema_decay, self.step / (9 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - decay)
        return float(value.detach())

    def finish(self) -> dict[str, Any]:
        """Put the averaged weights into the model and return what a record should keep of the run."""
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(self.average[name])
        self.model.eval()
        return {
            "run": self.run,
            "history": self.history,
            "seconds": round(self.seconds, 1),
            "steps_done": self.step,
        }


@contextlib.contextmanager
def progress_bars(visible: bool) -> Iterator[Callable[[str], Tick]]:
    """Give a function that makes a named progress bar on stderr and returns what advances it."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not visible) as bars:

        def make(name: str) -> Tick:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield make
