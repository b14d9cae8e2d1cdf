"""The batching server, in an event loop without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from rollout_doubles import BadPolicy, NoisyPolicy

from bench.rollout.inference import BatchingServer
from policies.api import Observation, PolicyError


def seen(shade: int) -> Observation:
    return Observation({"anchor": np.full((4, 4, 3), shade, np.uint8)}, "go")


class Counting(NoisyPolicy):
    """Notes the size of each batch and the thread that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.threads: set[int] = set()

    def act(self, batch: Any, seeds: Any) -> np.ndarray:
        self.sizes.append(len(batch))
        self.threads.add(threading.get_ident())
        return super().act(batch, seeds)


def answers(server: BatchingServer, count: int, first: int = 0) -> list[Any]:
    async def ask() -> list[Any]:
        asked: list[Coroutine[Any, Any, Any]] = [server.infer(seen(i), i) for i in range(first, first + count)]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def test_each_caller_gets_its_own_chunk_and_every_batch_has_the_same_size() -> None:
    policy = Counting()
    chunks = answers(BatchingServer(policy, max_batch=4, max_wait_s=0.02), 10)
    for i, chunk in enumerate(chunks):
        np.testing.assert_array_equal(chunk, NoisyPolicy().act([seen(i)], [i])[0])
    assert policy.sizes == [4, 4, 4]
    assert len(policy.threads) == 1
    assert threading.get_ident() not in policy.threads


def test_full_batch_does_not_wait_and_a_lonely_request_does_not_wait_for_ever() -> None:
    server = BatchingServer(Counting(), max_batch=2, max_wait_s=30.0)
    assert len(answers(server, 2)) == 2
    server = BatchingServer(Counting(), max_batch=2, max_wait_s=0.0)
    assert len(answers(server, 1)) == 1


def test_error_reaches_every_caller_of_the_batch_and_the_next_batch_is_served() -> None:
    server = BatchingServer(BadPolicy("raise"), max_batch=4, max_wait_s=0.02)

    async def scene() -> tuple[list[Any], Any]:
        failed = await asyncio.gather(*[server.infer(seen(9), i) for i in range(3)], return_exceptions=True)
        return failed, await server.infer(seen(0), 0)

    failed, good = asyncio.run(scene())
    assert [str(error) for error in failed] == ["policy 'noisy' raised KeyError: 'no such weight'"] * 3
    assert all(isinstance(error, PolicyError) for error in failed)
    assert good.shape == (4, 7)


def test_policy_that_loses_rows_is_named() -> None:
    class Short(NoisyPolicy):
        def act(self, batch: Any, seeds: Any) -> np.ndarray:
            return super().act(batch, seeds)[:1]

    (error,) = answers(BatchingServer(Short(), max_batch=2, max_wait_s=0.0), 1)
    assert "'noisy' gave actions of shape (1, 4, 7) for 2 observations" in str(error)


def test_caller_that_gave_up_harms_nobody() -> None:
    server = BatchingServer(NoisyPolicy(), max_batch=4, max_wait_s=0.05)

    async def scene() -> Any:
        impatient = asyncio.ensure_future(server.infer(seen(1), 1))
        patient = asyncio.ensure_future(server.infer(seen(2), 2))
        await asyncio.sleep(0.005)
        impatient.cancel()
        return await patient

    assert asyncio.run(scene()).shape == (4, 7)


def test_statistics_count_batches() -> None:
    server = BatchingServer(NoisyPolicy(), max_batch=4, max_wait_s=0.02)
    assert server.statistics()["batch_fill"] is None
    answers(server, 6)
    numbers = server.statistics()
    assert numbers["batches"] == 2
    assert numbers["batch_fill"] == pytest.approx(0.75)
    for name in ("queue_p50_ms", "queue_p95_ms", "predict_ms"):
        assert numbers[name] is not None
        assert numbers[name] >= 0


def test_wait_for_company_follows_the_forward_and_does_not_begin_with_one() -> None:
    server = BatchingServer(NoisyPolicy(), max_batch=4)
    assert server._wait_s() == 0.0
    for seconds in (0.3, 0.2, 0.5):
        server._note(seconds)
    assert server._wait_s() == pytest.approx(0.02)
