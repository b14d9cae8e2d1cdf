"""What tests of the policy server share: a line to it, questions, a picky policy, and a bare socket for bad manners."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import numpy as np
from websockets.sync.client import connect

from policies.api import Observation, PolicySpec
from policies.protocols import OPENPI, to_payload
from policies.server import PolicyServer, ServerOptions
from policies.wire import pack_openpi, unpack

TOKEN = "a-token-of-sixteen-letters"


def options(protocol: str = "openpi", **changes) -> ServerOptions:
    return ServerOptions(**{"protocol": protocol, "port": 0, "penalty_s": 0.0, **changes})


def line(server: PolicyServer, **keywords):
    return connect(f"ws://127.0.0.1:{server.port}", compression=None, proxy=None, max_size=None, **keywords)


def request(observation: Observation, seed: int = 7) -> bytes:
    return pack_openpi(to_payload(observation, seed, OPENPI, OPENPI.keys))


def ask(server: PolicyServer, observation: Observation, seed: int = 7) -> np.ndarray:
    with line(server) as websocket:
        websocket.recv(timeout=20)
        websocket.send(request(observation, seed))
        return unpack(websocket.recv(timeout=20))["actions"]


def changed(observation: Observation, **changes) -> bytes:
    return pack_openpi({**to_payload(observation, 7, OPENPI, OPENPI.keys), **changes})


class Picky:
    """Counts its calls and refuses one sentence, whoever else is in the batch; numbers the batch's rows never."""

    spec = PolicySpec("picky", chunk=3, execute=2)

    def __init__(self, pause: float = 0.0) -> None:
        self.sizes: list[int] = []
        self.pause = pause

    def act(self, batch, seeds):
        self.sizes.append(len(batch))
        time.sleep(self.pause)
        if any(observation.instruction == "no" for observation in batch):
            raise RuntimeError("cannot do that")
        chunks = np.zeros((len(batch), 3, 7), np.float32)
        chunks[:] = np.asarray(seeds, np.float32)[:, None, None] / 1000
        chunks[[o.instruction == "nan" for o in batch]] = np.nan
        return chunks


def raw(server: PolicyServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def shaken(server: PolicyServer) -> socket.socket:
    """A websocket after its opening, as a bare socket."""
    bare = raw(server)
    bare.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    bare.recv(4096)
    return bare


def frame(announced: int, opcode: int = 2) -> bytes:
    return struct.pack("!BBQI", 0x80 | opcode, 0x80 | 127, announced, 0)


def ended(bare: socket.socket) -> bool:
    """Whether the other side hangs up before long."""
    with contextlib.suppress(ConnectionError):
        while bare.recv(65536):
            pass
    return True
