"""One policy on CALVIN's chains: what ``wristbench rollout`` does.

The arms of a suite are rolled out by ``bench/pipeline.py``; both use the same loop, workers and ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import atomic
from bench.calvin.tasks import FAMILY
from bench.errors import UserError
from bench.jobs import device
from bench.metrics.success import summarise
from bench.record import environment
from bench.rollout.chain import STEPS_PER_SUBTASK, WristMode, evaluation_chains
from bench.rollout.ledger import Ledger
from bench.rollout.sources import BUILT_IN, PolicySource
from bench.rollout.workers import LEDGER_FILE, roll_out
from bench.rollout.world import WorldOptions
from bench.suite import parse_arm


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
        inference: a policy in each worker, or one batching actor.
        progress: draw a progress bar.
    """

    scene: str = "D"
    chains: int = 1000
    workers: int | None = None
    seed: int = 0
    steps_per_subtask: int = STEPS_PER_SUBTASK
    assets: Path | None = None
    renderer: str = "auto"
    ray_address: str | None = None
    inference: Literal["local", "actor"] = "local"
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse a rollout of no chain, of more than there are, or without a step."""
        if not 1 <= self.chains <= 1000:
            raise UserError(f"chains: expected 1 to 1000 (CALVIN has 1000), got {self.chains}; give --chains 1000")
        if self.steps_per_subtask < 1:
            raise UserError(f"steps per subtask: expected at least 1, got {self.steps_per_subtask}; CALVIN gives 360")


def _arm_of(policy: str) -> tuple[str, WristMode]:
    """Return the arm that a policy belongs to and what it sees as the wrist view."""
    if policy in BUILT_IN:
        return policy, "real"
    config = Path(policy) / "config.json"
    if not config.is_file():
        raise UserError(f"policy {policy!r}: expected expert, random or a checkpoint folder with config.json")
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


def roll_out_policy(policy: str, out: Path, options: RolloutOptions) -> Mapping[str, Any]:
    """Roll a policy out, or go on with an earlier rollout into the same folder, and write ``record.json``.

    Args:
        policy: ``expert``, ``random`` or a checkpoint folder.
        out: gets ``ledger.jsonl``, ``chains.jsonl``, ``results.json`` (CALVIN's own shape) and ``record.json``.
        options: see :class:`RolloutOptions`.

    Returns:
        ``arm``, its numbers, ``fingerprint``, and ``out``.
    """
    arm, wrist = _arm_of(policy)
    _refuse_others(out / LEDGER_FILE, arm, options.seed)
    where = device() if options.workers == 0 or options.inference == "actor" else "cpu"
    world = WorldOptions(
        scene=options.scene,
        assets=None if options.assets is None else str(options.assets.resolve()),
        renderer=options.renderer,
    )
    rows = roll_out(
        PolicySource(policy, device=where),
        evaluation_chains(options.chains),
        arm=arm,
        seed=options.seed,
        workers=options.workers,
        out=out,
        world=world,
        wrist=wrist,
        inference=options.inference,
        steps_per_subtask=options.steps_per_subtask,
        progress=options.progress,
        ray_address=options.ray_address,
    )
    with Ledger(out / LEDGER_FILE) as ledger:
        fingerprint = ledger.fingerprint
        ledger.export_results_json(out / "results.json", arm, options.seed)
    summary = summarise(rows, families=FAMILY, expected=options.chains).to_json()
    record = {"arm": arm, **summary, "fingerprint": {**fingerprint, **environment(where)}, "out": str(out)}
    atomic.write_json(out / "record.json", json.loads(json.dumps(record)))
    return record
