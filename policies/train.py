"""Training a policy: demonstrations, configuration and a folder to a checkpoint in it.

What is read and checked before, and what is recorded after; the loop itself is :func:`policies.loop.train`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies.api import ANCHOR, WRIST, PolicyError
from policies.checkpoint import CONFIG_FILE, save
from policies.config import FlowPolicyConfig
from policies.data import DeviceArrays, PolicyArrays
from policies.flow import FlowPolicy, flow_spec, initial_network, placed
from policies.gradients import Gradients, usual_launch
from policies.loop import Course, train
from policies.network import FlowNetwork
from policies.progress import HISTORY_FILE, STATE_FILE, finished, remove_state
from policies.text import PRECOMPUTED, SentenceTable
from policies.tracking import NONE
from policies.validate import validate


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
    earlier = finished(directory, identity, device)
    if earlier is not None:
        return earlier

    table = _sentence_table(arrays, config, sentences)
    normaliser = arrays.fit_normaliser()
    network = placed(initial_network(config, seed), device)

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
    if time_limit_s is not None:
        time_limit_s = max(0.0, time_limit_s - before.get("seconds", 0.0))
    samples = settings.steps * settings.batch
    gradients = Gradients(network, device, launch or usual_launch(device, settings.compile, samples, time_limit_s))

    def score(average: FlowNetwork) -> dict[str, Any]:
        assert held_out is not None
        return validate(average, held_out, normaliser, validation.window_task if validation else ()).to_json()

    course = Course(
        f"{spec.name} {arm} seed {seed}", directory, identity, network, settings, seed,
        len(data), data.batch, gradients, None if held_out is None else score,
    )  # fmt: skip
    done = train(course, device, time_limit_s=time_limit_s, progress=progress, log=log, on_step=on_step)

    record: dict[str, Any] = {name: value for name, value in identity.items() if name != "config"}
    record |= {"steps_done": done.steps, "seconds": round(done.elapsed, 3), "device": device.type}
    record |= {"torch": torch.__version__, "launch": gradients.launch, "samples_per_s": round(done.samples_per_s, 1)}
    record["loss"] = done.history.last_loss
    if before:
        record["before"] = before
    if course.score is not None:
        record["validation"] = course.score(done.average)
        done.history.add(done.steps, validation=record["validation"])
    done.history.close()
    policy = FlowPolicy(
        done.average, spec, normaliser, table,
        data_hash=identity["data_hash"], training=record, view_sizes=arrays.view_sizes, device=device,
    )  # fmt: skip
    save(policy, directory)
    remove_state(directory)
    return policy


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
