"""Models in processes of their own, asked by all workers: a policy, and the world model that draws in the loop.

How workers ask them is in ``inference.py``; who starts and replaces them in ``servers.py``.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import scratch
from bench.errors import UserError
from bench.rollout.inference import LIMITS, unpacked_question
from bench.rollout.line import Exchange
from bench.rollout.sources import GeneratorSource, PolicySource
from policies.api import ANCHOR, Policy, PolicySpec
from policies.batching import MAX_BATCH, Batcher, Gatherer
from policies.wire import pack_vla_eval, unpack
from worldmodel.api import Clip, WorldModelError


class ServingActor(ABC):
    """An async Ray actor that answers questions, which come by Ray or by a straight line.

    Attributes:
        _server: gathers the questions to batches; made by the actor itself.

    Args:
        import_path: folders that the driver imports from and this process may not know yet.
        run: the rollout that it serves, for its folder; "" where it has none, and no lines.
    """

    _server: Gatherer[Any]

    def __init__(self, import_path: Sequence[str], run: str) -> None:
        import_also(import_path)
        self._run = run
        self._door: asyncio.Task[str] | None = None

    @abstractmethod
    async def infer(self, message: bytes) -> bytes:
        """Return the packed answer to a packed question."""

    async def statistics(self) -> dict[str, float | int | None]:
        """Return how well the batches fill and how long requests wait."""
        return self._server.statistics()

    async def door(self) -> str:
        """Return where lines to this process begin; "" where there can be none."""
        if self._door is None:
            self._door = asyncio.create_task(self._opened())
        return await self._door

    async def _opened(self) -> str:
        folder = scratch.own_folder(self._run) if self._run else None
        if folder is None:
            return ""
        try:
            await Exchange(self.infer).open(folder / "line")
        except OSError:
            return ""
        return str(folder / "line")


class GeneratorActor(ServingActor):
    """A world model that draws wrist views in the loop, for many chains at once."""

    def __init__(
        self, source: GeneratorSource, max_batch: int = MAX_BATCH, import_path: Sequence[str] = (), run: str = ""
    ) -> None:
        super().__init__(import_path, run)
        self._together = together(source, max_batch)
        self._server = Gatherer[NDArray[np.uint8]](
            self._draw, max_batch=max_batch, max_wait_s=None, name=f"world model {source.name!r}", error=WorldModelError
        )

    async def spec(self) -> int:
        """Return how many frames of an episode it looks at."""
        frames: int = self._together.frames
        return frames

    async def infer(self, message: bytes) -> bytes:
        """Return the wrist frame (h, w, 3) at the end of a window of anchor frames (T, H, W, 3), both packed."""
        asked = unpack(message, LIMITS)
        return pack_vla_eval(await self._server.ask(asked["window"], asked["seed"]))

    def _draw(self, windows: Sequence[NDArray[np.uint8]], seeds: Sequence[int]) -> NDArray[np.uint8]:
        drawn: NDArray[np.uint8] = self._together.latest([Clip({ANCHOR: window}) for window in windows], seeds)
        return drawn


class InferenceActor(ServingActor):
    """A policy behind a :class:`Batcher`."""

    _server: Batcher

    def __init__(
        self, source: PolicySource, max_batch: int = MAX_BATCH, import_path: Sequence[str] = (), run: str = ""
    ) -> None:
        super().__init__(import_path, run)
        policy = source.load()
        if not isinstance(policy, Policy):
            raise UserError(f"policy {source.name!r} reads the simulator's state or remembers; use --inference local")
        self._server = Batcher(policy, max_batch=max_batch, max_wait_s=None, pad=True)

    async def spec(self) -> PolicySpec:
        """Return the policy's spec."""
        return self._server.policy.spec

    async def infer(self, message: bytes) -> bytes:
        """Return the (K, 7) chunk for one question, both packed."""
        question = unpacked_question(message)
        return pack_vla_eval(await self._server.ask(question.observation, question.seed))


def together(source: GeneratorSource, size: int) -> Any:
    """Load a world model for batches of one size; one that draws frame after frame is only loaded."""
    generator = source.load()
    if not source.windowed:
        return generator
    from worldmodel.together import Together

    return Together(generator, size)


def import_also(folders: Sequence[str]) -> None:
    """Let this process import what the driver can: a policy or world of the user's own."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)
