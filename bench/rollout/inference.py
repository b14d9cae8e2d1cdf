"""One policy for many workers: requests gather into batches of one fixed size.

A batch is always padded to ``max_batch``, so the arithmetic of a request does not depend on who else asked at that
moment.  The server keeps no state between requests: a lost one is started again and asked again.  The shape (an async
actor, one forward at a time, errors to every waiting caller) is that of ``ray.serve.batch``, without its HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.rollout.sources import PolicyLostError, checked_chunk
from policies.api import Observation, Policy, PolicyError, PolicySpec
from policies.batching import percentile_ms

MAX_BATCH = 16
WAIT_SHARE = 0.1
"""How long a batch waits for company, as a share of a forward's time: a padded batch costs the same, full or not."""
PATIENCE_S = 240.0
"""Less than the watchdog gives a worker, more than it takes to load a large policy again."""
REMEMBERED = 10_000
"""Batches and requests that the statistics are made of."""


@dataclass
class _Request:
    observation: Observation
    seed: int
    answer: asyncio.Future[NDArray[np.float32]]
    came: float


class BatchingServer:
    """Gathers requests into batches and asks the policy once for each; lives in an event loop.

    Args:
        policy: what is asked.
        max_batch: batch size of every forward; a smaller one is padded with copies of its first observation.
        max_wait_s: how long the first request of a batch waits for company; None for a share of a forward's time.
    """

    def __init__(self, policy: Policy, *, max_batch: int = MAX_BATCH, max_wait_s: float | None = None) -> None:
        self.policy, self.max_batch, self._max_wait_s = policy, max_batch, max_wait_s
        self._padded = Padded(policy, max_batch)
        self._waiting: asyncio.Queue[_Request] = asyncio.Queue()
        self._loop: asyncio.Task[None] | None = None
        self._forward = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._fill: deque[int] = deque(maxlen=REMEMBERED)
        self._queued_s: deque[float] = deque(maxlen=REMEMBERED)
        self._predict_s: deque[float] = deque(maxlen=REMEMBERED)
        self._quickest_s = math.inf

    async def infer(self, observation: Observation, seed: int) -> NDArray[np.float32]:
        """Return the (K, 7) chunk for one observation.

        Raises:
            PolicyError: the policy raised on the batch that this observation was in.
        """
        if self._loop is None or self._loop.done():
            self._loop = asyncio.get_running_loop().create_task(self._serve())
        request = _Request(observation, seed, asyncio.get_running_loop().create_future(), time.perf_counter())
        await self._waiting.put(request)
        return await request.answer

    def statistics(self) -> dict[str, float | int | None]:
        """Return batches so far, mean fill (0..1), time to queue (p50, p95, mean) and to predict (p50, mean) in ms."""
        return {
            "batches": len(self._fill),
            "batch_fill": float(np.mean(np.array(self._fill))) / self.max_batch if self._fill else None,
            "queue_p50_ms": percentile_ms(self._queued_s, 50),
            "queue_p95_ms": percentile_ms(self._queued_s, 95),
            "queue_mean_ms": _mean_ms(self._queued_s),
            "predict_ms": percentile_ms(self._predict_s, 50),
            "predict_mean_ms": _mean_ms(self._predict_s),
        }

    async def _serve(self) -> None:
        while True:
            batch = await self._gather()
            began = time.perf_counter()
            self._queued_s += [began - request.came for request in batch]
            self._fill.append(len(batch))
            try:
                chunks = await asyncio.get_running_loop().run_in_executor(self._forward, self._predict, batch)
            except Exception as error:  # whatever the policy raised belongs to those who asked
                self._fail(batch, error)
                continue
            self._note(time.perf_counter() - began)
            for request, chunk in zip(batch, chunks, strict=False):
                if not request.answer.done():
                    request.answer.set_result(chunk)

    async def _gather(self) -> list[_Request]:
        batch = [await self._waiting.get()]
        until = time.perf_counter() + self._wait_s()
        while len(batch) < self.max_batch:
            left = until - time.perf_counter()
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            elif left <= 0:
                break
            else:
                with contextlib.suppress(TimeoutError):
                    batch.append(await asyncio.wait_for(self._waiting.get(), left))
        return batch

    def _note(self, predict_s: float) -> None:
        self._predict_s.append(predict_s)
        self._quickest_s = min(self._quickest_s, predict_s)

    def _wait_s(self) -> float:
        if self._max_wait_s is not None:
            return self._max_wait_s
        return WAIT_SHARE * self._quickest_s if self._predict_s else 0.0

    def _predict(self, batch: Sequence[_Request]) -> NDArray[np.float32]:
        """Forward a batch; runs in the policy's own thread."""
        return self._padded.act([r.observation for r in batch], [r.seed for r in batch])

    def _fail(self, batch: Sequence[_Request], error: Exception) -> None:
        if not isinstance(error, PolicyError):
            error = PolicyError(f"policy {self.policy.spec.name!r} raised {type(error).__name__}: {error}")
        for request in batch:
            if not request.answer.done():
                request.answer.set_exception(error)


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
        chunks = np.asarray(self._policy.act(*full))
        if chunks.ndim != 3 or chunks.shape[0] != self._size:
            raise PolicyError(
                f"policy {self.spec.name!r} gave actions of shape {chunks.shape} for {self._size} observations, "
                f"expected ({self._size}, {self.spec.chunk}, 7)"
            )
        return chunks[: len(batch)]  # (B, K, 7)


class RemotePolicy:
    """A policy in another process, as a worker sees it: small enough to travel with every chain.

    Args:
        spec: the remote policy's own spec.
        actor: Ray handle of an actor with ``infer``.
        patience_s: how long an answer may take before the process over there counts as hung.
    """

    def __init__(self, spec: PolicySpec, actor: Any, patience_s: float = PATIENCE_S) -> None:
        self.spec, self._actor, self._patience_s = spec, actor, patience_s

    async def ask(self, observation: Observation, seed: int) -> NDArray[np.float32]:
        """Return the (K, 7) chunk for one observation; others may use the caller's thread meanwhile.

        Raises:
            PolicyError: the policy raised over there, or gave what is no chunk of actions.
            PolicyLostError: the process over there is gone for good, or does not answer.
        """
        import ray

        try:
            answer = await asyncio.wait_for(self._actor.infer.remote(observation, seed), self._patience_s)
        except ray.exceptions.RayTaskError as error:
            raise PolicyError(str(error.cause)) from None
        except ray.exceptions.RayError as error:
            raise PolicyLostError(f"the inference actor is gone ({type(error).__name__})") from error
        except TimeoutError:
            raise PolicyLostError(f"the inference actor gave no answer in {self._patience_s:.0f} s") from None
        return checked_chunk(self.spec, np.asarray(answer)[None])


def _mean_ms(seconds: deque[float]) -> float | None:
    return float(np.mean(np.array(seconds))) * 1000 if seconds else None
