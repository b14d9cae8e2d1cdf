"""The training loop of the flow policy: one file, read from top to bottom.

Everything random is a function of seed and step (which samples, noise, flow times, shifts), so a run that was killed
continues to the same weights, and the arms of a comparison read the same samples with the same noise.  The state to
continue from is one safetensors file, replaced whole.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policies.api import ANCHOR, WRIST, PolicyError
from policies.checkpoint import CONFIG_FILE, save
from policies.config import FlowPolicyConfig, TrainingConfig
from policies.data import DeviceArrays, PolicyArrays, SampleOrder
from policies.flow import FlowPolicy, flow_spec, initial_network, placed
from policies.gradients import Gradients, usual_launch
from policies.progress import (
    HISTORY_FILE,
    STATE_FILE,
    History,
    finished,
    remove_state,
    restore_state,
    save_state,
    training_bar,
)
from policies.text import PRECOMPUTED, SentenceTable
from policies.tracking import NONE, open_tracker
from policies.validate import validate

STEPS_PER_SEED = 1_000_003
EMA_RAMP = 10


def train_policy(
    arrays: PolicyArrays,
    config: FlowPolicyConfig,
    directory: Path | str,
    *,
    arm: str,
    seed: int = 0,
    steps: int | None = None,
    time_limit_s: float | None = None,
    device: str | torch.device = "cpu",
    validation: PolicyArrays | None = None,
    progress: bool = True,
    data_hash: str = "",
    resume: bool = True,
    sentences: SentenceTable | None = None,
    wrist_optional: bool = False,
    launch: str | None = None,
    log: str = NONE,
    on_step: Callable[[int], None] | None = None,
) -> FlowPolicy:
    """Train a policy and leave it in ``directory``; a finished one is read, an interrupted one continued.

    Args:
        arrays: the demonstrations; for arm ``anchor`` the wrist views in them are not read.
        config: architecture and training settings.
        directory: checkpoint folder; also gets ``history.jsonl``.
        arm: name of the experiment arm, kept in the checkpoint.
        seed: first weights, order of samples, noise.
        steps: replaces ``config.training.steps``.
        time_limit_s: stop after this much training time; the learning rate then falls with the time as well.
        device: ``"cpu"``, ``"cuda"``, …
        validation: demonstrations that are only looked at.
        progress: draw a progress bar on stderr.
        data_hash: identity of ``arrays``; computed from them if empty.
        resume: false throws away what is in ``directory``; true refuses to continue a different training.
        sentences: vectors of the instructions; needed for ``config.text="precomputed"`` only.
        wrist_optional: the policy may be asked without a wrist view at test time (the data must have such samples).
        launch: how steps are launched, see :mod:`policies.gradients`; None: as fast as this training can be.
        log: where the curves go besides ``history.jsonl``, see :mod:`policies.tracking`.
        on_step: called with the number of steps done after each.

    Raises:
        PolicyError: data, configuration and folder do not fit together, the loss became NaN, or the disk is full.
    """
    directory, device = Path(directory), torch.device(device)
    if steps is not None:
        config = replace(config, training=replace(config.training, steps=steps))
    settings = config.training
    spec = flow_spec(config, arm, wrist_optional=wrist_optional)
    use_wrist = WRIST in spec.views
    for part in (arrays, validation):
        if part is not None:
            _check_sizes(part, config, use_wrist)
    identity: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "data_hash": data_hash or arrays.fingerprint(),
        "wrist_optional": wrist_optional,
        "config": config.to_json(),
    }
    if not resume:
        for name in (CONFIG_FILE, STATE_FILE, HISTORY_FILE):
            (directory / name).unlink(missing_ok=True)
    done = finished(directory, identity, device)
    if done is not None:
        return done

    table = _sentence_table(arrays, config, sentences)
    normaliser = arrays.fit_normaliser()
    network = placed(initial_network(config, seed), device)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = make_optimiser(network, settings)
    step, elapsed_before = restore_state(directory, identity, network, average, optimiser)

    def on_device(part: PolicyArrays, shift: float, jitter: float, recolour: float) -> DeviceArrays:
        vectors = np.stack([table.lookup(sentence) for sentence in part.sentences])
        return DeviceArrays(
            part, normaliser, vectors, config.chunk, device, use_wrist=use_wrist, shift=shift, jitter=jitter,
            recolour=recolour, proprio=config.use_proprio, proprio_dropout=settings.proprio_dropout if shift else 0.0,
        )  # fmt: skip

    data = on_device(arrays, settings.shift, settings.jitter, settings.recolour)
    held_out = None if validation is None else on_device(validation, 0.0, 0.0, 0.0)
    before = network.prepare(
        data, held_out, directory, {name: value for name, value in identity.items() if name != "config"},
        time_limit_s=time_limit_s, progress=progress, resume=resume, log=log,
    )  # fmt: skip
    tracker = open_tracker(log, directory, step, f"{spec.name} {arm} seed {seed}", identity)
    history = History(directory, step, tracker)
    if time_limit_s is not None:
        time_limit_s = max(0.0, time_limit_s - before.get("seconds", 0.0))
    order = SampleOrder(len(data), settings.batch, seed)
    generator = torch.Generator(device)
    samples = settings.steps * settings.batch
    gradients = Gradients(network, device, launch or usual_launch(device, settings.compile, samples, time_limit_s))

    started, first_step, rates = time.monotonic(), step, Schedule(settings, time_limit_s)
    losses: list[Tensor] = []
    with training_bar(progress) as bar:
        task = bar.add_task(f"{spec.name} {arm} seed {seed}", total=settings.steps, completed=step, loss="–")
        elapsed = elapsed_before
        while step < settings.steps and (time_limit_s is None or elapsed < time_limit_s):
            generator.manual_seed(seed * STEPS_PER_SEED + step)
            batch = data.batch(torch.from_numpy(order.indices(step)).to(device), generator)
            rate = rates.at(step, elapsed)
            for group in optimiser.param_groups:
                group["lr"] = rate
            losses.append(gradients(batch))
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            update_average(average, network, settings.ema, step)
            step += 1
            elapsed = elapsed_before + time.monotonic() - started

            if step % settings.log_every == 0 or step == settings.steps:
                mean = float(torch.stack(losses).mean())
                losses.clear()
                if not math.isfinite(mean):
                    raise PolicyError(
                        f"loss became {mean} before step {step}; lower learning_rate {settings.learning_rate}"
                    )
                history.add(step, loss=mean, learning_rate=rate, gradient_norm=float(norm), elapsed_s=round(elapsed, 3))
                history.flush()
                bar.update(task, completed=step, loss=f"{mean:.4f}")
            if held_out is not None and settings.validate_every and step % settings.validate_every == 0:
                score = validate(average, held_out, normaliser, validation.window_task if validation else ())
                history.add(step, validation=score.to_json())
            if step % settings.checkpoint_every == 0 and step < settings.steps:
                if losses and not bool(torch.isfinite(torch.stack(losses)).all()):
                    raise PolicyError(
                        f"loss became NaN before step {step}; lower learning_rate {settings.learning_rate}"
                    )
                save_state(directory, identity, step, elapsed, network, average, optimiser)
            if on_step is not None:
                on_step(step)

    record: dict[str, Any] = {name: value for name, value in identity.items() if name != "config"}
    record |= {"steps_done": step, "seconds": round(elapsed, 3), "device": device.type, "torch": torch.__version__}
    record["launch"] = gradients.launch
    record["samples_per_s"] = round((step - first_step) * settings.batch / max(time.monotonic() - started, 1e-9), 1)
    record["loss"] = history.last_loss
    if before:
        record["before"] = before
    if held_out is not None:
        score = validate(average, held_out, normaliser, validation.window_task if validation else ())
        history.add(step, validation=score.to_json())
        record["validation"] = score.to_json()
    history.close()
    policy = FlowPolicy(
        average, spec, normaliser, table,
        data_hash=identity["data_hash"], training=record, view_sizes=arrays.view_sizes, device=device,
    )  # fmt: skip
    save(policy, directory)
    remove_state(directory)
    return policy


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


def _check_sizes(arrays: PolicyArrays, config: FlowPolicyConfig, use_wrist: bool) -> None:
    views = [(ANCHOR, arrays.anchor, config.anchor_size)]
    if use_wrist and arrays.wrist is not None:
        views.append((WRIST, arrays.wrist, config.wrist_size))
    for name, images, size in views:
        if images.shape[1:3] != (size, size):
            raise PolicyError(
                f"{name} frames: policy {config.name!r} wants {size}x{size}, got {images.shape[1]}x{images.shape[2]}; "
                "pass them through policies.data.resize_frames"
            )


def _sentence_table(arrays: PolicyArrays, config: FlowPolicyConfig, given: SentenceTable | None) -> SentenceTable:
    if given is None and config.text == PRECOMPUTED:
        raise PolicyError("text='precomputed' needs sentences=SentenceTable(...) with the vectors")
    table = given or SentenceTable.build(config.text, arrays.sentences)
    if table.encoder != config.text or table.dim != config.text_dim:
        raise PolicyError(
            f"sentence table is {table.encoder!r} of length {table.dim}, the configuration says {config.text!r} of "
            f"length {config.text_dim}; make them agree"
        )
    return table


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
