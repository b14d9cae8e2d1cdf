"""What a chain asks while it is rolled out, and the one loop that gives it the answers.

A chain is a generator: it yields a question, or None after a control step, and is sent the answer.  So it does not know
whether its policy is in this process or in another, nor how many other chains its thread carries.  Not here: the
protocol (``chain.py``), and what lives in other processes (``inference.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bench.rollout.sources import ask
from bench.rollout.spent import Spent
from policies.api import ANCHOR, Observation, Policy
from worldmodel.api import WristStream

TURN_S = 0.25
"""How long one chain may keep the thread from other chains and from whoever asks for a sign of life."""


@dataclass(frozen=True)
class Question:
    """What a chain waits for: the policy's (K, 7) chunk for one observation.

    Attributes:
        observation: what the policy sees.
        seed: the request's own seed.
    """

    observation: Observation
    seed: int


@dataclass(frozen=True)
class Sight:
    """What a chain waits for where its wrist view is generated: the world model's picture of this moment, (h, w, 3).

    Attributes:
        anchor: uint8 (H, W, 3), the anchor view now.  A chain's sights are shown to one stream, in order.
    """

    anchor: NDArray[np.uint8]


Reply = NDArray[Any]
Result = TypeVar("Result")
Course = Generator[Question | Sight | None, Reply | None, Result]
"""A chain under way, or a part of it: gives a question and is sent its answer, or gives None after a control step."""


@runtime_checkable
class Elsewhere(Protocol):
    """A policy, or a world model's stream, in another process."""

    async def answer(self, question: Any) -> Reply:
        """Return the answer; others may use the caller's thread meanwhile."""
        ...


async def follow(
    course: Course[Result],
    policy: object,
    stream: WristStream | Elsewhere | None = None,
    *,
    alive: Callable[[], object] = lambda: None,
    spent: Spent | None = None,
) -> Result:
    """Answer a chain's questions to its end and return its result.

    The thread is given away while an answer comes from elsewhere, and now and then between control steps.

    Args:
        course: the chain.
        policy: answers each :class:`Question`; one that is no ``Policy`` is never asked.
        stream: answers each :class:`Sight`, in order.
        alive: called after every control step, so that a watchdog knows.
        spent: told where the time went.
    """
    spent = defaultdict(float) if spent is None else spent
    reply: Reply | None = None
    turn = time.perf_counter()
    while True:
        try:
            question = course.send(reply)
        except StopIteration as end:
            spent["busy"] += time.perf_counter() - turn
            result: Result = end.value
            return result
        reply = None
        if question is None:
            alive()
            if time.perf_counter() - turn > TURN_S:
                spent["busy"] += time.perf_counter() - turn
                await asyncio.sleep(0)
                turn = time.perf_counter()
            continue
        asked = time.perf_counter()
        spent["requests" if isinstance(question, Question) else "sights"] += 1
        one = policy if isinstance(question, Question) else stream
        if isinstance(one, Elsewhere):
            spent["busy"] += asked - turn
            reply = await one.answer(question)
            turn = time.perf_counter()
            spent["waiting"] += turn - asked
        else:
            reply = answered_here(question, one)
            spent["policy"] += time.perf_counter() - asked


def answered_here(question: Question | Sight, one: object) -> Reply:
    """Return the answer of a policy, or of a world model's stream, in this process.

    Raises:
        policies.api.PolicyError: the policy gave something that is not a chunk of actions.
    """
    if isinstance(question, Question) and isinstance(one, Policy):
        return ask(one, question.observation, question.seed)
    if isinstance(question, Sight) and isinstance(one, WristStream):
        return one.push({ANCHOR: question.anchor})
    raise TypeError(f"a {type(question).__name__} cannot be answered by a {type(one).__name__}")


def finished(work: Coroutine[Any, Any, Result]) -> Result:
    """Return what such work gives where everything that answers is in this process: it gives way, but never waits."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            answer: Result = end.value
            return answer
