"""A policy in another process, as a worker sees it.

The process over there gathers the requests of all workers into batches of one fixed size
(:class:`policies.batching.Batcher`), so the arithmetic of a request does not depend on who else asked at that moment.
It keeps no state between requests: a lost one is started again and asked again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.rollout.answering import Question
from bench.rollout.sources import PolicyLostError, checked_chunk
from policies.api import PolicyError, PolicySpec

PATIENCE_S = 240.0
"""Less than the watchdog gives a worker, more than it takes to load a large policy again."""


class RemotePolicy:
    """A policy in another process, as a worker sees it: small enough to travel with every chain.

    Args:
        spec: the remote policy's own spec.
        actor: Ray handle of an actor with ``infer``.
        patience_s: how long an answer may take before the process over there counts as hung.
    """

    def __init__(self, spec: PolicySpec, actor: Any, patience_s: float = PATIENCE_S) -> None:
        self.spec, self._actor, self._patience_s = spec, actor, patience_s

    async def answer(self, question: Question) -> NDArray[np.float32]:
        """Return the (K, 7) chunk for one observation; others may use the caller's thread meanwhile.

        Raises:
            PolicyError: the policy raised over there, or gave what is no chunk of actions.
            PolicyLostError: the process over there is gone for good, or does not answer.
        """
        import ray

        try:
            answer = await asyncio.wait_for(
                self._actor.infer.remote(question.observation, question.seed), self._patience_s
            )
        except ray.exceptions.RayTaskError as error:
            raise PolicyError(str(error.cause)) from None
        except ray.exceptions.RayError as error:
            raise PolicyLostError(f"the inference actor is gone ({type(error).__name__})") from error
        except TimeoutError:
            raise PolicyLostError(f"the inference actor gave no answer in {self._patience_s:.0f} s") from None
        return checked_chunk(self.spec, np.asarray(answer)[None])
