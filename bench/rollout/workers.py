"""Many chains at once: Ray workers fed from one queue, and one process, this one, that writes the ledger.

A chain's result depends on nothing but the chain, the policy and the seed, so it does not matter which worker runs it,
when, or after how many attempts.  A fault of the machinery never becomes a score: the chain is run again, and after two
faults it is missing and said to be.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.atomic import write_bytes
from bench.errors import UserError
from bench.rollout.actors import ChainWorker, InferenceActor, Job, Outcome
from bench.rollout.chain import STEPS_PER_SUBTASK, Chain, ChainResult, WristMode
from bench.rollout.film import Films, film_name
from bench.rollout.inference import MAX_BATCH, RemotePolicy
from bench.rollout.ledger import Ledger, disk_faults
from bench.rollout.progress import RolloutProgress
from bench.rollout.session import start_ray
from bench.rollout.sources import BUILT_IN, GeneratorSource, PolicySource
from bench.rollout.world import WorldOptions, protocol_fingerprint

LEDGER_FILE, EXPORT_FILE, FILM_FOLDER = "ledger.jsonl", "chains.jsonl", "films"
TRIES = 2
FAULTS_IN_A_ROW = 12
"""After so many faults without one finished chain between them, the machine is broken and not the chains."""
WATCHDOG_S = 300.0
START_S = 180.0
"""How long the first worker may take to come up before Ray is said to have no room for it."""

Inference = Literal["local", "actor"]


@dataclass
class _Item:
    job: Job
    chain: Chain
    faults: list[str] = field(default_factory=list)


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
        films: chains kept as MP4 in ``films/`` beside the ledger: "none", "failures", "successes" or "all".

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
        done = {(row.arm, row.seed, row.chain_id) for row in ledger.completed()}
        todo = [_Item(j, c) for j in jobs for c in chains if (j.arm, j.seed, c.chain_id) not in done]
        with RolloutProgress(len(jobs) * len(chains), len(jobs) * len(chains) - len(todo), show=progress) as bar:
            book = _Book(ledger, bar, deque(todo))
            if todo and workers == 0:
                _serially(book, ChainWorker(world, steps_per_subtask, instructions, films=films))
            elif todo:
                recipe = (world, steps_per_subtask, instructions, watchdog_s, tuple(sys.path), films)
                ray = start_ray(ray_address)
                pool = _Pool(ray, book, recipe, workers, max_batch if inference == "actor" else 0)
                pool.drain()
        wanted = {chain.chain_id for chain in chains}
        return [row for j in jobs for row in ledger.completed(j.arm, j.seed) if row.chain_id in wanted]


class _Book:
    """Which chains wait, what happened to the others; the same with and without Ray."""

    def __init__(self, ledger: Ledger, bar: RolloutProgress, waiting: deque[_Item]) -> None:
        self.ledger, self.bar, self.waiting = ledger, bar, waiting
        self._faults_in_a_row = 0

    def settle(self, item: _Item, outcome: Outcome) -> None:
        """Write a finished chain down, queue a faulty one again, or give it up."""
        if outcome.result is not None:
            self._faults_in_a_row = 0
            if outcome.film is not None:
                self._keep(outcome.film, film_name(outcome.result))
            self.ledger.append(outcome.result)
            self.bar.done(outcome.result)
            return
        if outcome.kind == "user":
            raise UserError(f"arm {item.job.arm!r}, seed {item.job.seed}: {outcome.reason}")
        item.faults.append(outcome.reason)
        if len(item.faults) < TRIES:
            self.waiting.appendleft(item)
        elif outcome.kind == "policy":
            raise UserError(f"arm {item.job.arm!r}, chain {item.chain.chain_id}, tried {TRIES} times: {outcome.reason}")
        else:
            self._give_up(item)
        self._faults_in_a_row += 1
        if self._faults_in_a_row >= FAULTS_IN_A_ROW:
            raise UserError(f"{FAULTS_IN_A_ROW} faults without a finished chain, the last: {outcome.reason}")

    def _keep(self, film: bytes, name: str) -> None:
        """Write a film, before its chain counts as done, so that no finished chain lacks one."""
        path = self.ledger.path.parent / FILM_FOLDER / name
        with disk_faults(path):
            write_bytes(path, film)

    def _give_up(self, item: _Item) -> None:
        reason = "; then ".join(item.faults)
        self.ledger.append_missing((item.job.arm, item.job.seed, item.chain.chain_id), reason)
        self.bar.missing(item.chain.chain_id, reason)


def _serially(book: _Book, worker: ChainWorker) -> None:
    facts, trouble = worker.prepare()
    try:
        if trouble:
            raise UserError(f"the world cannot be built: {trouble}")
        book.ledger.bind(facts)
        while book.waiting:
            item = book.waiting.popleft()
            book.settle(item, worker.run(item.job, item.chain))
    finally:
        worker.close()


class _Pool:
    """The Ray workers, which of them is busy with what, and the inference actors that they ask."""

    def __init__(self, ray: Any, book: _Book, recipe: tuple[Any, ...], workers: int | None, max_batch: int) -> None:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        self.ray, self.book, self.recipe, self.max_batch = ray, book, recipe, max_batch
        self.size = min(workers or cpus, len(book.waiting))
        self.cpus_each = 1 if self.size <= cpus else 0
        self.needs_gpu = max_batch == 0 and any(not i.job.policy.device.startswith("cpu") for i in book.waiting)
        self.busy: dict[Any, tuple[Any, _Item | None]] = {}
        self.servers: dict[str, tuple[Any, RemotePolicy]] = {}
        self.ready = 0
        self.lost_at_start = 0

    def drain(self) -> None:
        """Work until the queue is empty and nobody is busy; the workers go however it ends."""
        try:
            for _ in range(self.size):
                self._hire()
            while self.busy:
                done, _ = self.ray.wait(list(self.busy), timeout=START_S if self.ready == 0 else None)
                if not done:
                    raise UserError(
                        f"no worker came up in {START_S:.0f} s; Ray has free: {self.ray.available_resources()}; "
                        "stop other Ray jobs or use --workers 0"
                    )
                self._collect(done[0])
        except self.ray.exceptions.RayError as error:
            raise UserError(f"Ray failed ({type(error).__name__}); finished chains are kept, run again") from error
        finally:
            self._dismiss()

    def _hire(self) -> None:
        gpus = 0.01 if self.needs_gpu else 0
        remote = self.ray.remote(num_cpus=self.cpus_each, num_gpus=gpus, max_restarts=0)(ChainWorker)
        worker = remote.remote(*self.recipe)
        self.busy[worker.prepare.remote()] = worker, None

    def _collect(self, reference: Any) -> None:
        worker, item = self.busy.pop(reference)
        try:
            answer = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self._replace(worker, item, f"worker lost ({type(error).__name__})")
            return
        if item is None:
            facts, trouble = answer
            if trouble:
                raise UserError(f"the world cannot be built: {trouble}")
            self.book.ledger.bind(facts)
            self.ready += 1
        else:
            self.book.settle(item, answer)
        self._employ(worker)

    def _replace(self, worker: Any, item: _Item | None, reason: str) -> None:
        self.ray.kill(worker)
        if item is not None:
            self.book.settle(item, Outcome("fault", reason=reason))
        else:
            self.lost_at_start += 1
            if self.lost_at_start > TRIES * self.size:
                raise UserError(f"workers die while they build the world: {reason}; try --workers 0 to see why")
        if self.book.waiting:
            self._hire()

    def _employ(self, worker: Any) -> None:
        if not self.book.waiting:
            self.ray.kill(worker)
            return
        item = self.book.waiting.popleft()
        reference = worker.run.remote(item.job, item.chain, self._server(item.job))
        self.busy[reference] = worker, item

    def _server(self, job: Job) -> RemotePolicy | None:
        """Return the job's inference actor, started when its first chain is; the one before it goes when idle."""
        if self.max_batch == 0 or job.policy.name in BUILT_IN:
            return None
        name = f"{job.arm}/{job.seed}"
        if name not in self.servers:
            in_use = {f"{i.job.arm}/{i.job.seed}" for _, i in self.busy.values() if i is not None}
            for idle in set(self.servers) - in_use:
                self.ray.kill(self.servers.pop(idle)[0])
            self.servers[name] = self._serve(job.policy)
        return self.servers[name][1]

    def _serve(self, source: PolicySource) -> tuple[Any, RemotePolicy]:
        gpus = 0 if source.device.startswith("cpu") else 0.01
        options = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 3, "max_task_retries": -1, "max_concurrency": 1000}
        actor = self.ray.remote(**options)(InferenceActor).remote(source, self.max_batch, import_path=tuple(sys.path))
        try:
            return actor, RemotePolicy(self.ray.get(actor.spec.remote()), actor)
        except self.ray.exceptions.RayTaskError as error:
            raise UserError(f"policy {source.name!r} cannot be loaded: {error.cause}") from None
        except self.ray.exceptions.RayActorError as error:
            lines = str(error).strip().splitlines()
            raise UserError(f"policy {source.name!r} cannot be loaded: {lines[-1] if lines else error}") from None

    def _dismiss(self) -> None:
        for worker, _ in self.busy.values():
            self.ray.kill(worker)
        for actor, _ in self.servers.values():
            self.ray.kill(actor)
        self.busy.clear()
        self.servers.clear()


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
