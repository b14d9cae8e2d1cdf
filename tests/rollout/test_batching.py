"""The batches of an inference actor, in an event loop without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from rollout_doubles import BadPolicy, NoisyPolicy

from bench.calvin.instructions import evaluation_instruction
from policies.api import Observation, Policy, PolicyError
from policies.batching import Batcher, Padded
from policies.config import FlowPolicyConfig
from policies.flow import FlowPolicy


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


def actors_batcher(policy: Policy, max_batch: int, max_wait_s: float | None = None) -> Batcher:
    """What an inference actor makes of a policy."""
    return Batcher(policy, max_batch=max_batch, max_wait_s=max_wait_s, pad=True)


def answers(server: Batcher, count: int, first: int = 0) -> list[Any]:
    async def ask() -> list[Any]:
        asked: list[Coroutine[Any, Any, Any]] = [server.ask(seen(i), i) for i in range(first, first + count)]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def test_each_caller_gets_its_own_chunk_and_every_batch_has_the_same_size() -> None:
    policy = Counting()
    chunks = answers(actors_batcher(policy, 4, 0.02), 10)
    for i, chunk in enumerate(chunks):
        np.testing.assert_array_equal(chunk, NoisyPolicy().act([seen(i)], [i])[0])
    assert policy.sizes == [4, 4, 4]
    assert len(policy.threads) == 1
    assert threading.get_ident() not in policy.threads


def test_full_batch_does_not_wait_and_a_lonely_request_does_not_wait_for_ever() -> None:
    server = actors_batcher(Counting(), 2, 30.0)
    assert len(answers(server, 2)) == 2
    server = actors_batcher(Counting(), 2, 0.0)
    assert len(answers(server, 1)) == 1


def test_error_reaches_every_caller_that_caused_it_and_the_next_batch_is_served() -> None:
    server = actors_batcher(BadPolicy("raise"), 4, 0.02)

    async def scene() -> tuple[list[Any], Any]:
        failed = await asyncio.gather(*[server.ask(seen(9), i) for i in range(3)], return_exceptions=True)
        return failed, await server.ask(seen(0), 0)

    failed, good = asyncio.run(scene())
    assert [str(error) for error in failed] == ["policy 'noisy' raised KeyError: 'no such weight'"] * 3
    assert all(isinstance(error, PolicyError) for error in failed)
    assert good.shape == (4, 7)


def test_one_bad_request_changes_no_bit_of_the_other_answers() -> None:
    """The batch is halved around it; every half is padded to the same size as the whole was."""
    sentence = evaluation_instruction("open_drawer")
    rng = np.random.default_rng(3)
    views = [
        {name: rng.integers(0, 255, (side, side, 3), np.uint8) for name, side in (("anchor", 96), ("wrist", 48))}
        for _ in range(6)
    ]
    good = [Observation(pair, sentence, np.zeros(15, np.float32)) for pair in views]
    blind = Observation({"wrist": views[2]["wrist"]}, sentence, np.zeros(15, np.float32))
    policy = FlowPolicy.initial(FlowPolicyConfig.preset("tiny"), "real", [sentence])

    async def asked(batch: list[Observation]) -> list[Any]:
        server = actors_batcher(policy, 8, 0.2)
        return await asyncio.gather(*map(server.ask, batch, range(6)), return_exceptions=True)

    quiet = asyncio.run(asked(good))
    disturbed = asyncio.run(asked([*good[:2], blind, *good[3:]]))
    assert isinstance(disturbed[2], PolicyError)
    assert "anchor" in str(disturbed[2])
    for place in (0, 1, 3, 4, 5):
        np.testing.assert_array_equal(disturbed[place], quiet[place])


def test_nan_is_the_fault_of_its_own_request_alone() -> None:
    class Sick(NoisyPolicy):
        def act(self, batch: Any, seeds: Any) -> np.ndarray:
            chunks = super().act(batch, seeds)
            chunks[[observation.views["anchor"][0, 0, 0] == 1 for observation in batch], 0, 0] = np.nan
            return chunks

    told = answers(actors_batcher(Sick(), 4, 0.02), 3)
    assert [isinstance(one, PolicyError) for one in told] == [False, True, False]
    assert "NaN or infinite" in str(told[1])


def test_policy_that_loses_rows_is_named() -> None:
    class Short(NoisyPolicy):
        def act(self, batch: Any, seeds: Any) -> np.ndarray:
            return super().act(batch, seeds)[:1]

    (error,) = answers(actors_batcher(Short(), 2, 0.0), 1)
    assert "'noisy' gave actions of shape (1, 4, 7), expected (2, 4, 7)" in str(error)


def test_caller_that_gave_up_harms_nobody() -> None:
    server = actors_batcher(NoisyPolicy(), 4, 0.05)

    async def scene() -> Any:
        impatient = asyncio.ensure_future(server.ask(seen(1), 1))
        patient = asyncio.ensure_future(server.ask(seen(2), 2))
        await asyncio.sleep(0.005)
        impatient.cancel()
        return await patient

    assert asyncio.run(scene()).shape == (4, 7)


def test_statistics_count_batches() -> None:
    server = actors_batcher(NoisyPolicy(), 4, 0.02)
    assert server.statistics()["batch_fill"] is None
    answers(server, 6)
    numbers = server.statistics()
    assert numbers["batches"] == 2
    assert numbers["batch_fill"] == pytest.approx(0.75)
    for name in ("queue_p50_ms", "queue_p95_ms", "predict_p50_ms"):
        assert numbers[name] is not None
        assert numbers[name] >= 0


def test_wait_for_company_follows_the_forward_and_does_not_begin_with_one() -> None:
    server = actors_batcher(NoisyPolicy(), 4)
    assert server._wait_s() == 0.0
    for seconds in (0.3, 0.2, 0.5):
        server._note(1, seconds)
    assert server._wait_s() == pytest.approx(0.02)


def test_network_gives_the_same_actions_wherever_it_stands_in_a_padded_batch() -> None:
    policy = FlowPolicy.initial(FlowPolicyConfig.preset("tiny"), "real", ["open it", "close it"])
    rng = np.random.default_rng(0)
    sides = {"anchor": 200, "wrist": 84}
    asked = []
    for sentence in ["open it", "close it"] * 2:
        views = {name: rng.integers(0, 255, (side, side, 3), np.uint8) for name, side in sides.items()}
        asked.append(Observation(views, sentence))
    padded = Padded(policy, 4)
    together = padded.act(asked, [5, 6, 7, 8])
    for i, observation in enumerate(asked):
        np.testing.assert_array_equal(padded.act([observation], [5 + i])[0], together[i])
