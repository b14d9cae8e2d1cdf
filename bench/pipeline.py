"""The main job as stages: demonstrations → world model → wrist views → policies → rollouts → scores → report.

Each function below is one arrow of the flow in the README; ``bench/stages.py`` keeps what is finished.  The experiment
is in ``bench/suite.py``, the loop in ``bench/rollout/chain.py``, the number in ``bench/metrics/closure.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import atomic, jobs
from bench.bars import counting
from bench.data.calvin import SPLITS, CalvinDataset
from bench.data.overlay import Overlay
from bench.errors import UserError
from bench.main_job import MainJob, Options
from bench.metrics.video import evaluate_clips
from bench.policy_training import policy_config
from bench.record import build_record, environment
from bench.report import GalleryClip, write_report
from bench.rollout.actors import Job
from bench.rollout.chain import evaluation_chains
from bench.rollout.ledger import Ledger
from bench.rollout.sources import GeneratorSource, PolicySource
from bench.rollout.workers import LEDGER_FILE, roll_out_jobs
from bench.stages import Finished, RunFolder, Wanted
from bench.suite import Suite
from bench.training_bars import training_bars
from policies.data import resize_frames

STATIC, GRIPPER, GRIPPER_SIDE = "rgb_static", "rgb_gripper", 84
WRISTWORLD = "wristworld"
GALLERY_CLIPS = 6
GALLERY_FRAMES = 32


def _reconstruct(job: MainJob) -> Finished:
    """Train stage 1 on the paired share alone: wrist poses and point clouds from RGB."""
    from worldmodel.stage1 import train_stage1
    from worldmodel.stage1_config import Stage1Config

    part, settings = job.suite.world_model, job.training_settings()
    config: Stage1Config = getattr(Stage1Config, part.scale)()

    def work(folder: Path) -> dict[str, Any]:
        train_stage1(job.paired_clips(), config, folder, steps=part.stage1_steps, **settings)
        return {}

    identity = {"config": config.to_json(), "steps": part.stage1_steps, **job.paired_identity()}
    return job.run.stage("stage1", identity, [job.demonstrations], work)


def _train_generator(job: MainJob, name: str, stage1: Finished) -> Finished:
    """Train stage 2, or one of the generators that it is compared with, on the paired share alone."""
    from worldmodel.baselines import generator_kind
    from worldmodel.stage1 import Stage1
    from worldmodel.stage2_config import Stage2Config

    part, settings = job.suite.world_model, job.training_settings()
    config: Stage2Config = getattr(Stage2Config, part.scale)()

    def work(folder: Path) -> dict[str, Any]:
        reconstruction = Stage1.load(stage1.directory, jobs.device())
        generator_kind(name).train(
            job.paired_clips(hop=1), reconstruction, config, folder, steps=part.stage2_steps,
            data_hash=job.hashes["training"], **settings,
        )  # fmt: skip
        return {}

    identity = {"config": config.to_json(), "steps": part.stage2_steps, **job.paired_identity()}
    return job.run.stage(name, identity, [job.demonstrations, stage1], work)


def _generate(job: MainJob, generator: Finished) -> Finished:
    """Generate the wrist views that are missing, and those of the validation episodes, which are then scored."""
    where, model = jobs.device(), str(generator.directory)
    wanted = {
        "training": [episode.id for episode in job.datasets["training"].episodes if episode.id not in job.paired],
        "validation": [episode.id for episode in job.datasets["validation"].episodes],
    }

    def work(folder: Path) -> dict[str, Any]:
        provenance = jobs.load_generator(model, where).provenance()
        frames = 0
        for split, episodes in wanted.items():
            overlay = Overlay.create(folder / split, job.hashes[split], provenance)
            todo = [
                jobs.GenerateJob(str(job.root), split, episode, model, job.options.seed, where)
                for episode in episodes
                if episode not in overlay
            ]
            show = job.options.progress and bool(todo)
            with counting(f"{generator.name}: {split}", len(todo), "episodes", show=show) as tick:
                keep = _Keeper(overlay, [one.episode for one in todo], tick)
                job.parallel(jobs.generate_episode, todo, keep)
            frames += sum(len(job.datasets[split][episode]) for episode in episodes)
        return {"frames": frames}

    settings = {"wanted": wanted, "seed": job.options.seed}
    return job.run.stage(f"generate-{generator.name}", settings, [job.demonstrations, generator], work)


@dataclass(frozen=True)
class _Keeper:
    """Puts each generated episode into the overlay as it comes."""

    overlay: Overlay
    episodes: list[str]
    tick: Callable[[], None]

    def __call__(self, position: int, made: tuple[Any, Any]) -> None:
        self.overlay.add(self.episodes[position], *made)
        self.tick()


def _score_video(job: MainJob, generated: Mapping[str, Finished]) -> Finished:
    """Score generated against true wrist views on the validation episodes, beside two views that cost nothing."""

    def work(_: Path) -> dict[str, Any]:
        episodes = job.datasets["validation"].episodes
        true = [episode.load([GRIPPER])[GRIPPER] for episode in episodes]
        shown: dict[str, list[Any]] = {}
        for name, stage in generated.items():
            overlay = Overlay.open(stage.directory / "validation", job.hashes["validation"])
            shown[name] = [overlay.load(episode.id) for episode in episodes]
            if name == WRISTWORLD:
                maps = [overlay.load_condition(episode.id) for episode in episodes]
                shown.setdefault("projection", [None if m is None else resize_frames(m, GRIPPER_SIDE) for m in maps])
        shown.setdefault("mean", [np.broadcast_to(_mean_wrist(job), frames.shape) for frames in true])
        scores = {name: evaluate_clips(true, frames) for name, frames in shown.items()}
        short = {name: {key: score[key] for key in ("psnr", "ssim", "frames")} for name, score in scores.items()}
        return {
            **next(iter(short.values())),
            "generator": next(iter(short)),
            "split": "validation",
            "generators": short,
        }

    return job.run.stage("video", {}, [job.demonstrations, *generated.values()], work)


def _mean_wrist(job: MainJob) -> Any:
    """Return the mean wrist image of the paired share: what a generator that knows nothing would draw."""
    frames = [job.datasets["training"][episode].load([GRIPPER])[GRIPPER] for episode in job.paired]
    return np.concatenate(frames).mean(axis=0).round().astype(np.uint8)


def _train_policies(job: MainJob, generated: Mapping[str, Finished]) -> dict[tuple[str, int], Finished]:
    """Train every arm on every seed: same demonstrations, same order, same noise, other wrist views."""
    config, where, options = policy_config(job.suite.policy), jobs.device(), job.options
    todo = [(arm, seed) for seed in job.seeds for arm in job.arms]
    plans = {arm.name: job.plan(arm) for arm in job.arms}
    demonstrations = job.suite.policy.demonstrations
    identity = {"config": config.to_json(), **({"demonstrations": demonstrations} if demonstrations else {})}
    wanted = [
        Wanted(
            f"train-{arm.name}-{seed}",
            {**identity, "seed": seed, "arm": arm.name, "sources": dict(plans[arm.name].sources)},
            [job.demonstrations, *([generated[arm.generator]] if arm.generator else [])],
        )
        for arm, seed in todo
    ]

    def described(number: int, folder: Path) -> jobs.TrainJob:
        arm, seed = todo[number]
        overlay = str(generated[arm.generator].directory / "training") if arm.generator else None
        here = options.progress and options.workers == 0
        return jobs.TrainJob(
            str(job.root), plans[arm.name], overlay, config, seed, str(folder), where, here, demonstrations
        )

    folders = {
        one.name.removeprefix("train-"): job.run.directory_of(one) for one in wanted if job.run.found(one) is None
    }
    in_others = options.progress and options.workers != 0
    with training_bars(folders, config.stages(), show=in_others):
        stages = job.run.stages(
            wanted,
            described,
            jobs.train_one,
            workers=options.workers,
            gpus=jobs.gpu_share(len(todo)),
            ray_address=options.ray_address,
        )
    return {(arm.name, seed): stage for (arm, seed), stage in zip(todo, stages, strict=True)}


def _roll_out(job: MainJob, policies: Mapping[tuple[str, int], Finished], wristworld: Finished | None) -> Finished:
    """Roll every policy out on the same chains, all arms and seeds from one queue."""
    part, options = job.suite.rollout, job.options
    where = jobs.device()
    generator = None if wristworld is None else GeneratorSource.trained(wristworld.directory, where)
    arms = {arm.name: arm for arm in job.arms}
    queue = [
        Job(PolicySource(str(stage.directory), device=where), name, seed, arms[name].test,
            generator if arms[name].test == "generated" else None)
        for (name, seed), stage in policies.items()
    ] + [Job(PolicySource(bound), bound, job.seeds[0]) for bound in part.bounds]  # fmt: skip
    settings = {**part.model_dump(mode="json"), "renderer": options.renderer, "seeds": list(job.seeds)}
    settings["assets"] = options.world(part.scene).assets

    def work(folder: Path) -> dict[str, Any]:
        roll_out_jobs(
            queue, evaluation_chains(part.chains, part.scene), workers=options.workers, out=folder,
            world=options.world(part.scene),
            steps_per_subtask=part.steps_per_subtask, progress=options.progress, ray_address=options.ray_address,
            inference="actor" if where == "cuda" else "local",
        )  # fmt: skip
        with Ledger(folder / LEDGER_FILE) as ledger:
            return {"missing": len(ledger.missing())}

    inputs = [*policies.values(), *([wristworld] if wristworld else [])]
    wanted = Wanted("rollout", settings, inputs)
    earlier = job.run.found(wanted)
    if earlier is not None and earlier.outputs.get("missing"):
        job.run.reopen(wanted)
    return job.run.stage("rollout", settings, inputs, work)


def _gallery(job: MainJob, generated: Finished | None) -> list[GalleryClip]:
    """Return clips of the validation episodes with all four views."""
    if generated is None:
        return []
    from bench.metrics.video import psnr

    overlay = Overlay.open(generated.directory / "validation", job.hashes["validation"])
    clips = []
    for episode in job.datasets["validation"].episodes[:GALLERY_CLIPS]:
        start = max(0, (len(episode) - GALLERY_FRAMES) // 2)
        stop = min(len(episode), start + GALLERY_FRAMES)
        true = episode.load([STATIC, GRIPPER], start, stop)
        made, maps = overlay.load(episode.id, start, stop), overlay.load_condition(episode.id, start, stop)
        panels = {"anchor": true[STATIC], "true wrist": true[GRIPPER], "generated": made}
        if maps is not None:
            panels["condition map"] = maps
        told = episode.instruction_at(start, stop)
        title = f"episode {episode.id}, frames {start}–{stop - 1}" + (f": “{told}”" if told else "")
        clips.append(GalleryClip(title, panels, float(psnr(true[GRIPPER], made).mean())))
    return clips


def run_suite(
    suite: Suite, out: Path, options: Options, say: Callable[[str], object], stages: Path | None = None
) -> dict[str, Any]:
    """Run a suite into a folder, or go on with what an earlier run left there, and write its record and report.

    Args:
        suite: the experiment.
        out: the run's folder.
        options: see :class:`Options`.
        say: takes one line about each stage.
        stages: where finished stages are kept, for runs that share them; None for ``out/stages``.

    Returns:
        the record, as in ``record.json``, with ``report``: where the report's page is.

    Raises:
        UserError: the data set, the suite and the options do not fit together, or a stage cannot run.
    """
    _fits(suite, options)
    with RunFolder(out, say, stages).locked() as run:
        job = MainJob(suite, run, options)
        stage1 = _reconstruct(job) if suite.generators else None
        generators = {name: _train_generator(job, name, stage1) for name in suite.generators if stage1 is not None}
        generated = {name: _generate(job, stage) for name, stage in generators.items()}
        video = _score_video(job, generated).outputs if generated else {}
        policies = _train_policies(job, generated)
        looped = any(arm.test == "generated" for arm in job.arms)
        rollout = _roll_out(job, policies, generators[WRISTWORLD] if looped else None)
        record = _write_record(job, policies, rollout, video, generated)
        trainings = {f"{name}-{seed}": stage.directory for (name, seed), stage in policies.items()}
        page = write_report(record, _gallery(job, generated.get(WRISTWORLD)), out, trainings)[-1]
        return {**record, "report": str(page)}


def _fits(suite: Suite, options: Options) -> None:
    """Refuse what cannot run, before anything is written."""
    if suite.data.source == "calvin" and options.dataset is None:
        raise UserError(f"suite {suite.name!r} reads a data set: give --dataset DIR in CALVIN's format")
    if suite.data.source == "collect" and options.dataset is not None:
        raise UserError(f"suite {suite.name!r} collects its own demonstrations: leave --dataset away")
    if options.dataset is not None:
        for split in SPLITS:
            CalvinDataset(options.dataset, split)
    if options.assets is not None:
        from bench.calvin.assets import data_folder

        data_folder(options.assets)


def _write_record(
    job: MainJob,
    trained: Mapping[tuple[str, int], Finished],
    rollout: Finished,
    video: Mapping[str, Any],
    generated: Mapping[str, Finished],
) -> dict[str, Any]:
    """Write ``record.json`` and ``chains.jsonl`` and return the record."""
    generators = {name: Overlay.open(stage.directory / "validation").provenance for name, stage in generated.items()}
    part, suite = job.suite.rollout, job.suite
    with Ledger(rollout.directory / LEDGER_FILE) as ledger:
        names = [*suite.arms, *part.bounds]
        rows = {name: ledger.completed(name) for name in names}
        known = {key.removeprefix("policy "): value for key, value in ledger.fingerprint.items()}
        policies = {name: value for name, value in known.items() if name.partition("/")[0] in names}
        protocol = {name: value for name, value in known.items() if name not in policies}
        ledger.export_jsonl(job.run.directory / "chains.jsonl")
    record = build_record(
        name=suite.name,
        suite=suite.to_json(),
        plans={arm.name: job.plan(arm) for arm in job.arms},
        rows=rows,
        chains=part.chains,
        seeds=job.seeds,
        bounds=part.bounds,
        trained={name: [trained[name, seed].outputs for seed in job.seeds] for name in suite.arms},
        video=video,
        weights={"policies": policies, "generators": generators},
        fingerprint={**protocol, "demonstrations": dict(job.hashes), **environment(jobs.device())},
        timings={name: stage.seconds for name, stage in job.run.finished.items()},
    )
    atomic.write_json(job.run.directory / "record.json", record)
    return record
