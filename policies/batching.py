"""One policy for many askers: requests that wait at the same time become one ``act`` call.

A request that the policy refuses takes nobody with it: the batch is halved until the culprit is alone.  Where batches
are padded to one size, an answer does not depend, to the last bit, on who else asked at that moment.  Not here: who
asks (:mod:`policies.server`), and time limits.
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

import numpy as np
from numpy.typing import NDArray

from policies.api import ACTION_DIM, Observation, Policy, PolicyError

MAX_BATCH = 16
MAX_WAIT_S = 0.005
REMEMBERED = 10_000


@dataclass(eq=False)
class _Request:
    observation: Observation
    seed: int
    answer: asyncio.Future[NDArray[np.float32]]
    came: float


class Batcher:
    """Gathers requests into batches and asks the policy once for each; lives in an event loop.

    Args:
        policy: what is asked, in a thread of its own.
        max_batch: most observations of one call.
        max_wait_s: how long the first request of a batch waits for company.
        company: how many may ask at once; a batch that has them all waits for nobody.
        pad: fill smaller batches with copies of their first observation; costs time where few ask.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        max_batch: int = MAX_BATCH,
        max_wait_s: float = MAX_WAIT_S,
        company: Callable[[], float] = lambda: math.inf,
        pad: bool = False,
    ) -> None:
        self.policy, self.max_batch, self.max_wait_s, self._pad = policy, max_batch, max_wait_s, pad
        self._company = company
        self._waiting: asyncio.Queue[_Request] = asyncio.Queue()
        self._loop: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._fill: deque[int] = deque(maxlen=REMEMBERED)
        self._queued_s: deque[float] = deque(maxlen=REMEMBERED)
        self._predict_s: deque[float] = deque(maxlen=REMEMBERED)

    async def ask(self, observation: Observation, seed: int) -> NDArray[np.float32]:
        """Return the (K, 7) chunk for one observation.

        Raises:
            PolicyError: the policy raised on this observation, or gave what is no chunk of finite actions.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop.done():
            self._loop = loop.create_task(self._serve())
        request = _Request(observation, seed, loop.create_future(), time.perf_counter())
        await self._waiting.put(request)
        return await request.answer

    async def close(self) -> None:
        """Stop gathering; whoever still waits is told so."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        while not self._waiting.empty():
            _give(self._waiting.get_nowait(), PolicyError("the policy server was shut down before it could answer"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    def statistics(self) -> dict[str, float | int | None]:
        """Return calls so far, mean fill (0..1), median and 95 % waiting time and median call time in ms."""
        return {
            "batches": len(self._fill),
            "batch_fill": float(np.mean(np.array(self._fill))) / self.max_batch if self._fill else None,
            "queue_p50_ms": percentile_ms(self._queued_s, 50),
            "queue_p95_ms": percentile_ms(self._queued_s, 95),
            "predict_p50_ms": percentile_ms(self._predict_s, 50),
        }

    async def _serve(self) -> None:
        while True:
            batch = await self._gather()
            if not batch:
                continue
            began = time.perf_counter()
            self._queued_s += [began - request.came for request in batch]
            self._fill.append(len(batch))
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answers, batch)
            except asyncio.CancelledError:
                for request in batch:
                    _give(request, PolicyError("the policy server was shut down before it could answer"))
                raise
            self._predict_s.append(time.perf_counter() - began)
            for request, answer in zip(batch, answers, strict=True):
                _give(request, answer)

    async def _gather(self) -> list[_Request]:
        batch = [await self._waiting.get()]
        until = time.perf_counter() + self.max_wait_s
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

    def _answers(self, batch: Sequence[_Request]) -> list[NDArray[np.float32] | PolicyError]:
        """Return a chunk or an error for each request; runs in the policy's own thread."""
        try:
            chunks = self._act(batch)
        except Exception as error:  # a policy is anyone's code
            if len(batch) > 1:
                half = len(batch) // 2
                return self._answers(batch[:half]) + self._answers(batch[half:])
            if not isinstance(error, PolicyError):
                error = PolicyError(f"policy {self.policy.spec.name!r} raised {type(error).__name__}: {error}")
            return [error]
        return [chunk if np.isfinite(chunk).all() else self._not_finite() for chunk in chunks]

    def _act(self, batch: Sequence[_Request]) -> NDArray[np.float32]:
        missing = self.max_batch - len(batch) if self._pad else 0
        padded = [*batch, *[batch[0]] * missing]
        chunks = np.asarray(self.policy.act([r.observation for r in padded], [r.seed for r in padded]), np.float32)
        expected = (len(padded), self.policy.spec.chunk, ACTION_DIM)
        if chunks.shape != expected:
            raise PolicyError(f"policy {self.policy.spec.name!r} gave actions {chunks.shape}, expected {expected}")
        return chunks[: len(batch)]  # (B, K, 7)

    def _not_finite(self) -> PolicyError:
        return PolicyError(
            f"policy {self.policy.spec.name!r} gave a NaN or infinite action; its weights are not usable"
        )


def percentile_ms(seconds: Sequence[float] | deque[float], percent: float) -> float | None:
    """Return a percentile of ``seconds`` in milliseconds, or None of nothing."""
    return float(np.percentile(np.array(seconds), percent)) * 1000 if seconds else None


def _give(request: _Request, answer: NDArray[np.float32] | PolicyError) -> None:
    if request.answer.done():
        return
    if isinstance(answer, PolicyError):
        request.answer.set_exception(answer)
    else:
        request.answer.set_result(answer)
