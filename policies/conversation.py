"""What a policy server says to one client, in openpi's or in vla-eval's order of messages.

Not here: who may connect, limits on the whole, batches (:mod:`policies.server`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection

from policies.api import WRIST, PolicyError
from policies.protocols import CHUNKS_KEY, SPEC_KEY, WEIGHTS_KEY, read_vla_eval, vla_eval_action_spec, vla_eval_message
from policies.wire import WireError

if TYPE_CHECKING:
    from policies.server import PolicyServer

MISTAKES = 3
"""After so many refused requests a vla-eval connection is closed; an openpi one after the first, as openpi does."""


class Conversation:
    """One client's connection and what belongs to it alone.

    Args:
        server: whose policy answers.
        connection: the client's.
    """

    def __init__(self, server: PolicyServer, connection: ServerConnection) -> None:
        self.server, self.connection = server, connection
        self.pack = server.dialect.pack
        self.spec = server.policy.spec
        self.answered = 0
        self.whole_chunks = False
        self.left: deque[NDArray[np.float32]] = deque()

    async def receive(self) -> bytes:
        """Return the next message; a connection that is silent for too long is given up."""
        parts: list[bytes] = []
        async with asyncio.timeout(self.server.options.idle_s):
            async for part in self.connection.recv_streaming():
                if isinstance(part, str):
                    raise WireError("expected a binary message, got text")
                parts.append(part)
        return b"".join(parts)

    async def send(self, message: bytes | str) -> None:
        """Send a message; a client that does not take it in time is given up."""
        async with asyncio.timeout(self.server.options.send_s):
            await self.connection.send(message)

    async def refuse(self, message: bytes | str) -> None:
        """Send an error and wait: a bad request can cost the policy several calls, so they must not come fast."""
        await self.send(message)
        await asyncio.sleep(self.server.options.penalty_s)

    async def openpi(self) -> None:
        """Metadata, then an answer for each observation; the first error ends the connection, as openpi's does."""
        await self.send(self.pack({**self._who(), "policy": self.spec.name}))
        while not self.server.draining:
            data = await self.receive()
            began = time.perf_counter()
            try:
                with self.server.request():
                    chunk = await self.server.answer(await self.server.read(data))
            except (WireError, PolicyError) as error:
                await self.refuse(_one_line(error))
                return
            self.answered += 1
            timing = {"infer_ms": (time.perf_counter() - began) * 1000}
            await self.send(self.pack({"actions": chunk, "server_timing": timing}))

    async def vla_eval(self) -> None:
        """Answer typed messages; one action for an observation, or a whole chunk to who asked for chunks."""
        mistakes = 0
        while mistakes < MISTAKES and not self.server.draining:
            data = await self.receive()
            seq = 0
            try:
                kind, payload, seq = read_vla_eval(await self.server.read(data))
                if kind == "hello":
                    self.whole_chunks = payload.get(CHUNKS_KEY) is True
                    await self.send(self.pack(vla_eval_message("hello", self._greeting(), seq)))
                elif kind in ("episode_start", "episode_end"):
                    self.left.clear()
                elif kind == "observation":
                    with self.server.request():
                        actions = await self._actions(payload)
                    self.answered += 1
                    await self.send(self.pack(vla_eval_message("action", {"actions": actions}, seq)))
                elif kind != "error":
                    raise WireError(f"message of type {kind[:40]!r}; hello, episode_start, observation are understood")
            except (WireError, PolicyError) as error:
                mistakes += 1
                await self.refuse(self.pack(vla_eval_message("error", {"error": _one_line(error)}, seq)))

    async def _actions(self, payload: Mapping[str, Any]) -> NDArray[np.float32]:
        if payload.get("episode_restart"):
            self.left.clear()
        if self.whole_chunks:
            return await self.server.answer(payload)  # (K, 7)
        if not self.left:
            chunk = await self.server.answer(payload)
            self.left.extend(chunk[: self.spec.execute])
        return self.left.popleft()  # (7,)

    def _greeting(self) -> dict[str, Any]:
        wishes = {"send_wrist_image": WRIST in self.spec.views, "send_state": self.spec.uses_proprio}
        images = {
            self.server.keys.views[view].rpartition("/")[2]: {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"}
            for view in self.spec.views
            if view in self.server.keys.views
        }
        return {
            "harness_version": "wristworld-bench",
            "protocol_version": 1,
            "model_server": self.spec.name,
            "capabilities": {},
            "observation_params": {name: True for name, wanted in wishes.items() if wanted},
            "action_spec": vla_eval_action_spec(self.spec.actions),
            "observation_spec": {**images, "language": {"name": "language", "dims": 0, "format": "language"}},
            **self._who(),
        }

    def _who(self) -> dict[str, Any]:
        """Return what our own clients want to know: what the policy means, and which it is."""
        return {SPEC_KEY: self.spec.to_json(), WEIGHTS_KEY: str(getattr(self.server.policy, "weights_hash", ""))}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else text[:497] + "..."
