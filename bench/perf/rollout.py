"""How fast chains are rolled out with 1, 2, 4 … workers, and where the time goes.

Not here: the command line.  The policies are untrained networks of the project's own sizes, whose answers cost what a
trained one's cost; they hardly ever solve anything, so a chain is one subtask's full budget of steps.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.perf.cores import CoreWatch, own_speed
from bench.rollout.chain import STEPS_PER_SUBTASK, ChainResult, evaluation_chains
from bench.rollout.sources import BUILT_IN, PolicySource
from bench.rollout.spent import PARTS, WORLD_PARTS, Meter
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions
from policies.api import Observation, Policy, PolicySpec
from policies.batching import MAX_BATCH

PRESETS = ("tiny", "small", "base")
CHAINS_PER_WORKER = 12
ARM = "real"


class Slow:
    """A policy none of whose answers comes sooner than a larger one's would."""

    def __init__(self, policy: Policy, seconds: float) -> None:
        self._policy, self._seconds = policy, seconds

    @property
    def spec(self) -> PolicySpec:
        """The policy's own spec."""
        return self._policy.spec

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return the policy's answer, not before ``seconds`` have passed."""
        until = time.perf_counter() + self._seconds
        answer = self._policy.act(batch, seeds)
        time.sleep(max(0.0, until - time.perf_counter()))
        return answer


def slowed(name: str, device: str, seconds: float) -> Policy:
    """Return the policy ``name`` (as for ``PolicySource``) made slow."""
    policy = PolicySource(name, device=device).load()
    if not isinstance(policy, Policy):
        raise UserError(f"perf rollout: {name!r} is no network, --slow-policy-ms cannot slow it; give --policy small")
    return Slow(policy, seconds)


@dataclass(frozen=True)
class PerfOptions:
    """What is measured.

    Attributes:
        policy: ``tiny``, ``small`` or ``base`` (untrained), ``expert``, ``random``, or a checkpoint folder.
        workers: numbers of workers, one rollout each.
        chains: chains of each rollout; None for twelve a worker.
        lanes: chains side by side in a worker; None for as many as keep it at work.
        servers: inference actors; None for one per GPU.
        inference: where the policy runs; None for an actor where there is a GPU, else in each worker.
        batch: the actor's batch size.
        slow_policy_ms: least time of a forward.
        steps_per_subtask: step budget.
        ray_address: a running cluster, or None.
    """

    policy: str = "small"
    workers: tuple[int, ...] = (1, 2)
    chains: int | None = None
    lanes: int | None = None
    servers: int | None = None
    inference: Literal["local", "actor"] | None = None
    batch: int = MAX_BATCH
    slow_policy_ms: float = 0.0
    steps_per_subtask: int = STEPS_PER_SUBTASK
    ray_address: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not self.workers or min(self.workers) < 1:
            raise UserError(f"perf rollout: expected at least 1 worker, got {list(self.workers)}; give --workers 1 2")
        if self.chains is not None and not 1 <= self.chains <= 1000:
            raise UserError(f"perf rollout: expected 1 to 1000 chains, got {self.chains}; leave --chains out")
        if self.batch < 1:
            raise UserError(f"perf rollout: expected a batch of at least 1, got {self.batch}; give --batch 16")
        if self.slow_policy_ms and self.policy in BUILT_IN:
            raise UserError(f"perf rollout: {self.policy!r} cannot be slowed; give --policy small")


def measure(options: PerfOptions, world: WorldOptions, *, progress: bool = False) -> dict[str, Any]:
    """Roll chains out once for each number of workers.

    Returns:
        the settings and ``runs``, one per number of workers: :func:`summary` with ``workers``, ``wall_s`` (the whole
        command's, Ray's start and the policy's included), ``cores`` (see :class:`bench.perf.cores.CoreWatch`),
        ``steps_per_core_s`` (steps by the workers' CPU time: it falls where cores get slower, not where they are few),
        ``average_length`` and ``efficiency``: the run's steps a second for each worker, relative to the run with the
        fewest workers; ``core_speed``: the same of as many processes that only count
        (:func:`bench.perf.cores.own_speed`), which is what this machine lets the best harness reach.  ``same_rows``
        says whether chains that several runs had in common came out the same.
    """
    from bench.jobs import device

    there = device() if options.policy not in BUILT_IN else "cpu"
    inference = options.inference or ("actor" if there == "cuda" else "local")
    where = there if inference == "actor" else "cpu"
    with tempfile.TemporaryDirectory(prefix="wristbench-perf-") as folder:
        source = _source(options, where, Path(folder))
        runs: list[dict[str, Any]] = []
        rows: list[list[ChainResult]] = []
        for workers in options.workers:
            meter, began = Meter(), time.perf_counter()
            chains = evaluation_chains(options.chains or min(1000, CHAINS_PER_WORKER * workers))
            with CoreWatch() as watch:
                rows.append(
                    roll_out(
                        source, chains, arm=options.policy if options.policy in BUILT_IN else ARM, seed=0,
                        workers=workers, out=Path(folder) / f"{workers}-{len(runs)}", world=world,
                        inference=inference, max_batch=options.batch, steps_per_subtask=options.steps_per_subtask,
                        progress=progress, ray_address=options.ray_address, lanes=options.lanes,
                        servers=options.servers, meter=meter,
                    )
                )  # fmt: skip
            if not meter.chains:
                raise UserError(f"perf rollout: no chain was finished with {workers} workers; try wristbench rollout")
            took, cores = time.perf_counter() - began, watch.cores(meter.first, meter.last)
            busy_s = cores.get("workers", 0.0) * (meter.last - meter.first)
            per_core = meter.steps / busy_s if busy_s else None
            runs.append(
                {"workers": workers, "wall_s": took, **summary(meter), "steps_per_core_s": per_core, "cores": cores}
            )
    base = min(runs, key=lambda run: run["workers"])
    speeds = own_speed(options.workers)
    for run, scored in zip(runs, rows, strict=True):
        run["average_length"] = sum(row.solved for row in scored) / len(scored) if scored else None
        run["efficiency"] = run["env_steps_per_s"] / run["workers"] / (base["env_steps_per_s"] / base["workers"])
        run["core_speed"] = speeds[run["workers"]] / speeds[base["workers"]]
    return {
        "policy": options.policy,
        "slow_policy_ms": options.slow_policy_ms,
        "inference": inference,
        "device": where,
        "cpus": os.cpu_count(),
        "lanes": options.lanes,
        "batch": options.batch if inference == "actor" else 1,
        "scene": world.scene,
        "steps_per_subtask": options.steps_per_subtask,
        "runs": runs,
        "same_rows": _agree(rows),
    }


def summary(meter: Meter) -> dict[str, Any]:
    """Return what a rollout's meter says.

    Returns:
        of the whole rollout: ``lanes`` (at its end), ``chains``, ``steps``, ``rolling_s`` (first world ready to last
        chain settled), ``chains_per_hour`` (by that time), ``restarts``; of the workers' steady time
        (:meth:`Meter.steady`):
        ``env_steps_per_s`` (the sum over the workers), ``overhead_us_per_step`` (the worker's own work besides world
        and policy), ``shares`` of that time (world parts; ``policy`` in the worker; ``overhead``; ``inference``: idle
        for an answer in the making; ``transport``: idle for its way), ``physics_ms_per_step`` and
        ``drawing_ms_per_request`` (which grow with the workers where they share the machine's cores and GPU),
        ``requests``, ``request_ms`` (a chain's wait for an answer); and, where an actor answered, ``servers``,
        ``batch_fill`` (0..1), ``queue_p50_ms``, ``queue_p95_ms``, ``predict_p50_ms``, ``transport_ms`` (what a request
        waits besides queue and forward: its way, and its turn in the worker), ``server_busy`` (the share of
        ``rolling_s`` in which an actor was at a forward).
    """
    stints = meter.steady()
    spent = {part: sum(stint.spent.get(part, 0.0) for stint in stints) for part in PARTS}
    inside = {part: spent[part] for part in (*WORLD_PARTS, "policy")}
    overhead, total, steps = (
        spent["busy"] - sum(inside.values()),
        sum(stint.seconds for stint in stints),
        spent["steps"],
    )
    served = _served(meter)
    request_ms = 1e3 * spent["waiting"] / spent["requests"] if spent["waiting"] else None
    making = 1.0
    if request_ms is not None and served:
        making = min(1.0, (served["queue_mean_ms"] + served["predict_mean_ms"]) / request_ms)
        served["transport_ms"] = request_ms * (1 - making)
        served["server_busy"] = served["busy_s"] / (meter.last - meter.first)
    idle = max(0.0, total - spent["busy"])
    shares = {**inside, "overhead": overhead, "inference": idle * making, "transport": idle * (1 - making)}
    rolling = meter.last - meter.first
    return {
        "lanes": meter.lanes,
        "chains": meter.chains,
        "steps": meter.steps,
        "rolling_s": rolling,
        "chains_per_hour": 3600 * meter.chains / rolling,
        "restarts": meter.restarts,
        "env_steps_per_s": sum(stint.spent["steps"] / stint.seconds for stint in stints if stint.seconds > 0),
        "overhead_us_per_step": 1e6 * overhead / steps if steps else None,
        "shares": {part: seconds / total for part, seconds in shares.items()} if total else {},
        "physics_ms_per_step": 1e3 * spent["physics"] / steps if steps else None,
        "drawing_ms_per_request": 1e3 * spent["drawing"] / spent["requests"] if spent["requests"] else None,
        "requests": int(spent["requests"]),
        "request_ms": request_ms,
        "servers": len(meter.servers),
        **{name: served.get(name) for name in (*_SERVED, "transport_ms", "server_busy")},
    }


_SHOWN = {
    "workers": ("workers", ".0f"),
    "lanes": ("lanes", ".0f"),
    "chains": ("chains", ".0f"),
    "rolling_s": ("rolling, s", ".1f"),
    "chains_per_hour": ("chains an hour", ",.0f"),
    "env_steps_per_s": ("steps a second", ",.0f"),
    "efficiency": ("efficiency", ".2f"),
    "core_speed": ("a core's own speed", ".2f"),
    "steps_per_core_s": ("steps a core's second", ",.0f"),
    "overhead_us_per_step": ("overhead a step, µs", ".0f"),
    "physics_ms_per_step": ("physics a step, ms", ".2f"),
    "drawing_ms_per_request": ("drawing a request, ms", ".2f"),
    "batch_fill": ("batch fill", ".2f"),
    "queue_p50_ms": ("queue p50, ms", ".1f"),
    "queue_p95_ms": ("queue p95, ms", ".1f"),
    "predict_p50_ms": ("predict p50, ms", ".1f"),
    "server_busy": ("inference busy", ".1%"),
}


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a measurement as a table for a terminal: a row for each figure, a column for each number of workers."""
    runs = result["runs"]
    lines = [[head, *_cells([run.get(name) for run in runs], form)] for name, (head, form) in _SHOWN.items()]
    for group, form in (("shares", ".1%"), ("cores", ".2f")):
        names = dict.fromkeys(name for run in runs for name in run[group])
        lines += [[f"{group}: {name}", *_cells([run[group].get(name) for run in runs], form)] for name in names]
    return [line for line in lines if any(line[1:])]


def _cells(values: Sequence[float | None], form: str) -> list[str]:
    return ["" if value is None else format(value, form) for value in values]


_SERVED = ("batch_fill", "queue_p50_ms", "queue_p95_ms", "predict_p50_ms")


def _served(meter: Meter) -> dict[str, float]:
    """Return the inference actors' statistics, averaged over the actors that were asked at all."""
    asked = [server for server in meter.servers if server["batches"]]
    names = (*_SERVED, "queue_mean_ms", "predict_mean_ms", "busy_s")
    return {name: float(np.mean([float(server[name] or 0.0) for server in asked])) for name in names} if asked else {}


def _source(options: PerfOptions, device: str, folder: Path) -> PolicySource:
    """Return the policy's recipe; an untrained network is saved first, so that every process loads the same one."""
    name = options.policy
    if name in PRESETS:
        from bench.calvin.instructions import evaluation_instruction
        from bench.calvin.tasks import TASKS
        from policies.config import FlowPolicyConfig
        from policies.flow import FlowPolicy

        sentences = sorted({evaluation_instruction(task) for task in TASKS})
        FlowPolicy.initial(FlowPolicyConfig.preset(name), ARM, sentences).save_pretrained(folder / name)
        name = str(folder / name)
    if not options.slow_policy_ms:
        return PolicySource(name, device=device)
    slow = {"name": name, "device": device, "seconds": options.slow_policy_ms / 1e3}
    return PolicySource(f"{__name__}:slowed", slow, device=device)


def _agree(runs: Sequence[Sequence[ChainResult]]) -> bool:
    seen: dict[int, ChainResult] = {}
    return all(seen.setdefault(row.chain_id, row) == row for rows in runs for row in rows)
