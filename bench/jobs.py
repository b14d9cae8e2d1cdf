"""The jobs that stages hand to other processes: importable functions of one small job that names its data by path.

Which jobs there are and what becomes of their results is decided in ``bench/pipeline.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.arms import WristPlan, training_arrays
from bench.data.calvin import CalvinDataset
from bench.data.clips import read_clip
from bench.data.overlay import Overlay
from policies.api import WRIST
from policies.config import FlowPolicyConfig
from worldmodel.api import WristGenerator

if TYPE_CHECKING:
    from policies.data import PolicyArrays
    from policies.flow import FlowPolicy


def device() -> str:
    """Return ``"cuda"`` where there is a GPU, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def gpu_share(count: int) -> float:
    """Return the share of a GPU that each of ``count`` jobs declares, so that all GPUs are used; 0 without any."""
    import torch

    gpus = torch.cuda.device_count()
    return 1 / math.ceil(max(1, count) / gpus) if gpus else 0.0


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
        demonstrations: how many of the data set's demonstrations are trained on, see ``bench/subset.py``; None for all.
        log: where the curves go besides the history, see ``policies/tracking.py``.
        time_limit_s: seconds of training after which it ends, whatever its steps; None for no limit.
        launch: how steps are launched, see ``policies/gradients.py``; None for the configuration's choice.
    """

    root: str
    plan: WristPlan
    overlay: str | None
    config: FlowPolicyConfig
    seed: int
    folder: str
    device: str
    progress: bool
    demonstrations: int | None = None
    log: str = "none"
    time_limit_s: float | None = None
    launch: str | None = None


def train_one(job: TrainJob) -> dict[str, Any]:
    """Train one arm's policy on one seed; a finished one is read, an interrupted one continued.

    Returns:
        ``samples``, ``demonstrations``, ``wrist`` (episodes by source), ``seconds`` of training (the finished policy's
        own, where it is only read), and of the validation split, seen as the arm is shown the world at test:
        ``validation`` and ``wrist_shuffled``, the same with the wrist views of other episodes (None where the arm is
        shown none, or a generated one: that needs the world model).
        ``before``: of the video predictor of a ``vpp``, which is trained before the policy.
    """
    from policies.train import train_policy

    overlay = None if job.overlay is None else Overlay.open(job.overlay)
    sizes = (job.config.anchor_size, job.config.wrist_size)
    arrays = training_arrays(
        CalvinDataset(job.root, "training"), job.plan, overlay, sizes, job.device, job.demonstrations
    )
    held_out = _validation_arrays(job, sizes)
    policy = train_policy(
        arrays, job.config, job.folder, arm=job.plan.arm.name, seed=job.seed, device=job.device, progress=job.progress,
        validation=held_out, log=job.log, time_limit_s=job.time_limit_s, launch=job.launch,
    )  # fmt: skip
    before = policy.training.get("before")
    outcome = {
        "samples": arrays.samples,
        "demonstrations": len(arrays.windows),
        "wrist": job.plan.counts(),
        "seconds": round(policy.training["seconds"] + (before or {}).get("seconds", 0.0), 2),
        "validation": policy.training.get("validation"),
        "wrist_shuffled": _without_its_wrist(policy, held_out),
    }
    return outcome if before is None else outcome | {"before": before}


def _validation_arrays(job: TrainJob, sizes: tuple[int, int]) -> PolicyArrays | None:
    """Return the validation split as the arm is shown the world at test; None where that is a generated view."""
    dataset, arm = CalvinDataset(job.root, "validation"), job.plan.arm
    if arm.test == "generated" or not dataset.windows:
        return None
    shown = WristPlan(arm, {one.id: "real" if arm.test == "real" else "absent" for one in dataset.episodes})
    return training_arrays(dataset, shown, None, sizes, job.device)


def _without_its_wrist(policy: FlowPolicy, held_out: PolicyArrays | None) -> dict[str, Any] | None:
    from policies.validate import validate_policy

    if held_out is None or WRIST not in policy.spec.views:
        return None
    return validate_policy(policy, held_out, shuffle_wrist=True).to_json()
