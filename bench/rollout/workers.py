"""Many chains at once: Ray workers fed from one queue, and one process, this one, that writes the ledger.

A chain's result depends on nothing but the chain, the policy and the seed, so it does not matter which worker runs it,
when, or after how many attempts.  A fault of the machinery never becomes a score: the chain is run again, and after two
faults it is missing and said to be.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from bench import scratch
from bench.atomic import write_bytes
from bench.errors import UserError
from bench.rollout.actors import ChainWorker, Job, Outcome
from bench.rollout.answering import finished
from bench.rollout.chain import STEPS_PER_SUBTASK, Chain, ChainResult, WristMode
from bench.rollout.film import FilmFormat, Films, film_name
from bench.rollout.ledger import LEDGER_FILE, Key, Ledger, disk_faults
from bench.rollout.pool import Pool
from bench.rollout.progress import RolloutProgress
from bench.rollout.prometheus import RolloutMetrics
from bench.rollout.queue import Item, Queue
from bench.rollout.servers import Servers, Statistics, world_models
from bench.rollout.session import cluster_address, start_ray
from bench.rollout.sources import GeneratorSource, PolicySource
from bench.rollout.spent import Meter
from bench.rollout.watch import end_plan, write_plan
from bench.rollout.world import WorldOptions, protocol_fingerprint
from policies.batching import MAX_BATCH

EXPORT_FILE, FILM_FOLDER = "chains.jsonl", "films"
TRIES = 2
FAULTS_IN_A_ROW = 12
"""After so many faults without one finished chain between them, the machine is broken and not the chains."""
WATCHDOG_S = 300.0

Inference = Literal["local", "actor"]


def roll_out(
    policy: PolicySource,
    chains: Sequence[Chain],
    *,
    arm: str,
    seed: int,
    workers: int | None,
    out: Path | Ledger,
    world: WorldOptions | None = None,
    wrist: WristMode = "real",
    generator: GeneratorSource | None = None,
    **options: Any,
) -> list[ChainResult]:
    """Roll one policy out on ``chains`` and return the finished ones in order; see :func:`roll_out_jobs`."""
    job = Job(policy, arm, seed, wrist, generator)
    return roll_out_jobs([job], chains, workers=workers, out=out, world=world, **options)


def roll_out_jobs(
    jobs: Sequence[Job],
    chains: Sequence[Chain],
    *,
    workers: int | None,
    out: Path | Ledger,
    world: WorldOptions | None = None,
    inference: Inference = "local",
    max_batch: int = MAX_BATCH,
    steps_per_subtask: int = STEPS_PER_SUBTASK,
    instructions: Mapping[str, str] | None = None,
    progress: bool = True,
    ray_address: str | None = None,
    watchdog_s: float = WATCHDOG_S,
    films: Films = "none",
    film_format: FilmFormat = "mp4",
    lanes: int | None = None,
    servers: int | None = None,
    meter: Meter | None = None,
    until: Callable[[Ledger], bool] | None = None,
    metrics: RolloutMetrics | None = None,
) -> list[ChainResult]:
    """Roll several policies out on the same chains with the same workers, going on where an earlier run stopped.

    Args:
        jobs: policies with their arms and seeds.
        chains: what each of them is scored on.
        workers: processes with one world each; None for one per CPU, 0 for none: everything here, without Ray.
        out: the run's folder, or a ledger that is open already.
        world: the world's recipe.
        inference: a policy in each worker, or one batching actor that all workers ask.
        max_batch: batch size of that actor.
        steps_per_subtask: step budget.
        instructions: task to sentence, or None for the evaluation sentences.
        progress: show a bar where standard error is a terminal.
        ray_address: a running cluster, or None for a Ray of this machine.
        watchdog_s: seconds without a control step after which a worker counts as hung.
        films: chains kept as MP4 in ``films/`` beside the ledger: "none", "failures", "successes", "all", or those
            whose number is below a number.
        film_format: "mp4", or "rrd" for Rerun.
        lanes: chains side by side in each worker; None for as many as keep it at work.
        servers: inference actors per policy; None for one per GPU.
        meter: is told where the time went.
        until: asked after every chain; where it says True the rollout ends.  Chains are then taken in the order given.
        metrics: is told what happens, for Prometheus.

    Returns:
        Every finished chain of these jobs, also those of earlier runs; ``Ledger.missing`` has the others.

    Raises:
        UserError: settings that cannot run, a ledger of another experiment, a policy that fails again on a second try,
            a full disk.  What was finished before stays in the ledger.
    """
    world = world or WorldOptions()
    _refuse_doubles(jobs, chains)
    with _opened(out) as ledger:
        ledger.bind(protocol_fingerprint(world, steps_per_subtask=steps_per_subtask, instructions=instructions))
        asked = f"actor of batch {max_batch}" if inference == "actor" else "local"
        ledger.bind({f"policy {job.arm}/{job.seed}": {**job.identity(), "inference": asked} for job in jobs})
        rows = ledger.completed()
        done = {(row.arm, row.seed, row.chain_id) for row in rows}
        keys = [(job.arm, job.seed, chain.chain_id) for job in jobs for chain in chains]
        todo = [Item(j, c) for j in jobs for c in chains if (j.arm, j.seed, c.chain_id) not in done]
        with RolloutProgress(len(jobs) * len(chains), len(jobs) * len(chains) - len(todo), show=progress) as bar:
            queue = Queue(todo, steps_per_subtask, rows, longest_first=until is None)
            book = _Book(ledger, bar, queue, meter or Meter(), keys, film_format, until, metrics)
            pad_to = max_batch if inference == "actor" else 0
            worker: dict[str, Any] = {
                "world": world, "steps_per_subtask": steps_per_subtask, "instructions": instructions, "films": films,
                "film_format": film_format,
            }  # fmt: skip
            if queue and workers == 0:
                _serially(book, ChainWorker(**worker, pad_to=pad_to))
            elif queue:
                run = scratch.new_run()
                apart = {"watchdog_s": watchdog_s, "import_path": tuple(sys.path), "run": run}
                ray = start_ray(ray_address)
                crew = Servers(ray, pad_to, servers, world_models(jobs), run)
                on_gpu = pad_to == 0 and any(not job.policy.device.startswith("cpu") for job in jobs)
                pool = Pool(
                    ray,
                    book,
                    crew,
                    {**worker, **apart},
                    workers=workers,
                    lanes=lanes,
                    waits=pad_to > 0,
                    watchdog_s=watchdog_s,
                    gpus_each=0.01 if on_gpu else 0.0,
                    elastic=cluster_address(ray_address) is not None,
                )
                try:
                    pool.drain()
                finally:
                    scratch.sweep(run, scratch.PATIENCE_S)
                book.meter.served(crew.statistics)
                book.meter.lanes = pool.lanes.number
        wanted = {chain.chain_id for chain in chains}
        return [row for j in jobs for row in ledger.completed(j.arm, j.seed) if row.chain_id in wanted]


class _Book:
    """Which chains wait, what happened to the others; the same with and without Ray."""

    def __init__(
        self,
        ledger: Ledger,
        bar: RolloutProgress,
        queue: Queue,
        meter: Meter,
        keys: list[Key],
        film_format: FilmFormat,
        until: Callable[[Ledger], bool] | None,
        metrics: RolloutMetrics | None,
    ) -> None:
        self.ledger, self.bar, self.queue, self.meter, self._until = ledger, bar, queue, meter, until
        self._keys, self._film_format, self._faults_in_a_row, self._begun = keys, film_format, 0, False
        self.over, self._metrics = False, metrics
        if metrics is not None:
            wanted = set(keys)
            metrics.begin(keys, [row for row in ledger.completed() if (row.arm, row.seed, row.chain_id) in wanted])
        self._ask()

    def _ask(self) -> None:
        """End the rollout where enough is known; what is under way is dropped."""
        if self._until is not None and not self.over and self._until(self.ledger):
            self.over = True
            self.queue.clear()
            if self._begun:
                with disk_faults(self.ledger.path):
                    end_plan(self.ledger.path.parent)

    def world_is(self, facts: dict[str, Any]) -> None:
        """Hold every worker's world to the same facts."""
        self.meter.ready()
        self.ledger.bind(facts)
        if not self._begun:
            self._begun = True
            with disk_faults(self.ledger.path):
                write_plan(self.ledger.path.parent, self._keys, len(self.ledger.completed()))

    def replaced(self) -> None:
        """Note that a worker was hired for a lost one."""
        self.meter.restarts += 1
        if self._metrics is not None:
            self._metrics.restarted()

    @property
    def watched(self) -> bool:
        """Whether somebody wants to know how the inference actors do while they are at it."""
        return self._metrics is not None

    def served(self, actors: Sequence[tuple[str, int, Statistics]]) -> None:
        """Tell how the inference actors do now: each one's model, number and statistics."""
        if self._metrics is not None:
            self._metrics.served(actors)

    def settle(self, item: Item, outcome: Outcome, *, worker: int = 0, again: bool = False) -> None:
        """Write a finished chain down, queue a faulty one again, or give it up; one loss counts as one fault."""
        if outcome.result is not None:
            self._faults_in_a_row = 0
            if outcome.film is not None:
                self._keep(outcome.film, film_name(outcome.result, self._film_format))
            self.ledger.append(outcome.result)
            self.queue.learn(outcome.result)
            if outcome.stint is not None:
                self.meter.add(worker, outcome.stint)
            self.bar.done(outcome.result)
            if self._metrics is not None:
                self._metrics.done(outcome.result, outcome.stint.spent if outcome.stint else {})
            self._ask()
            return
        if outcome.kind == "user":
            raise UserError(f"arm {item.job.arm!r}, seed {item.job.seed}: {outcome.reason}")
        item.faults.append(outcome.reason)
        if len(item.faults) < TRIES:
            self.queue.put_back(item)
        elif outcome.kind == "policy":
            raise UserError(f"arm {item.job.arm!r}, chain {item.chain.chain_id}, tried {TRIES} times: {outcome.reason}")
        else:
            self._give_up(item)
        self._faults_in_a_row += not again
        if self._faults_in_a_row >= FAULTS_IN_A_ROW:
            raise UserError(f"{FAULTS_IN_A_ROW} faults without a finished chain, the last: {outcome.reason}")

    def _keep(self, film: bytes, name: str) -> None:
        """Write a film, before its chain counts as done, so that no finished chain lacks one."""
        path = self.ledger.path.parent / FILM_FOLDER / name
        with disk_faults(path):
            write_bytes(path, film)

    def _give_up(self, item: Item) -> None:
        reason = "; then ".join(item.faults)
        self.ledger.append_missing((item.job.arm, item.job.seed, item.chain.chain_id), reason)
        self.bar.missing(item.chain.chain_id, reason)
        if self._metrics is not None:
            self._metrics.missing(item.job.arm, item.job.seed)
        self._ask()


def _serially(book: _Book, worker: ChainWorker) -> None:
    facts, trouble = finished(worker.prepare())
    try:
        if trouble:
            raise UserError(f"the world cannot be built: {trouble}")
        book.world_is(facts)
        while (item := book.queue.take()) is not None:
            book.settle(item, finished(worker.run(item.job, item.chain)))
    finally:
        worker.close()


@contextmanager
def _opened(out: Path | Ledger) -> Iterator[Ledger]:
    """Give the run's ledger; one opened here is exported as ``chains.jsonl`` and closed again."""
    if isinstance(out, Ledger):
        yield out
        return
    with Ledger(out / LEDGER_FILE) as ledger:
        try:
            yield ledger
        finally:
            if ledger.completed() or ledger.missing():
                ledger.export_jsonl(out / EXPORT_FILE)
            else:
                ledger.path.unlink(missing_ok=True)  # nothing was rolled out: it only looks like a run


def _refuse_doubles(jobs: Sequence[Job], chains: Sequence[Chain]) -> None:
    names = Counter(f"arm {job.arm!r} with seed {job.seed}" for job in jobs)
    names.update(f"chain {chain.chain_id}" for chain in chains)
    doubles = [name for name, count in names.items() if count > 1]
    if doubles:
        raise UserError(f"{doubles[0]} is there more than once; a ledger has one row for each")
