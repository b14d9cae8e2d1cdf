"""One run of a suite: its options, its demonstrations, and what its stages share.

Which stages there are stands in ``bench/pipeline.py``; how they run, in ``bench/stages.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import jobs
from bench.arms import WristPlan, plan_wrist
from bench.data.calvin import SPLITS, CalvinDataset, dataset_hash
from bench.data.clips import ClipDataset, split_paired
from bench.errors import UserError
from bench.rollout.world import WorldOptions
from bench.stages import Finished, RunFolder, Wanted, parallel
from bench.subset import first_demonstrations
from bench.suite import Arm, Suite, parse_arm


@dataclass(frozen=True)
class Options:
    """What a run is given besides its suite; nothing here changes a result but ``seed``, ``dataset`` and the world.

    Attributes:
        dataset: a data set in CALVIN's format, where the suite reads one.
        seed: added to every seed of the suite.
        workers: processes; None for one a core, 0 for none.
        assets: a calvin_env checkout, or None for the built-in scenes.
        renderer: ``auto``, ``gl``, ``bullet-egl`` or ``bullet-tiny``.
        ray_address: a running Ray cluster, or None for this machine.
        progress: draw progress bars.
    """

    dataset: Path | None = None
    seed: int = 0
    workers: int | None = None
    assets: Path | None = None
    renderer: str = "auto"
    ray_address: str | None = None
    progress: bool = True

    def world(self, scene: str) -> WorldOptions:
        """Return the recipe of one scene's world."""
        return WorldOptions(scene=scene, assets=self.assets, renderer=self.renderer)


class MainJob:
    """One run of a suite: what its stages share.

    Args:
        suite: the experiment.
        run: the run's folder.
        options: see :class:`Options`.
    """

    def __init__(self, suite: Suite, run: RunFolder, options: Options) -> None:
        self.suite, self.run, self.options = suite, run, options
        self.seeds = tuple(seed + options.seed for seed in suite.seeds)
        self.arms = tuple(map(parse_arm, suite.arms))
        self.demonstrations = self._demonstrations()
        self.root = (options.dataset or self.demonstrations.directory / "dataset").resolve()
        self.hashes: Mapping[str, str] = self.demonstrations.outputs["hashes"]

    @cached_property
    def datasets(self) -> dict[str, CalvinDataset]:
        """The two splits of the demonstrations."""
        return {split: CalvinDataset(self.root, split) for split in SPLITS}

    @cached_property
    def paired(self) -> tuple[str, ...]:
        """Ids of the paired training episodes: all that the world model ever sees."""
        return split_paired(self.datasets["training"], self.suite.data.paired_share, self.options.seed)[0]

    def plan(self, arm: Arm) -> WristPlan:
        """Where each training episode's wrist view comes from, for one arm."""
        episodes = self.datasets["training"].episodes
        whole = plan_wrist(arm, episodes, self.suite.data.paired_share, self.options.seed)
        return whole.of(first_demonstrations(episodes, self.suite.policy.demonstrations))

    def paired_clips(self, hop: int | None = None) -> ClipDataset:
        """Return the clips of the paired share, the world model's only training data."""
        return ClipDataset(
            self.datasets["training"], length=self._frames, stride=self.suite.world_model.stride, hop=hop,
            episodes=self.paired,
        )  # fmt: skip

    @property
    def _frames(self) -> int:
        from worldmodel.stage2_config import Stage2Config

        config: Stage2Config = getattr(Stage2Config, self.suite.world_model.scale)()
        return config.frames

    def paired_identity(self) -> dict[str, Any]:
        """Return what :meth:`paired_clips` and the training on them depend on, besides the data set."""
        stride = self.suite.world_model.stride
        return {"paired": list(self.paired), "frames": self._frames, "stride": stride, "seed": self.options.seed}

    def training_settings(self) -> dict[str, Any]:
        """Return the keyword arguments that all trainings of the world model share."""
        return {
            "seed": self.options.seed,
            "device": jobs.device(),
            "progress": self.options.progress,
        }

    def parallel(self, work: Callable[[Any], Any], todo: list[Any], each: Callable[[int, Any], object]) -> None:
        """Do jobs side by side, as the options say; on a GPU one after the other, each with all of it."""
        on_gpu = jobs.device() == "cuda"
        parallel(
            work,
            todo,
            workers=self.options.workers,
            gpus=1 if on_gpu else 0,
            ray_address=self.options.ray_address,
            each=each,
        )

    def _demonstrations(self) -> Finished:
        data, options = self.suite.data, self.options
        if options.dataset is not None:
            hashes = {split: dataset_hash(CalvinDataset(options.dataset, split)) for split in SPLITS}
            wanted = Wanted("dataset", {"hashes": hashes}, [])
            sound = None if self.run.found(wanted) else _check_dataset(options.dataset, hashes)
            return self.run.stage("dataset", wanted.config, [], lambda _: sound or {})
        from bench.demonstrations import CollectOptions, collect

        collecting = CollectOptions(
            scenes=data.scenes,
            tasks=data.tasks,
            episodes=data.episodes,
            validation_episodes=data.validation_episodes,
            chain_length=data.chain_length,
            noise=data.noise,
            seed=options.seed,
            depth=bool(self.suite.generators),
            format=data.format,
            assets=options.assets,
            renderer=options.renderer,
        )

        def work(folder: Path) -> Mapping[str, Any]:
            collected = collect(folder / "dataset", collecting, options.workers, options.progress, options.ray_address)
            hashes = {split: dataset_hash(CalvinDataset(folder / "dataset", split)) for split in SPLITS}
            return {"hashes": hashes, **collected}

        return self.run.stage("collect", collecting.to_json(), [], work)


def _check_dataset(root: Path, hashes: Mapping[str, str]) -> dict[str, Any]:
    from bench.data.calvin.check import check

    report = check(root).to_json()
    if report["defects"]:
        first = report["defects"][0]
        raise UserError(
            f"{root}: {len(report['defects'])} defects, the first in {first['file']}: {first['what']}; "
            f"wristbench data check {root} lists them"
        )
    return {"hashes": dict(hashes), **{key: report[key] for key in ("frames", "episodes", "windows")}}
