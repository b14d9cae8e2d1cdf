"""Models in other processes, as a worker sees them: a policy, and a world model that draws the wrist view in the loop.

A process over there gathers the requests of all workers into batches of one fixed size
(:class:`policies.batching.Gatherer`), so the arithmetic of a request does not depend on who else asked at that moment.
It keeps no state between requests: a lost one is started again and asked again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.rollout.answering import Question, Sight
from bench.rollout.line import Line, RefusalError
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


class Caller:
    """Asks an actor: by a straight line where it is on this machine, and else, or where that breaks, by Ray.

    Small enough to travel with every chain; a line is only there once something was asked.

    Args:
        actor: Ray handle of an actor with ``door`` and ``infer``.
        model: what is lost with it, ``"policy"`` or ``"generator"``.
        error: what is raised where the actor raised.
        patience_s: how long an answer may take before the process over there counts as hung.
    """

    def __init__(self, actor: Any, model: str, error: type[Exception], patience_s: float) -> None:
        self._actor, self._model, self._error, self._patience_s = actor, model, error, patience_s
        self._line: Line | None = None
        self._looked = False

    async def ask(self, message: bytes) -> NDArray[Any]:
        """Return the answer to a packed question; others may use the caller's thread meanwhile.

        Raises:
            Exception: of the kind ``error``: the model raised over there.
            ModelLostError: the process over there is gone for good, or does not answer.
        """
        import ray

        lost = f"the {self._model}'s actor"
        try:
            async with asyncio.timeout(self._patience_s):
                answer: NDArray[Any] = unpack(await self._told(message), LIMITS)
                return answer
        except RefusalError as refused:
            raise self._error(str(refused)) from None
        except ray.exceptions.RayTaskError as raised:
            raise self._error(str(raised.cause)) from None
        except ray.exceptions.RayError as gone:
            raise ModelLostError(self._model, f"{lost} is gone ({type(gone).__name__})") from gone
        except TimeoutError:
            raise ModelLostError(self._model, f"{lost} gave no answer in {self._patience_s:.0f} s") from None

    def close(self) -> None:
        """Hang up; who asks again looks for the way again."""
        if self._line is not None:
            self._line.close()
        self._line, self._looked = None, False

    async def _told(self, message: bytes) -> bytes:
        if not self._looked:
            self._line, self._looked = _line_to(await self._actor.door.remote()), True
        if self._line is not None:
            try:
                return await self._line.ask(message)
            except OSError:
                self.close()
        told: bytes = await self._actor.infer.remote(message)
        return told


def _line_to(door: str) -> Line | None:
    try:
        return Line.to(Path(door)) if door else None
    except OSError:
        return None  # it is on another machine


class RemotePolicy:
    """A policy in another process.

    Args:
        spec: the remote policy's own spec.
        actor: Ray handle of an :class:`bench.rollout.models.InferenceActor`.
        patience_s: how long an answer may take before the process over there counts as hung.
    """

    def __init__(self, spec: PolicySpec, actor: Any, patience_s: float = PATIENCE_S) -> None:
        self.spec, self._caller = spec, Caller(actor, "policy", PolicyError, patience_s)

    async def answer(self, question: Question) -> NDArray[np.float32]:
        """Return the (K, 7) chunk for one observation; others may use the caller's thread meanwhile.

        Raises:
            PolicyError: the policy raised over there, or gave what is no chunk of actions.
            ModelLostError: the process over there is gone for good, or does not answer.
        """
        return checked_chunk(self.spec, (await self._caller.ask(packed_question(question)))[None])

    def close(self) -> None:
        """Hang up."""
        self._caller.close()


class RemoteGenerator:
    """A world model in another process.

    Args:
        frames: how many of an episode's latest anchor frames it looks at.
        actor: Ray handle of a :class:`bench.rollout.models.GeneratorActor`.
        patience_s: how long an answer may take before the process over there counts as hung.
    """

    def __init__(self, frames: int, actor: Any, patience_s: float = PATIENCE_S) -> None:
        self.frames, self.caller = frames, Caller(actor, "generator", WorldModelError, patience_s)

    def stream(self, seed: int = 0) -> RemoteStream:
        """Return what answers one chain's sights; ``seed`` is that of the noise."""
        return RemoteStream(self, seed)

    def close(self) -> None:
        """Hang up."""
        self.caller.close()


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
        return await self._generator.caller.ask(pack_vla_eval({"window": window, "seed": self._seed}))
