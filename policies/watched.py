"""A server's connections while they open, and how much small stuff they may send.

websockets answers a ping by itself and parses all that one read brought before anyone can object: a flood of six-byte
frames costs this side far more than the other.  So what arrives is parsed in slices, and a connection that sends too
many frames without finishing a message is cut.  Not here: what messages say (:mod:`policies.conversation`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode

FRAMES = 64
"""Frames (pings, pongs, parts of a message) before a whole message must have come."""
SLICES = (512, 4096)
"""Bytes parsed at a time: few where frames may be small, more within one that is large."""

Opening = dict[ServerConnection, None]


def watched(opening: Opening, most: int) -> type[ServerConnection]:
    """Return a class of connections that stand in ``opening`` until they are open; past ``most`` the oldest is cut."""

    class Watched(ServerConnection):
        """A connection that is known while it opens, and cut where it floods."""

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.unfinished, self.within = 0, False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            opening[self] = None
            if len(opening) > most:
                oldest = next(iter(opening))
                del opening[oldest]
                oldest.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            opening.pop(self, None)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            start = 0
            while start < len(data) and not self.transport.is_closing():
                size = SLICES[self.within]
                self.within = True
                super().data_received(data[start : start + size])
                start += size
                if self.unfinished > FRAMES:
                    self.transport.abort()

        def process_event(self, event: Any) -> None:
            super().process_event(event)
            self.within = False
            if isinstance(event, Frame):
                whole = event.fin and event.opcode in (Opcode.CONT, Opcode.TEXT, Opcode.BINARY)
                self.unfinished = 0 if whole else self.unfinished + 1

    return Watched
