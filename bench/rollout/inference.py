"""Models in other processes, as a worker sees them: a policy, and a world model that draws the wrist view in the loop.

A process over there gathers the requests of all workers into batches of one fixed size
(:class:`policies.batching.Gatherer`), so the arithmetic of a request does not depend on who else asked at that moment.
It keeps no state between requests: a lost one is started again and asked again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.rollout.answering import Question, Sight
from bench.rollout.sources import ModelLostError, checked_chunk
from policies.api import Observation, PolicyError, PolicySpec
from policies.wire import Limits, pack_vla_eval, unpack
from worldmodel.api import WorldModelError

PATIENCE_S = 240.0
"""Less than the watchdog gives a worker, more than it takes to load a large model again."""


LIMITS = Limits(message_bytes=2**28, text=10**6)
"""Messages come from this rollout's own processes: only a mistake could reach these."""


def packed_question(question: Question) -> bytes:
    """Return a question as one message: Ray passes bytes on as they are, and objects at twice the CPU time."""
    seen = question.observation
    parts = {"views": dict(seen.views), "instruction": seen.instruction, "proprio": seen.proprio}
    return pack_vla_eval({**parts, "seed": question.seed})


def unpacked_question(message: bytes) -> Question:
    """Return the question that :func:`packed_question` packed; its arrays are read-only."""
    parts = unpack(message, LIMITS)
    return Question(Observation(parts["views"], parts["instruction"], parts["proprio"]), parts["seed"])


class RemotePolicy:
    """A policy in another process: small enough to travel with every chain.

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
            ModelLostError: the process over there is gone for good, or does not answer.
        """
        asked = self._actor.infer.remote(packed_question(question))
        return checked_chunk(self.spec, (await _answer(asked, self._patience_s, "policy", PolicyError))[None])


class RemoteGenerator:
    """A world model in another process.

    Args:
        frames: how many of an episode's latest anchor frames it looks at.
        actor: Ray handle of an actor with ``infer``.
        patience_s: how long an answer may take before the process over there counts as hung.
    """

    def __init__(self, frames: int, actor: Any, patience_s: float = PATIENCE_S) -> None:
        self.frames, self.actor, self.patience_s = frames, actor, patience_s

    def stream(self, seed: int = 0) -> RemoteStream:
        """Return what answers one chain's sights; ``seed`` is that of the noise."""
        return RemoteStream(self, seed)


class RemoteStream:
    """One chain's wrist view from a :class:`RemoteGenerator`: remembers the chain's latest anchor frames itself."""

    def __init__(self, generator: RemoteGenerator, seed: int) -> None:
        self._generator, self._seed = generator, seed
        self._latest: deque[NDArray[np.uint8]] = deque(maxlen=generator.frames)

    async def answer(self, sight: Sight) -> NDArray[np.uint8]:
        """Return the wrist frame (h, w, 3) for this moment; others may use the caller's thread meanwhile.

        Raises:
            WorldModelError: the world model raised over there.
            ModelLostError: the process over there is gone for good, or does not answer.
        """
        self._latest.append(sight.anchor)
        window = np.stack(self._latest)  # (T, H, W, 3)
        asked = self._generator.actor.infer.remote(pack_vla_eval({"window": window, "seed": self._seed}))
        return await _answer(asked, self._generator.patience_s, "generator", WorldModelError)


async def _answer(asked: Any, patience_s: float, model: str, error: type[Exception]) -> NDArray[Any]:
    """Wait for an actor's answer; what the model raised becomes ``error``, a lost process a ``ModelLostError``."""
    import ray

    try:
        answer: NDArray[Any] = unpack(await asyncio.wait_for(asked, patience_s), LIMITS)
        return answer
    except ray.exceptions.RayTaskError as raised:
        raise error(str(raised.cause)) from None
    except ray.exceptions.RayError as gone:
        raise ModelLostError(model, f"the {model}'s actor is gone ({type(gone).__name__})") from gone
    except TimeoutError:
        raise ModelLostError(model, f"the {model}'s actor gave no answer in {patience_s:.0f} s") from None
