"""How fast a policy trains and answers, beside what the device can do at all, measured in the same run.

Training is :func:`policies.train.train_policy` on random pictures, timed by its own history after the first steps
(which compile).  A product of large matrices and a copy of a large tensor say how fast the device multiplies and moves
data: with the network's work per sample they bound what any implementation could reach.  Not here: the command line.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError
from policies.config import FlowPolicyConfig

FRAMES, WINDOW = 2048, 64
LATENCY_BATCHES = (1, 16, 64)
WARM_SHARE = 0.5
LOGS = 10
"""Rows of history in a run: a row waits for the GPU and for the disk, so they must be few."""


def _arrays(config: FlowPolicyConfig, frames: int, seed: int) -> Any:
    from policies.api import ACTION_DIM
    from policies.data import PolicyArrays

    rng = np.random.default_rng(seed)

    def pictures(size: int) -> Any:
        return rng.integers(0, 256, (frames, size, size, 3), np.uint8)

    actions = rng.uniform(-1, 1, (frames, ACTION_DIM)).astype(np.float32)
    actions[:, -1] = np.sign(actions[:, -1])
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


def _seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Return the wall time of one call, the mean over ``repeats`` after two to warm up."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    work()
    work()
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - started) / repeats


def _machine(device: str) -> dict[str, float]:
    """Return what the device reaches on its own: bf16 (CPU: f32) matrix products and copies."""
    import torch

    gpu = device == "cuda"
    side = 8192 if gpu else 1024
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    block = torch.empty((1 << 30) if gpu else (1 << 26), dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return {
        "matmul_tflops": 2 * side**3 / _seconds(lambda: a @ a, 20, device) / 1e12,
        "copy_gb_per_s": 2 * block.numel() / _seconds(lambda: other.copy_(block), 20, device) / 1e9,
    }


def _training_gflop(config: FlowPolicyConfig) -> float:
    """Return the 10⁹ floating-point operations (a multiply-add is two) of one training sample, both views seen."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from policies.data import DeviceArrays
    from policies.flow import initial_network

    arrays = _arrays(config, 2, 0)
    network = initial_network(config, 0)
    vectors = np.zeros((1, config.text_dim), np.float32)
    data = DeviceArrays(arrays, arrays.fit_normaliser(), vectors, config.chunk, torch.device("cpu"), use_wrist=True)
    batch = data.batch(torch.arange(2), torch.Generator())
    with FlopCounterMode(display=False) as counter:
        network.loss(batch.inputs, batch.actions, batch.valid, batch.noise, batch.t).backward()
    return float(counter.get_total_flops()) / 2 / 1e9


def _training_rate(config: FlowPolicyConfig, device: str, frames: int, seed: int) -> dict[str, float]:
    """Return samples a second once the first steps are done, and the seconds that those took beyond their share."""
    from policies.progress import HISTORY_FILE
    from policies.train import train_policy

    with tempfile.TemporaryDirectory(prefix="wristbench-perf-") as folder:
        train_policy(
            _arrays(config, frames, seed), config, folder, arm="real", seed=seed, device=device, progress=False
        )
        rows = [json.loads(line) for line in (Path(folder) / HISTORY_FILE).read_text().splitlines()]
    times = {row["step"]: row["elapsed_s"] for row in rows if "elapsed_s" in row}
    steps = sorted(times)
    warm = next(step for step in steps if step >= steps[-1] * WARM_SHARE)
    step_s = (times[steps[-1]] - times[warm]) / (steps[-1] - warm)
    return {"samples_per_s": config.training.batch / step_s, "start_s": times[warm] - warm * step_s}


def _latencies(config: FlowPolicyConfig, device: str, seed: int) -> dict[str, float]:
    from policies.api import ANCHOR, WRIST, Observation
    from policies.flow import FlowPolicy

    policy = FlowPolicy.initial(config, "real", ["move on"], seed=seed)
    policy = FlowPolicy(policy.network, policy.spec, policy.normaliser, policy.sentences, device=device)
    rng = np.random.default_rng(seed)
    views = {ANCHOR: rng.integers(0, 256, (200, 200, 3), np.uint8), WRIST: rng.integers(0, 256, (84, 84, 3), np.uint8)}
    one = Observation(views=views, instruction="move on")
    repeats = 20 if device == "cuda" else 3
    return {
        str(size): _seconds(lambda size=size: policy.act([one] * size, list(range(size))), repeats, device) * 1e3  # type: ignore[misc]
        for size in LATENCY_BATCHES
    }


def measure(
    scale: str = "small",
    *,
    device: str | None = None,
    steps: int = 60,
    batch: int | None = None,
    compiled: bool | None = None,
    changes: dict[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Time training and inference of one policy.

    Args:
        scale: ``tiny``, ``small`` or ``base``.
        device: ``cpu`` or ``cuda``; None for a GPU where there is one.
        steps: training steps; the second half is timed.
        batch: samples a step, or the scale's own.
        compiled: use ``torch.compile``; None: on a GPU only.
        changes: other fields of the configuration, for ablations.
        seed: of pictures and weights.

    Returns:
        ``samples_per_s`` (training, both views, images on the device), ``start_s`` (compiling and first steps),
        ``latency_ms`` by batch, ``parameters``, ``gflop_per_sample``, ``matmul_tflops`` and ``copy_gb_per_s`` of the
        device, ``share_of_matmul`` (the training's operations a second as a share of the matrix product's).

    Raises:
        UserError: fewer than 10 steps.
    """
    import torch

    if steps < 10:
        raise UserError(f"perf policy: expected at least 10 steps, got {steps}; half of them warm up")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    preset = FlowPolicyConfig.preset(scale, **(changes or {}))
    training = replace(
        preset.training,
        steps=steps,
        batch=batch or preset.training.batch,
        log_every=max(1, steps // LOGS),
        compile=compiled,
    )
    config = replace(preset, training=training)
    rate = _training_rate(config, device, max(FRAMES, config.training.batch), seed)
    machine, gflop = _machine(device), _training_gflop(config)
    from policies.flow import initial_network

    return {
        "scale": scale,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "batch": config.training.batch,
        "steps": steps,
        "changes": dict(changes or {}),
        "parameters": initial_network(config, seed).parameters_count(),
        "gflop_per_sample": gflop,
        **rate,
        **machine,
        "share_of_matmul": rate["samples_per_s"] * gflop / 1e3 / machine["matmul_tflops"],
        "latency_ms": _latencies(config, device, seed),
    }
