"""Training policies of several arms and seeds on one data set, without the rest of the main job.

The same jobs as ``bench/pipeline.py``'s, side by side on this machine's processors and GPUs; an overlay that another
run generated fills the missing wrist views.  Rolling the policies out is ``wristbench rollout``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import atomic, jobs
from bench.arms import plan_wrist
from bench.data.calvin import CalvinDataset, dataset_hash
from bench.data.overlay import Overlay
from bench.errors import UserError
from bench.report import plots
from bench.stages import parallel
from bench.subset import first_demonstrations
from bench.suite import PolicyPart, parse_arm
from bench.training_bars import training_bars
from policies.config import FlowPolicyConfig
from policies.tracking import check_tracker


@dataclass(frozen=True)
class TrainOptions:
    """What is trained.

    Attributes:
        arms: names of the arms, see ``bench/suite.py``.
        seeds: training seeds; every arm is trained once for each.
        overlay: folder of generated wrist views of the training split, for arms that need one.
        paired_share: share of the episodes whose wrist recordings every arm but ``real`` may use.
        split_seed: of the choice of that share.
        policy: kind, scale, steps, batch and number of demonstrations, as in a suite.
        time_limit_s: seconds after which each training ends, whatever its steps; None for no limit.
        launch: how training steps are launched, see ``policies/gradients.py``; None for the configuration's choice.
        workers: trainings at a time; None for one a processor, 0 for none in other processes.
        ray_address: a running Ray cluster, or None.
        log: where the curves go besides ``history.jsonl`` and ``loss.png``, see ``policies/tracking.py``.
        progress: draw progress bars.
    """

    arms: tuple[str, ...] = ("anchor", "real")
    seeds: tuple[int, ...] = (0,)
    overlay: Path | None = None
    paired_share: float = 0.2
    split_seed: int = 0
    policy: PolicyPart = field(default_factory=lambda: PolicyPart(scale="small"))
    time_limit_s: float | None = None
    launch: str | None = None
    workers: int | None = None
    ray_address: str | None = None
    log: str = "none"
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        arms = [parse_arm(name) for name in self.arms]
        for values, what in ((self.arms, "arms"), (self.seeds, "seeds")):
            if not values or len(set(values)) != len(values):
                raise UserError(f"{what}: expected at least one, each once, got {list(values)}")
        needy = [arm.name for arm in arms if arm.generator]
        if needy and self.overlay is None:
            raise UserError(f"arm {needy[0]!r} needs generated wrist views: give --overlay DIR (a generate stage)")
        if not 0 < self.paired_share < 1:
            raise UserError(f"paired share: expected 0 < share < 1, got {self.paired_share}")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise UserError(f"time limit: expected more than 0 seconds, got {self.time_limit_s}; leave it out for none")


def policy_config(part: PolicyPart) -> FlowPolicyConfig:
    """Return the policy's configuration: a preset with the suite's steps, batch, recolouring and head."""
    if part.kind == "vpp":
        return _video_policy_config(part)
    preset = FlowPolicyConfig.preset(part.scale)
    training = replace(
        preset.training,
        steps=part.steps or preset.training.steps,
        batch=part.batch or preset.training.batch,
        recolour=part.recolour,
    )
    return replace(preset, training=training, head={"flow": "flow", "bc": "regression"}[part.kind])


def _video_policy_config(part: PolicyPart) -> FlowPolicyConfig:
    from policies.vpp.config import VideoPolicyConfig

    changes = {"weights": part.video_weights} if part.video_weights else {}
    preset = VideoPolicyConfig.preset(part.scale, **changes)
    training, predictor = preset.training, preset.predictor
    training = replace(training, steps=part.steps or training.steps, batch=part.batch or training.batch)
    predictor = replace(predictor, steps=part.video_steps or predictor.steps)
    return replace(preset, training=training, predictor=predictor)


def train_policies(dataset: Path, out: Path, options: TrainOptions) -> dict[str, Any]:
    """Train every arm on every seed into ``out/ARM-SEED``; what is finished there stays, the rest goes on.

    Returns:
        ``out`` and ``policies``: name to folder, samples, wrist sources, seconds, ``validation`` and
        ``wrist_shuffled`` (see :func:`bench.jobs.train_one`).  ``out/training.json`` holds the same, ``out/loss.png``
        shows the losses.

    Raises:
        UserError: the data set, the overlay and the arms do not fit together.
        PolicyError: the tracker of ``log`` is not installed.
    """
    check_tracker(options.log)
    training = CalvinDataset(dataset, "training")
    overlay = None if options.overlay is None else Overlay.open(options.overlay, dataset_hash(training))
    config, where = policy_config(options.policy), jobs.device()
    shown = first_demonstrations(training.episodes, options.policy.demonstrations)
    todo = {}
    for name in options.arms:
        plan = plan_wrist(parse_arm(name), training.episodes, options.paired_share, options.split_seed).of(shown)
        for seed in options.seeds:
            todo[f"{name}-{seed}"] = jobs.TrainJob(
                str(dataset), plan, str(options.overlay) if overlay and plan.arm.generator else None, config, seed,
                str(out / f"{name}-{seed}"), where, options.progress and options.workers == 0,
                options.policy.demonstrations, options.log, options.time_limit_s, options.launch,
            )  # fmt: skip
    folders = {name: Path(job.folder) for name, job in todo.items()}
    atomic.make_directory(out)
    with (
        atomic.locked(out),
        training_bars(folders, config.stages(), show=options.progress and options.workers != 0),
    ):
        trained = parallel(
            jobs.train_one,
            list(todo.values()),
            workers=options.workers,
            gpus=jobs.gpu_share(len(todo)),
            ray_address=options.ray_address,
        )
    result = {
        "out": str(out),
        "dataset": dataset_hash(training),
        "policies": {
            name: {"folder": str(folders[name]), **outcome} for name, outcome in zip(todo, trained, strict=True)
        },
    }
    atomic.write_json(out / "training.json", json.loads(json.dumps(result)))
    with atomic.replacing(out / "loss.png") as temporary:
        plots.training(folders, temporary)
    return result
