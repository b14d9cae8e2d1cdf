"""Which chain is next: the one that is expected to take longest, so that no worker is left alone with one at the end.

How long a chain will take is learnt as the rows come in: how often each task was solved and in how many steps.  The
order changes when the work is done, never its results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.rollout.actors import Job
from bench.rollout.chain import Chain, ChainResult

SORT_EVERY = 25
"""Finished chains between two sortings of those that wait."""


@dataclass
class Item:
    """A chain that one job has still to be scored on.

    Attributes:
        job: policy, arm, seed.
        chain: the chain.
        faults: why earlier attempts failed.
        alone: it was under way when a worker with several chains was lost; the next attempt shares no worker, so that
            a second loss is its own.
    """

    job: Job
    chain: Chain
    faults: list[str] = field(default_factory=list)
    alone: bool = False


class Expectation:
    """What the finished chains say about how long others will take.

    Args:
        budget: steps after which a subtask has failed; what an unknown task is taken to cost.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._tried: dict[str, tuple[int, int, int]] = {}

    def learn(self, result: ChainResult) -> None:
        """Count a finished chain's subtasks."""
        for position, (task, steps) in enumerate(zip(result.tasks, result.steps, strict=False)):
            tried, solved, total = self._tried.get(task, (0, 0, 0))
            self._tried[task] = (tried + 1, solved + (position < result.solved), total + steps)

    def steps(self, tasks: Sequence[str]) -> float:
        """Return the control steps that a chain of these tasks is expected to take."""
        expected, reached = 0.0, 1.0
        for task in tasks:
            tried, solved, total = self._tried.get(task, (0, 0, 0))
            expected += reached * (total + self._budget) / (tried + 1)
            reached *= (solved + 0.5) / (tried + 1)
        return expected


class Queue:
    """The chains that wait, job by job.

    A job's chains stay together because a worker, or an inference actor, holds one policy at a time.

    Args:
        items: everything to do, in order.
        budget: steps after which a subtask has failed.
        done: chains that were finished before; they are learnt from.
        longest_first: False keeps the order given.
    """

    def __init__(
        self, items: Sequence[Item], budget: int, done: Iterable[ChainResult] = (), *, longest_first: bool = True
    ) -> None:
        self._waiting = deque(items)
        self._alone: deque[Item] = deque()
        self._expectation, self._longest_first, self._learnt = Expectation(budget), longest_first, 0
        for result in done:
            self._expectation.learn(result)
        self._sort()

    def __len__(self) -> int:
        """Return how many chains wait."""
        return len(self._waiting) + len(self._alone)

    def __iter__(self) -> Iterator[Item]:
        """Go through the chains that wait."""
        return iter((*self._alone, *self._waiting))

    def learn(self, result: ChainResult) -> None:
        """Take note of a finished chain; every now and then the order follows."""
        self._expectation.learn(result)
        self._learnt += 1
        if self._learnt % SORT_EVERY == 0:
            self._sort()

    def take(self, *, empty: bool = True) -> Item | None:
        """Return the next chain for a worker, or None where there is none for it.

        Args:
            empty: whether the worker has nothing under way; only then is it given a chain that must be alone.
        """
        if empty and self._alone:
            return self._alone.popleft()
        return self._waiting.popleft() if self._waiting else None

    def after(self, job: Job) -> Job | None:
        """Return the job whose chains come after those of ``job``, or None where it is the last."""
        return next((item.job for item in self._waiting if item.job is not job and item.job != job), None)

    def put_back(self, item: Item) -> None:
        """Queue a chain again, before all others."""
        (self._alone if item.alone else self._waiting).appendleft(item)

    def clear(self) -> None:
        """Forget everything that waits."""
        self._waiting.clear()
        self._alone.clear()

    def _sort(self) -> None:
        if not self._longest_first:
            return
        leading: list[Item] = []
        while self._waiting and (not leading or self._waiting[0].job == leading[0].job):
            leading.append(self._waiting.popleft())
        leading.sort(key=lambda item: -self._expectation.steps(item.chain.tasks))
        self._waiting.extendleft(reversed(leading))
