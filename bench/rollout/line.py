"""A straight line between a worker and an actor on the same machine: a socket that is a file.

A Ray call costs the caller and the actor about a millisecond of CPU time each, and an actor that answers for sixteen
workers has one interpreter for all of it; a line costs a fifth.  A file in this user's own folder is nothing that
others could call, and a line breaks at once where either end dies, which shared memory would not.  It is a short cut
and no more: where there is none, or it breaks, the same message goes by Ray, which knows about other machines and
restarts.  Not here: what the messages say (``inference.py``, ``models.py``).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

HEAD = struct.Struct("<IB")
"""Before each message: its length, and whether it is an ``ANSWER`` (as questions are, too) or a ``REFUSAL``."""
ANSWER, REFUSAL = 0, 1
BUFFER_BYTES = 2**20
"""Room for a whole question on the way, so that a worker hands it over and goes on (the system may grant less)."""
CONNECT_S = 5.0


class RefusalError(Exception):
    """The other end raised; its one line."""


class Exchange:
    """An actor's end of all its lines.

    Args:
        answer: gives the answer to a message; several are under way at once, one for each line.
    """

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def open(self, path: Path) -> None:
        """Let lines come in at ``path``; lives in the caller's event loop.

        Raises:
            OSError: no socket can be there, for instance because the path is longer than the system allows.
        """
        self._server = await asyncio.start_unix_server(self._serve, path, limit=BUFFER_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one line's questions until it breaks."""
        try:
            while True:
                length, _ = HEAD.unpack(await reader.readexactly(HEAD.size))
                message = await reader.readexactly(length)
                try:
                    kind, reply = ANSWER, await self._answer(message)
                except Exception as error:
                    kind, reply = REFUSAL, str(error).encode()
                writer.write(HEAD.pack(len(reply), kind) + reply)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


class Line:
    """A worker's end of a line: one question at a time."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._busy = end, False

    @classmethod
    def to(cls, path: Path) -> Line:
        """Return a line to the exchange at ``path``.

        Raises:
            OSError: there is none, on this machine.
        """
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            end.settimeout(CONNECT_S)
            end.connect(str(path))
            end.setblocking(False)
        except OSError:
            end.close()
            raise
        return cls(end)

    async def ask(self, message: bytes) -> bytes:
        """Return the answer; others may use the caller's thread meanwhile.

        Raises:
            RefusalError: the other end raised.
            OSError: the line broke.
            RuntimeError: another question waits for its answer, or was given up.
        """
        if self._busy:
            raise RuntimeError("a line takes one question at a time")
        self._busy = True
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._end, HEAD.pack(len(message), ANSWER) + message)
        length, kind = HEAD.unpack(await self._read(HEAD.size))
        reply = await self._read(length)
        self._busy = False
        if kind == REFUSAL:
            raise RefusalError(reply.decode())
        return bytes(reply)

    def close(self) -> None:
        """Hang up."""
        self._end.close()

    async def _read(self, length: int) -> bytearray:
        got, loop = bytearray(length), asyncio.get_running_loop()
        room = memoryview(got)
        while room:
            count = await loop.sock_recv_into(self._end, room)
            if not count:
                raise ConnectionResetError("the other end hung up")
            room = room[count:]
        return got
