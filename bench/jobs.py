"""The jobs that stages hand to other processes: importable functions of one small job that names its data by path.

Which jobs there are and what becomes of their results is decided in ``bench/pipeline.py``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.arms import WristPlan, training_arrays
from bench.data.calvin import CalvinDataset
from bench.data.clips import read_clip
from bench.data.overlay import Overlay
from policies.config import FlowPolicyConfig
from worldmodel.api import WristGenerator


def device() -> str:
    """Return ``"cuda"`` where there is a GPU, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def gpus() -> int:
    """Return how many GPUs this machine has, at least 1 for what is divided by it."""
    import torch

    return max(1, torch.cuda.device_count())


@dataclass(frozen=True)
class GenerateJob:
    """One episode whose wrist view is to be generated.

    Attributes:
        root: the data set.
        split: its split.
        episode: the episode's id.
        generator: folder of the generator.
        seed: of the noise.
        device: where it runs.
    """

    root: str
    split: str
    episode: str
    generator: str
    seed: int
    device: str


@lru_cache(maxsize=1)
def load_generator(folder: str, where: str) -> WristGenerator:
    """Return the generator in a folder; a process loads it once."""
    from worldmodel.baselines import load_generator as load

    return load(folder, where)


@lru_cache(maxsize=2)
def _dataset(root: str, split: str) -> CalvinDataset:
    return CalvinDataset(root, split)


def generate_episode(job: GenerateJob) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the (wrist, condition) frames of one episode, generated from its anchor views alone."""
    clip = read_clip(_dataset(job.root, job.split)[job.episode], wrist=False, depth=False)
    made = load_generator(job.generator, job.device).generate(clip, job.seed)
    return made.views["wrist"], made.condition


@dataclass(frozen=True)
class TrainJob:
    """One policy to be trained.

    Attributes:
        root: the data set.
        plan: where each episode's wrist view comes from.
        overlay: folder of the generated views, or None.
        config: the policy's configuration, the same for all arms.
        seed: training seed.
        folder: where the checkpoint goes.
        device: where it is trained.
        progress: draw a progress bar.
    """

    root: str
    plan: WristPlan
    overlay: str | None
    config: FlowPolicyConfig
    seed: int
    folder: str
    device: str
    progress: bool


def train_one(job: TrainJob) -> dict[str, Any]:
    """Train one arm's policy on one seed; a finished one is read, an interrupted one continued."""
    from policies.train import train_policy

    started = time.monotonic()
    overlay = None if job.overlay is None else Overlay.open(job.overlay)
    sizes = (job.config.anchor_size, job.config.wrist_size)
    arrays = training_arrays(CalvinDataset(job.root, "training"), job.plan, overlay, sizes, job.device)
    train_policy(
        arrays, job.config, job.folder, arm=job.plan.arm.name, seed=job.seed, device=job.device, progress=job.progress
    )
    seconds = round(time.monotonic() - started, 2)
    return {"samples": arrays.samples, "wrist": job.plan.counts(), "seconds": seconds}
