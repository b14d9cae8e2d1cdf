"""Small synthetic demonstrations: the colour of the view and the sentence decide the action."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.api import Observation
from policies.config import FlowPolicyConfig, TrainingConfig
from policies.data import PolicyArrays
from policies.flow import FlowPolicy

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

SENTENCES = ("push the sliding door to the left", "grasp the red block", "turn on the green light")
SIZE = 64


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_arrays(frames: int = 40, windows: int = 4, *, size: int = SIZE, wrist: str = "all", seed: int = 0):
    """Return PolicyArrays of ``windows`` equal windows; ``wrist`` is "all", "half" (the first half) or "none"."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (2, frames, 4, 4, 3), dtype=np.uint8)
    images = coarse.repeat(size // 4, axis=2).repeat(size // 4, axis=3)
    actions = rng.uniform(-0.8, 0.8, (frames, 7)).astype(np.float32)
    actions[:, 6] = np.where(rng.random(frames) < 0.5, 1, -1)
    edges = np.linspace(0, frames, windows + 1).astype(np.int64)
    present = {
        "all": np.ones(frames, bool),
        "half": np.arange(frames) < frames // 2,
        "none": np.zeros(frames, bool),
    }[wrist]
    return PolicyArrays(
        anchor=images[0],
        wrist=None if wrist == "none" else images[1],
        wrist_present=present,
        actions=actions,
        windows=np.stack([edges[:-1], edges[1:]], axis=1),
        window_sentence=np.arange(windows, dtype=np.int64) % len(SENTENCES),
        sentences=SENTENCES,
        window_task=tuple(f"task_{number % 2}" for number in range(windows)),
        proprio=rng.normal(size=(frames, 15)).astype(np.float32),
        view_sizes={"anchor": (200, 200), "wrist": (84, 84)},
    )


@pytest.fixture
def arrays() -> PolicyArrays:
    return make_arrays()


@pytest.fixture
def mini() -> FlowPolicyConfig:
    """A network that takes milliseconds: 32 px views, two layers."""
    training = TrainingConfig(steps=6, batch=4, learning_rate=1e-3, warmup=2, ema=0.9, checkpoint_every=2, log_every=1)
    return FlowPolicyConfig.tiny(
        name="mini", anchor_size=32, wrist_size=32, width=16, dim=32, layers=2, heads=2, training=training
    )


@pytest.fixture
def mini_arrays() -> PolicyArrays:
    return make_arrays(size=32)


def make_observations(count: int, *, wrist: bool = True, proprio: bool = False, seed: int = 0) -> list[Observation]:
    """Return observations at CALVIN's camera sizes."""
    rng = np.random.default_rng(seed)
    observations = []
    for number in range(count):
        views = {"anchor": rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)}
        if wrist:
            views["wrist"] = rng.integers(0, 256, (84, 84, 3), dtype=np.uint8)
        state = rng.normal(size=15).astype(np.float32) if proprio else None
        observations.append(Observation(views, SENTENCES[number % len(SENTENCES)], state))
    return observations


@pytest.fixture
def observations() -> list[Observation]:
    return make_observations(5)


@pytest.fixture
def arrays_of():
    return make_arrays


@pytest.fixture
def observations_of():
    return make_observations


def wake(policy: FlowPolicy) -> FlowPolicy:
    """Give the zero-initialised layers values, as training would, so that every input can matter."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.network.named_parameters():
        if "modulation" in name or ".out." in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return policy


@pytest.fixture
def awake():
    return wake
