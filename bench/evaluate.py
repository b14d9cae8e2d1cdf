"""One policy on CALVIN's chains: what ``wristbench rollout`` does.

The arms of a suite are rolled out by ``bench/pipeline.py``; both use the same loop, workers and ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import atomic
from bench.calvin.instructions import training_instructions
from bench.calvin.tasks import FAMILY, TASKS
from bench.comparison import DEFAULT_LEVEL, Comparison
from bench.errors import UserError
from bench.jobs import device
from bench.metrics.success import summarise
from bench.record import environment
from bench.rollout.chain import STEPS_PER_SUBTASK, ChainResult, WristMode, evaluation_chains
from bench.rollout.export import export_parquet
from bench.rollout.film import FilmFormat, Films
from bench.rollout.ledger import LEDGER_FILE, Ledger
from bench.rollout.prometheus import MetricsOptions, exported
from bench.rollout.session import cluster_address, start_ray
from bench.rollout.sources import BUILT_IN, PolicySource, is_remote, request_seed
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions, protocol_fingerprint
from bench.suite import parse_arm
from policies.batching import MAX_BATCH
from policies.lerobot import is_lerobot_folder


@dataclass(frozen=True)
class RolloutOptions:
    """How one policy is tested.

    Attributes:
        scene: the scene.
        chains: the first n of the 1000.
        workers: processes; None for one a core, 0 for none.
        seed: of the policy's noise.
        steps_per_subtask: step budget.
        assets: a calvin_env checkout, or None for the built-in scenes.
        renderer: ``auto``, ``gl``, ``bullet-egl`` or ``bullet-tiny``.
        ray_address: a running Ray cluster, or None.
        inference: a policy in each worker, or batching actors; None for actors where there is a GPU.
        lanes: chains side by side in a worker; None for the default.
        servers: batching actors; None for one per GPU.
        batch: the actors' batch size.
        films: which chains are kept as films.
        film_format: ``mp4``, or ``rrd`` for Rerun.
        instructions: ``evaluation``, or ``training:SEED`` for one training sentence per task, drawn by SEED.
        against: folder of an earlier rollout that this one is compared with, chain by chain, or None.
        early_stop: error level at which the comparison may end the rollout, or None to run all chains.
        progress: draw a progress bar.
        metrics: where figures for Prometheus go; nowhere by default.
    """

    scene: str = "D"
    chains: int = 1000
    workers: int | None = None
    seed: int = 0
    steps_per_subtask: int = STEPS_PER_SUBTASK
    assets: Path | None = None
    renderer: str = "auto"
    ray_address: str | None = None
    inference: Literal["local", "actor"] | None = None
    lanes: int | None = None
    servers: int | None = None
    batch: int = MAX_BATCH
    films: Films = "none"
    film_format: FilmFormat = "mp4"
    instructions: str = "evaluation"
    against: Path | None = None
    early_stop: float | None = None
    progress: bool = True
    metrics: MetricsOptions = field(default_factory=MetricsOptions)

    def __post_init__(self) -> None:
        """Refuse a rollout of no chain, of more than there are, or without a step."""
        if not 1 <= self.chains <= 1000:
            raise UserError(f"chains: expected 1 to 1000 (CALVIN has 1000), got {self.chains}; give --chains 1000")
        if self.steps_per_subtask < 1:
            raise UserError(f"steps per subtask: expected at least 1, got {self.steps_per_subtask}; CALVIN gives 360")
        for name, value in (("batch", self.batch), ("lanes", self.lanes), ("servers", self.servers)):
            if value is not None and value < 1:
                raise UserError(f"{name}: expected at least 1, got {value}; leave --{name} out for the default")
        if self.early_stop is not None and self.against is None:
            raise UserError("early stop: expected a rollout to compare with; give --against RUN")


def _arm_of(policy: str) -> tuple[str, WristMode]:
    """Return the arm that a policy belongs to and what it sees as the wrist view."""
    if policy in BUILT_IN:
        return policy, "real"
    if not Path(policy).is_dir() or is_lerobot_folder(policy):
        spec = PolicySource(policy).load().spec
        name = spec.arm
        if name is None:
            return spec.name, "real"
    else:
        from policies.checkpoint import read_config

        name = read_config(policy)["spec"]["arm"] or "real"
    test = parse_arm(name).test
    if test == "generated":
        raise UserError(f"policy {policy!r} of arm {name!r} needs a world model in the loop: run its suite instead")
    return name, test


def _refuse_others(path: Path, arm: str, seed: int) -> None:
    """Refuse a folder that holds the chains of another policy or seed: its record would be overwritten."""
    if not path.exists():
        return
    with Ledger(path) as ledger:
        others = {(row.arm, row.seed) for row in ledger.completed()} - {(arm, seed)}
    if others:
        other, its_seed = sorted(others)[0]
        raise UserError(
            f"{path.parent}: holds chains of {other!r}, seed {its_seed}; give {arm!r}, seed {seed} its own --out"
        )


def sentences(instructions: str) -> dict[str, str] | None:
    """Return task to sentence for ``training:SEED``, or None for the evaluation sentences.

    Raises:
        UserError: neither of the two.
    """
    if instructions == "evaluation":
        return None
    kind, _, number = instructions.partition(":")
    if kind != "training" or not number.isdigit():
        raise UserError(f"instructions: expected evaluation or training:SEED, got {instructions!r}; give training:0")
    choices = {task: training_instructions(task) for task in TASKS}
    return {
        task: said[request_seed(int(number), position) % len(said)]
        for position, (task, said) in enumerate(choices.items())
    }


def roll_out_policy(policy: str, out: Path, options: RolloutOptions) -> Mapping[str, Any]:
    """Roll a policy out, or go on with an earlier rollout into the same folder, and write ``record.json``.

    Args:
        policy: ``expert``, ``random``, a checkpoint folder, a server's address, or ``module:callable``.
        out: gets ``ledger.jsonl``, ``chains.jsonl``, ``chains.parquet``, ``subtasks.parquet``, ``results.json``
            (CALVIN's own shape), ``record.json`` and, where asked for, ``films/``.
        options: see :class:`RolloutOptions`.

    Returns:
        ``arm``, its numbers, ``fingerprint``, ``out`` and, where asked for, ``comparison``.
    """
    arm, wrist = _arm_of(policy)
    _refuse_others(out / LEDGER_FILE, arm, options.seed)
    inference, where = _where(policy, options)
    chains = evaluation_chains(options.chains, options.scene)
    world = WorldOptions(scene=options.scene, assets=options.assets, renderer=options.renderer)
    said = sentences(options.instructions)
    protocol: dict[str, Any] = {"steps_per_subtask": options.steps_per_subtask, "instructions": said}
    comparison = None
    if options.against is not None:
        level = DEFAULT_LEVEL if options.early_stop is None else options.early_stop
        comparison = Comparison(options.against, chains, arm, options.seed, level)
        comparison.refuse_other_protocol(protocol_fingerprint(world, **protocol))
    stopping = comparison is not None and options.early_stop is not None
    with exported(options.metrics) as metrics:
        rows = roll_out(
            PolicySource(policy, device=where),
            comparison.order if comparison is not None and stopping else chains,
            arm=arm,
            seed=options.seed,
            workers=options.workers,
            out=out,
            world=world,
            wrist=wrist,
            inference=inference,
            max_batch=options.batch,
            lanes=options.lanes,
            servers=options.servers,
            **protocol,
            films=options.films,
            film_format=options.film_format,
            progress=options.progress,
            ray_address=options.ray_address,
            metrics=metrics,
            until=comparison.decided if comparison is not None and stopping else None,
        )
    return _record(out, arm, where, rows, options, comparison)


def _where(policy: str, options: RolloutOptions) -> tuple[Literal["local", "actor"], str]:
    """Return how the policy is asked and on which device it runs; many workers on a GPU share it through actors."""
    if policy in BUILT_IN or is_remote(policy):
        return options.inference or "local", "cpu"
    there = _device(options)
    inference = options.inference or ("actor" if options.workers != 0 and there == "cuda" else "local")
    alone = options.workers == 0 or inference == "actor"
    return inference, there if alone else "cpu"


def _device(options: RolloutOptions) -> str:
    """Return what a network would run on: a cluster may have GPUs where this machine has none."""
    if options.workers == 0 or cluster_address(options.ray_address) is None:
        return device()
    return "cuda" if start_ray(options.ray_address).cluster_resources().get("GPU") else "cpu"


def _record(
    out: Path, arm: str, where: str, rows: list[ChainResult], options: RolloutOptions, comparison: Comparison | None
) -> Mapping[str, Any]:
    """Write everything that follows from a rollout's rows, and return its record."""
    with Ledger(out / LEDGER_FILE) as ledger:
        fingerprint = ledger.fingerprint
        if comparison is not None:
            comparison.decided(ledger)
        ledger.export_results_json(out / "results.json", arm, options.seed)
    export_parquet(rows, out)
    expected = options.chains
    if comparison is not None and options.early_stop is not None and comparison.verdict.decided is not None:
        rows, expected = comparison.looked_at(rows), comparison.verdict.pairs
    summary = summarise(rows, families=FAMILY, expected=expected).to_json()
    record = {
        "arm": arm,
        **summary,
        "instructions": options.instructions,
        "fingerprint": {**fingerprint, **environment(where)},
        "out": str(out),
    }
    if comparison is not None:
        stopped = options.early_stop is not None and comparison.verdict.pairs < options.chains
        over_all = None if stopped else comparison.over_all(rows)
        record["comparison"] = {**comparison.to_json(), "stopped_early": stopped, "over_all": over_all}
    atomic.write_json(out / "record.json", json.loads(json.dumps(record)))
    return record
