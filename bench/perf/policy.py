"""How fast a policy trains and answers, beside what the device can do at all, measured in the same run.

Training is :func:`policies.train.train_policy` on random pictures, timed between two of its steps, alone or several
side by side in as many processes.  What bounds it is counted in ``bench/perf/roofline.py``.  A part that fails is named
in the result and costs none of the others.  Not here: the command line, and how good the policy becomes.
"""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import UserError
from bench.perf import roofline
from policies.api import PolicyError
from policies.config import FlowPolicyConfig
from policies.kinds import config_class
from policies.vpp.config import VideoPolicyConfig

if TYPE_CHECKING:
    from policies.data import PolicyArrays

FRAMES, WINDOW = 2048, 64
LATENCY_BATCHES = (1, 16, 64)
WARM_SHARE = 0.5
PARTS = ("train", "latency")
SIDE_BY_SIDE_S = 600.0
"""Longest wait of trainings side by side for the slowest of them to compile."""


@dataclass(frozen=True)
class PolicyPerf:
    """What is measured.

    Attributes:
        kind: ``flow`` or ``vpp``, whose video predictor is given first weights: its training is not measured.
        scale: ``tiny``, ``small`` or ``base``; see ``policies/vpp/config.py`` for ``vpp``'s.
        parts: which of :data:`PARTS`.
        device: ``cpu`` or ``cuda``; None for a GPU where there is one.
        steps: training steps; the second half is timed.
        batch: samples a step, or the scale's own.
        launch: how training steps are launched, see ``policies/gradients.py``; None for what training takes by itself.
        parallel: trainings side by side on the one device.
        changes: other fields of the policy's configuration, for ablations.
        seed: of pictures and weights.
    """

    scale: str = "small"
    parts: tuple[str, ...] = PARTS
    device: str | None = None
    steps: int = 60
    batch: int | None = None
    launch: str | None = None
    parallel: int = 1
    changes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    kind: str = "flow"

    def __post_init__(self) -> None:
        """Refuse what cannot be timed."""
        if self.steps < 10:
            raise UserError(f"perf policy: expected at least 10 steps, got {self.steps}; half of them warm up")
        if self.parallel < 1:
            raise UserError(f"perf policy: expected at least 1 training side by side, got {self.parallel}")
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise UserError(f"perf policy: expected parts of {', '.join(PARTS)}, got {', '.join(unknown) or 'none'}")

    @property
    def config(self) -> FlowPolicyConfig:
        """The policy that is measured."""
        preset = config_class(self.kind).preset(self.scale, **self.changes)
        batch = self.batch or preset.training.batch
        # A row of history waits for the GPU and for the disk: one, at the end.
        training = replace(preset.training, steps=self.steps, batch=batch, log_every=self.steps)
        if isinstance(preset, VideoPolicyConfig):
            return replace(preset, training=training, predictor=replace(preset.predictor, steps=1, batch=1))
        return replace(preset, training=training)


def _arrays(config: FlowPolicyConfig, frames: int, seed: int) -> PolicyArrays:
    from policies.api import ACTION_DIM
    from policies.data import PolicyArrays

    rng = np.random.default_rng(seed)

    def pictures(size: int) -> Any:
        return rng.integers(0, 256, (frames, size, size, 3), np.uint8)

    actions = rng.uniform(-1, 1, (frames, ACTION_DIM)).astype(np.float32)
    actions[:, -1] = np.where(actions[:, -1] > 0, 1, -1)
    starts = np.arange(0, frames, WINDOW)
    return PolicyArrays(
        anchor=pictures(config.anchor_size),
        wrist=pictures(config.wrist_size),
        wrist_present=np.ones(frames, np.bool_),
        actions=actions,
        windows=np.stack([starts, np.minimum(starts + WINDOW, frames)], axis=1),
        window_sentence=np.zeros(len(starts), np.int64),
        sentences=("move on",),
    )


def _train(
    config: FlowPolicyConfig, device: str, launch: str | None, seed: int, at_warm: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Train once; return samples a second of the timed steps, seconds until the first step was done, and the launch."""
    import torch

    from policies.train import train_policy

    warm = max(2, round(config.training.steps * WARM_SHARE))
    times: dict[int, float] = {}

    def on_step(step: int) -> None:
        if step in (1, warm, config.training.steps):
            if device == "cuda":
                torch.cuda.synchronize()
            if step == warm:
                at_warm()
            times[step] = time.monotonic()

    arrays = _arrays(config, max(FRAMES, config.training.batch), seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wristbench-perf-") as folder:
        policy = train_policy(
            arrays, config, folder, arm="real", seed=seed, device=device, progress=False, launch=launch,
            data_hash="random", on_step=on_step,
        )  # fmt: skip
    last = config.training.steps
    return {
        "samples_per_s": config.training.batch * (last - warm) / (times[last] - times[warm]),
        "first_step_s": times[1] - started,
        "launch": policy.training["launch"],
    }


def _train_in_process(
    number: int, settings: tuple[FlowPolicyConfig, str, str | None], start: Any, answers: Any
) -> None:
    """Train once in a process of its own, timed from the moment that all are warm; answer with the figures."""
    try:
        answers.put((number, _train(*settings, number, start.wait), None))
    except Exception as error:
        start.abort()
        answers.put((number, None, one_line(error)))


def _answers(processes: Sequence[Any], answers: Any) -> list[tuple[int, Any, str | None]]:
    """Return the answer of each process; one that ends without is an error."""
    given: list[tuple[int, Any, str | None]] = []
    while len(given) < len(processes):
        dead = [process.exitcode for process in processes if process.exitcode]
        try:
            given.append(answers.get(timeout=1))
        except queue.Empty:
            if dead:
                raise UserError(f"a training beside others was ended from outside, exit code {dead[0]}") from None
    return given


def _train_side_by_side(config: FlowPolicyConfig, device: str, launch: str | None, count: int) -> dict[str, Any]:
    """Train ``count`` policies at once; ``samples_per_s`` is that of all of them."""
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(count, timeout=SIDE_BY_SIDE_S), context.Queue()
    processes = [
        context.Process(target=_train_in_process, args=(number, (config, device, launch), start, answers), daemon=True)
        for number in range(count)
    ]
    for process in processes:
        process.start()
    try:
        given = _answers(processes, answers)
    finally:
        for process in processes:
            process.join(timeout=30)
            process.kill()
    failed = [reason for _, _, reason in given if reason and "BrokenBarrier" not in reason]
    if failed:
        raise UserError(failed[0])
    each = [figures["samples_per_s"] for _, figures, _ in sorted(given, key=lambda one: one[0])]
    return {
        "samples_per_s": sum(each),
        "samples_per_s_each": each,
        "first_step_s": max(figures["first_step_s"] for _, figures, _ in given),
        "launch": given[0][1]["launch"],
    }


def _training(options: PolicyPerf, device: str) -> dict[str, Any]:
    """Return the training's rate, and how much of what the device could do that is."""
    config = options.config
    if options.parallel == 1:
        rate = _train(config, device, options.launch, options.seed)
    else:
        rate = _train_side_by_side(config, device, options.launch, options.parallel)
    work = roofline.work_per_sample(config, _arrays(config, WINDOW, options.seed), half=device == "cuda")
    limits = roofline.machine(device)
    bounds = roofline.bound(work, limits)
    return {
        "batch": config.training.batch,
        "steps": options.steps,
        "parallel": options.parallel,
        **rate,
        "gflop_per_sample": work.flop / 1e9,
        "product_mb_per_sample": work.product_bytes / 1e6,
        **limits,
        "bound_samples_per_s": bounds,
        "share_of_matmul": rate["samples_per_s"] / bounds["by_products"],
        "share_of_copy": rate["samples_per_s"] / bounds["by_memory"],
    }


def _latency(options: PolicyPerf, device: str) -> dict[str, Any]:
    """Return milliseconds of one call of ``act`` by batch: pictures at camera size in, actions out."""
    from policies.api import ANCHOR, WRIST, Observation
    from policies.flow import FlowPolicy

    policy = FlowPolicy.initial(options.config, "real", ["move on"], seed=options.seed)
    policy = FlowPolicy(policy.network, policy.spec, policy.normaliser, policy.sentences, device=device)
    rng = np.random.default_rng(options.seed)
    views = {ANCHOR: rng.integers(0, 256, (200, 200, 3), np.uint8), WRIST: rng.integers(0, 256, (84, 84, 3), np.uint8)}
    one = Observation(views=views, instruction="move on")

    def calls(size: int) -> Callable[[], object]:
        return lambda: policy.act([one] * size, range(size))

    repeats = 20 if device == "cuda" else 3
    return {"latency_ms": {str(size): roofline.seconds(calls(size), repeats, device) * 1e3 for size in LATENCY_BATCHES}}


def one_line(error: BaseException) -> str:
    """Return an error as one short line."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError | PolicyError):
        return text
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def measure(options: PolicyPerf) -> dict[str, Any]:
    """Time training and inference of one policy.

    Returns:
        ``kind``, ``scale``, ``device``, ``threads`` (of a CPU), ``parameters``, ``changes`` and, by part:
        ``train``: ``samples_per_s`` (both views, images on the device; of all trainings side by side), ``first_step_s``
        (until the first step was done: compiling), ``launch``, ``gflop_per_sample``, ``product_mb_per_sample``,
        ``matmul_tflops`` and ``copy_gb_per_s`` of the device, ``bound_samples_per_s`` that follow from these, and the
        shares of them that were reached; ``latency``: ``latency_ms`` by batch.
        ``failed``: part to reason, for parts that could not be measured.

    Raises:
        UserError: no part could be measured.
    """
    import torch

    from policies.flow import initial_network

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {
        "kind": options.kind,
        "scale": options.scale,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "changes": dict(options.changes),
        "parameters": initial_network(options.config, options.seed).parameters_count(),
    }
    parts: dict[str, Callable[[PolicyPerf, str], dict[str, Any]]] = {"train": _training, "latency": _latency}
    failed: dict[str, str] = {}
    for name in options.parts:
        try:
            result |= parts[name](options, device)
        except Exception as error:
            failed[name] = one_line(error)
    if len(failed) == len(options.parts):
        raise UserError(f"perf policy: {'; '.join(f'{part}: {reason}' for part, reason in failed.items())}")
    return result | {"failed": failed}


def parse_changes(texts: Sequence[str], kind: str = "flow") -> dict[str, Any]:
    """Return ``NAME=VALUE`` texts as fields of a configuration.

    Raises:
        UserError: not of that form, or no such field.
    """
    import json
    from dataclasses import fields

    known = {one.name for one in fields(config_class(kind))} - {"training", "predictor"}
    changes = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known or not value:
            raise UserError(f"change {text!r}: expected NAME=VALUE with a NAME of {', '.join(sorted(known))}")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes
