"""The Ray workers of a rollout: hired, fed with chains, watched, and replaced when they are lost.

What a lost worker had under way is run again elsewhere; what becomes of the outcomes is the book's business
(``workers.py``), and this file writes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.errors import UserError
from bench.rollout.actors import ChainWorker, Outcome, Served
from bench.rollout.lanes import Lanes
from bench.rollout.queue import Item, Queue
from bench.rollout.servers import Servers, Statistics

START_S = 180.0
GROW_S = 1200.0
"""How long the first worker may take to come up before Ray is said to have no room for it; where it may grow for it."""
LOSSES_AT_START = 2
"""A worker place that loses so many workers in a row before their world stands is given up."""
PULSES = 3
"""Questions for a sign of life within the watchdog's time."""


class Book(Protocol):
    """Who is told what happened."""

    queue: Queue
    over: bool
    """Enough is known: nothing that is under way is waited for."""

    @property
    def watched(self) -> bool:
        """Whether somebody wants to know how the inference actors do while they are at it."""
        ...

    def served(self, actors: Sequence[tuple[str, int, Statistics]]) -> None:
        """Take how the inference actors do now."""
        ...

    def settle(self, item: Item, outcome: Outcome, *, worker: int, again: bool = False) -> None:
        """Take the outcome of a worker's attempt; ``again``: another attempt has told of the same loss."""
        ...

    def replaced(self) -> None:
        """Note that a worker was hired for a lost one."""
        ...

    def world_is(self, facts: dict[str, Any]) -> None:
        """Take what a worker's world is."""
        ...


@dataclass
class _Worker:
    actor: Any
    number: int
    prepared: Any
    ready: bool = False
    under_way: dict[Any, tuple[Item, Served]] = field(default_factory=dict)
    pulse: Any = None
    pulse_sent: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)

    @property
    def items(self) -> list[Item]:
        """The chains that it is at."""
        return [item for item, _ in self.under_way.values()]


class Pool:
    """Workers with several chains each, fed from one queue.

    Args:
        ray: the connected ``ray`` module.
        book: gives the queue and takes the outcomes.
        servers: the inference actors.
        recipe: arguments of ``ChainWorker``.
        workers: how many; None for one per CPU.
        lanes: chains side by side in each worker; None for as many as keep it at work.
        waits: whether policies answer from other processes.
        watchdog_s: seconds without a sign of life after which a worker is lost.
        gpus_each: part of a GPU that a worker asks Ray for.
        elastic: each worker asks for a CPU even where there are fewer, so that a cluster may grow; else they share.
    """

    def __init__(
        self,
        ray: Any,
        book: Book,
        servers: Servers,
        recipe: Mapping[str, Any],
        *,
        workers: int | None,
        lanes: int | None,
        waits: bool,
        watchdog_s: float,
        gpus_each: float = 0.0,
        elastic: bool = False,
    ) -> None:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        self._ray, self._book, self._servers, self._recipe = ray, book, servers, recipe
        self._watchdog_s, self._start_s = watchdog_s, GROW_S if elastic else START_S
        self.size = min(workers or cpus, len(book.queue))
        self.lanes = Lanes(lanes, waits, self.size, len(book.queue))
        self._options = {"num_cpus": 1 if elastic or self.size <= cpus else 0, "num_gpus": gpus_each, "max_restarts": 0}
        self._crew: list[_Worker] = []
        self._hired = self._lost_at_start = 0

    def drain(self) -> None:
        """Work until the queue is empty and nothing is under way; the workers go however it ends."""
        try:
            for item in self._book.queue:
                self._servers.prepare(item.job)  # loading a policy takes longer than building a world
                break
            for _ in range(self.size):
                self._hire()
            waits_since = time.monotonic()
            while not self._book.over and (self._book.queue or self._items()):
                if any(worker.ready for worker in self._crew):
                    waits_since = time.monotonic()
                elif time.monotonic() - waits_since > self._start_s:
                    raise UserError(
                        f"no worker came up in {self._start_s:.0f} s; Ray has free: {self._ray.available_resources()}; "
                        "stop other Ray jobs or use --workers 0"
                    )
                self._turn()
        except self._ray.exceptions.RayError as error:
            raise UserError(f"Ray failed ({type(error).__name__}); finished chains are kept, run again") from error
        finally:
            self._dismiss()

    def _turn(self) -> None:
        """Wait for the next thing to happen and see to it."""
        waited_for = {reference: worker for worker in self._crew for reference in self._open(worker)}
        done, _ = (
            self._ray.wait(list(waited_for), timeout=min(1.0, self._watchdog_s / PULSES)) if waited_for else ([], [])
        )
        for reference in done:
            self._collect(waited_for[reference], reference)
        for worker in list(self._crew):
            self._listen(worker)
        if self._book.watched:
            self._book.served(self._servers.poll())
        self._feed()

    @staticmethod
    def _open(worker: _Worker) -> list[Any]:
        """Return what this worker still owes an answer to."""
        return [
            *worker.under_way,
            *([worker.pulse] if worker.pulse else []),
            *([] if worker.ready else [worker.prepared]),
        ]

    def _hire(self) -> None:
        actor = self._ray.remote(**self._options)(ChainWorker).remote(**self._recipe)
        self._crew.append(_Worker(actor, self._hired, actor.prepare.remote(self.lanes.number)))
        self._hired += 1

    def _collect(self, worker: _Worker, reference: Any) -> None:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._replace(worker, f"worker lost ({type(error).__name__})")
            return
        worker.heard = time.monotonic()
        if reference == worker.pulse:
            worker.pulse = None
        elif reference == worker.prepared:
            facts, trouble = answer
            if trouble:
                raise UserError(f"the world cannot be built: {trouble}")
            self._book.world_is(facts)
            worker.ready, self._lost_at_start = True, 0
        else:
            item, served = worker.under_way.pop(reference)
            if answer.stint is not None:
                self.lanes.learn(answer.stint)
            again = answer.kind == "unserved" and not self._servers.replace(item.job, served, answer.lost)
            self._book.settle(item, answer, worker=worker.number, again=again)

    def _listen(self, worker: _Worker) -> None:
        """Ask a worker for a sign of life now and then; one that gives none, stopped or cut off, is lost.

        The worker's own watchdog is quicker where a simulator hangs; a process that does not run at all has none.
        """
        now = time.monotonic()
        if not worker.ready:
            return
        if worker.pulse is not None and now - worker.heard > 1.5 * self._watchdog_s:
            self._replace(worker, f"worker lost (no sign of life in {1.5 * self._watchdog_s:.0f} s)")
        elif worker.pulse is None and now - worker.pulse_sent > self._watchdog_s / PULSES:
            worker.pulse, worker.pulse_sent = worker.actor.pulse.remote(), now
            worker.heard = now

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Hire somebody for a lost worker; what it had under way failed, and where that was more than one, alone."""
        self._crew.remove(worker)
        self._kill(worker.actor)
        if not worker.ready:
            self._lost_at_start += 1
            if self._lost_at_start > LOSSES_AT_START * self.size:
                raise UserError(f"workers die while they build the world: {reason}; try --workers 0 to see why")
        items = worker.items
        for item in items:
            item.alone = item.alone or len(items) > 1
        for number, item in enumerate(items):
            self._book.settle(item, Outcome("fault", reason=reason), worker=worker.number, again=number > 0)
        if self._book.queue:
            self._book.replaced()
            self._hire()

    def _feed(self) -> None:
        """Hand out chains, the next always to a worker with the fewest."""
        hungry = [worker for worker in self._crew if self._has_room(worker)]
        while hungry and self._book.queue:
            worker = min(hungry, key=lambda worker: len(worker.under_way))
            item = self._book.queue.take(empty=not worker.under_way)
            if item is not None:
                in_use = {(i.job.arm, i.job.seed) for i in self._items()}
                if not self._servers.has_room(item.job, in_use):
                    self._book.queue.put_back(item)
                    return
                served = self._servers.of(item.job, worker.number, in_use)
                coming = self._book.queue.after(item.job)
                if coming is not None:
                    self._servers.prepare(coming)
                worker.under_way[worker.actor.run.remote(item.job, item.chain, served)] = item, served
            if item is None or not self._has_room(worker):
                hungry.remove(worker)

    def _has_room(self, worker: _Worker) -> bool:
        free = len(worker.under_way) < self.lanes.number
        return worker.ready and free and not any(item.alone for item in worker.items)

    def _items(self) -> list[Item]:
        return [item for worker in self._crew for item in worker.items]

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def _dismiss(self) -> None:
        for worker in self._crew:
            self._kill(worker.actor)
        self._crew.clear()
        self._servers.close()
