"""One model for many askers: questions that wait at the same time become one call.

A question that the model refuses takes nobody with it: the batch is halved until the culprit is alone.  Where batches
are padded to one size, an answer does not depend, to the last bit, on who else asked at that moment, halved or not.
The shape (one call at a time in a thread of its own, an error for whoever caused it) is that of ``ray.serve.batch``,
without its HTTP.  Not here: who asks (:mod:`policies.server`, the inference actors of ``bench.rollout``), and time
limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.api import ACTION_DIM, Observation, Policy, PolicyError, PolicySpec

MAX_BATCH = 16
MAX_WAIT_S = 0.005
WAIT_SHARE = 0.1
"""How long a padded batch waits for company, as a share of a call's time: it costs the same, full or not."""
REMEMBERED = 10_000
"""Batches and questions that the percentiles are made of."""

Question = TypeVar("Question")


@dataclass(eq=False)
class _Request(Generic[Question]):
    question: Question
    seed: int
    answer: asyncio.Future[NDArray[Any]]
    came: float


class Gatherer(Generic[Question]):
    """Gathers questions into batches and asks a model once for each; lives in an event loop.

    Args:
        act: the model: takes B questions and B seeds, and gives an array whose first dimension is B; called in a thread
            of its own.
        max_batch: most questions of one call.
        max_wait_s: how long the first question of a batch waits for company; None for a share of a call's time.
        company: how many may ask at once; a batch that has them all waits for nobody.
        name: how the model is called where it fails.
        error: what is raised then; what the model itself raises of that kind is passed on as it is.
    """

    def __init__(
        self,
        act: Callable[[Sequence[Question], Sequence[int]], NDArray[Any]],
        *,
        max_batch: int = MAX_BATCH,
        max_wait_s: float | None = MAX_WAIT_S,
        company: Callable[[], float] = lambda: math.inf,
        name: str = "the model",
        error: type[Exception] = PolicyError,
    ) -> None:
        self._act, self.max_batch, self._max_wait_s, self._company = act, max_batch, max_wait_s, company
        self._name, self._error = name, error
        self._waiting: asyncio.Queue[_Request[Question]] = asyncio.Queue()
        self._loop: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._batches = self._answered = 0
        self._queued_s: deque[float] = deque(maxlen=REMEMBERED)
        self._predict_s: deque[float] = deque(maxlen=REMEMBERED)
        self._busy_s, self._quickest_s = 0.0, math.inf

    async def ask(self, question: Question, seed: int) -> NDArray[Any]:
        """Return the model's answer to one question: one row of the array that it gave.

        Raises:
            Exception: the model raised on this question; of the kind that ``error`` says.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop.done():
            self._loop = loop.create_task(self._serve())
        request = _Request(question, seed, loop.create_future(), time.perf_counter())
        await self._waiting.put(request)
        return await request.answer

    async def close(self) -> None:
        """Stop gathering; whoever still waits is told so."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        while not self._waiting.empty():
            _give(self._waiting.get_nowait(), self._shut_down())
        self._thread.shutdown(wait=False, cancel_futures=True)

    def statistics(self) -> dict[str, float | int | None]:
        """Return what was asked so far and how long it took.

        Returns:
            ``batches``, ``batch_fill`` (their mean, 0..1), ``busy_s`` (the calls' time altogether), and in ms
            ``queue_p50_ms``, ``queue_p95_ms``, ``queue_mean_ms`` (a question's wait for its call) and
            ``predict_p50_ms``, ``predict_mean_ms`` (a call).
        """
        return {
            "batches": self._batches,
            "batch_fill": self._answered / (self._batches * self.max_batch) if self._batches else None,
            "busy_s": self._busy_s,
            "queue_p50_ms": percentile_ms(self._queued_s, 50),
            "queue_p95_ms": percentile_ms(self._queued_s, 95),
            "queue_mean_ms": _mean_ms(self._queued_s),
            "predict_p50_ms": percentile_ms(self._predict_s, 50),
            "predict_mean_ms": _mean_ms(self._predict_s),
        }

    def _shut_down(self) -> Exception:
        return self._error("the policy server was shut down before it could answer")

    async def _serve(self) -> None:
        while True:
            batch = await self._gather()
            if not batch:
                continue
            began = time.perf_counter()
            self._queued_s += [began - request.came for request in batch]
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answers, batch)
            except asyncio.CancelledError:
                for request in batch:
                    _give(request, self._shut_down())
                raise
            self._note(len(batch), time.perf_counter() - began)
            for request, answer in zip(batch, answers, strict=True):
                _give(request, answer)

    async def _gather(self) -> list[_Request[Question]]:
        batch = [await self._waiting.get()]
        until = time.perf_counter() + self._wait_s()
        while len(batch) < self.max_batch:
            left = until - time.perf_counter()
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            elif left <= 0 or len(batch) >= self._company():
                break
            else:
                with contextlib.suppress(TimeoutError):
                    batch.append(await asyncio.wait_for(self._waiting.get(), left))
        return [request for request in batch if not request.answer.done()]

    def _note(self, size: int, took_s: float) -> None:
        self._batches, self._answered, self._busy_s = self._batches + 1, self._answered + size, self._busy_s + took_s
        self._predict_s.append(took_s)
        self._quickest_s = min(self._quickest_s, took_s)

    def _wait_s(self) -> float:
        if self._max_wait_s is not None:
            return self._max_wait_s
        return WAIT_SHARE * self._quickest_s if self._batches else 0.0

    def _answers(self, batch: Sequence[_Request[Question]]) -> list[NDArray[Any] | Exception]:
        """Return an answer or an error for each request; runs in the model's own thread."""
        try:
            answers = self._act([request.question for request in batch], [request.seed for request in batch])
        except Exception as error:  # a model is anyone's code
            if len(batch) > 1:
                half = len(batch) // 2
                return self._answers(batch[:half]) + self._answers(batch[half:])
            mine = isinstance(error, self._error)
            return [error if mine else self._error(f"{self._name} raised {type(error).__name__}: {error}")]
        return [self._checked(answer) for answer in answers]

    def _checked(self, answer: NDArray[Any]) -> NDArray[Any] | Exception:
        """Return one answer, or what is wrong with it."""
        if np.isfinite(answer).all():
            return answer
        return self._error(f"{self._name} gave a NaN or infinite action; its weights are not usable")


class Batcher(Gatherer[Observation]):
    """A policy behind a :class:`Gatherer`: its answers are (K, 7) chunks of finite actions, or errors.

    Args:
        policy: what is asked.
        max_batch: most observations of one call.
        pad: fill smaller batches up, see :class:`Padded`; costs time where few ask.
        **options: ``max_wait_s`` and ``company``, see :class:`Gatherer`.
    """

    def __init__(self, policy: Policy, *, max_batch: int = MAX_BATCH, pad: bool = False, **options: Any) -> None:
        self.policy: Policy = Padded(policy, max_batch) if pad else policy
        super().__init__(self._chunks, max_batch=max_batch, name=f"policy {policy.spec.name!r}", **options)

    def _chunks(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        chunks = np.asarray(self.policy.act(batch, seeds), np.float32)
        return shaped(chunks, self.policy.spec, len(batch))  # (B, K, 7)


class Padded:
    """A policy that is always given batches of one size, so that an answer does not depend on the batch it was in.

    Args:
        policy: what is asked.
        size: observations in every batch; a smaller one is filled with copies of its first.
    """

    def __init__(self, policy: Policy, size: int) -> None:
        self._policy, self._size = policy, size

    @property
    def spec(self) -> PolicySpec:
        """The policy's own spec."""
        return self._policy.spec

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return (B, K, 7) for a batch of at most ``size``.

        Raises:
            PolicyError: the policy gave another number of chunks.
        """
        missing = self._size - len(batch)
        full = [*batch, *[batch[0]] * missing], [*seeds, *[seeds[0]] * missing]
        return shaped(np.asarray(self._policy.act(*full)), self.spec, self._size)[: len(batch)]


def shaped(chunks: NDArray[np.float32], spec: PolicySpec, rows: int) -> NDArray[np.float32]:
    """Return a policy's answer to ``rows`` observations, (B, K, 7).

    Raises:
        PolicyError: it has another shape.
    """
    expected = (rows, spec.chunk, ACTION_DIM)
    if chunks.shape != expected:
        raise PolicyError(f"policy {spec.name!r} gave actions of shape {chunks.shape}, expected {expected} (B, K, 7)")
    return chunks


def percentile_ms(seconds: Sequence[float] | deque[float], percent: float) -> float | None:
    """Return a percentile of ``seconds`` in milliseconds, or None of nothing."""
    return float(np.percentile(np.array(seconds), percent)) * 1000 if seconds else None


def _mean_ms(seconds: deque[float]) -> float | None:
    return float(np.mean(np.array(seconds))) * 1000 if seconds else None


def _give(request: _Request[Any], answer: NDArray[Any] | Exception) -> None:
    if request.answer.done():
        return
    if isinstance(answer, Exception):
        request.answer.set_exception(answer)
    else:
        request.answer.set_result(answer)
