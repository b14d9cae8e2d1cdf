"""The order of the work: longest first, jobs together, suspects alone."""

from __future__ import annotations

import pytest

from bench.rollout.actors import Job
from bench.rollout.chain import Chain, ChainResult
from bench.rollout.queue import SORT_EVERY, Expectation, Item, Queue
from bench.rollout.sources import PolicySource

JOB, OTHER = Job(PolicySource("random"), "real", 0), Job(PolicySource("random"), "anchor", 0)


def chain(chain_id: int, *tasks: str) -> Chain:
    return Chain(chain_id, tasks, (0.0,) * 15, (0.0,) * 24)


def row(chain_id: int, tasks: tuple[str, ...], solved: int, steps: tuple[int, ...]) -> ChainResult:
    return ChainResult(chain_id, "real", 0, tasks, solved, steps)


def taken(queue: Queue) -> list[int]:
    ids = []
    while (item := queue.take()) is not None:
        ids.append(item.chain.chain_id)
    return ids


def test_unknown_chains_keep_their_order() -> None:
    queue = Queue([Item(JOB, chain(i, "a", "b")) for i in range(5)], 360)
    assert taken(queue) == [0, 1, 2, 3, 4]


def test_expected_steps_follow_what_was_seen() -> None:
    expectation = Expectation(budget=100)
    assert expectation.steps(["quick"]) == 100
    for _ in range(99):
        expectation.learn(row(0, ("quick", "never"), 1, (10, 100)))
    assert expectation.steps(["quick"]) == pytest.approx((990 + 100) / 100)
    # after a task that is never solved hardly anything follows; after one that always is, all of it
    assert expectation.steps(["never", "unknown"]) == pytest.approx(100 + 0.005 * 100)
    assert expectation.steps(["quick", "never"]) == pytest.approx(10.9 + 0.995 * 100)


def test_longest_chain_is_first_and_jobs_stay_together() -> None:
    done = [row(i, ("quick", "slow"), 2, (5, 300)) for i in range(20)]
    items = [Item(job, chain(i, *tasks)) for job in (JOB, OTHER) for i, tasks in enumerate([("quick",), ("slow",)])]
    queue = Queue(items, 360, done)
    assert [(item.job.arm, item.chain.chain_id) for item in queue][:2] == [("real", 1), ("real", 0)]
    assert len(queue) == 4
    assert [queue.take().job.arm for _ in range(4)] == ["real"] * 2 + ["anchor"] * 2  # type: ignore[union-attr]
    assert taken(Queue(items[:2], 360, done, longest_first=False)) == [0, 1]


def test_order_is_learnt_on_the_way() -> None:
    queue = Queue([Item(JOB, chain(0, "quick")), Item(JOB, chain(1, "slow"))], 360)
    for i in range(SORT_EVERY):
        queue.learn(row(i, ("quick", "slow"), 2, (5, 300)))
    assert taken(queue) == [1, 0]


def test_the_job_that_comes_next_is_known_before_its_turn() -> None:
    other = Job(PolicySource("random"), "paired", 0)
    queue = Queue([Item(JOB, chain(0, "a")), Item(JOB, chain(1, "a")), Item(other, chain(0, "a"))], 360)
    assert queue.after(JOB) == other
    assert queue.after(other) == JOB
    taken(queue)
    assert queue.after(JOB) is None


def test_suspect_waits_for_an_empty_worker() -> None:
    queue = Queue([Item(JOB, chain(0, "a"))], 360)
    suspect = Item(JOB, chain(7, "a"), ["worker lost"], alone=True)
    queue.put_back(suspect)
    assert queue.take(empty=False).chain.chain_id == 0  # type: ignore[union-attr]
    assert queue.take(empty=False) is None
    assert queue.take(empty=True) is suspect
    queue.put_back(Item(JOB, chain(3, "a"), ["policy raised"]))
    assert queue.take(empty=False).chain.chain_id == 3  # type: ignore[union-attr]
    queue.put_back(suspect)
    queue.clear()
    assert not queue
