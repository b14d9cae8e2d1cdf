"""A policy behind a websocket, for robots and harnesses that speak openpi's or vla-eval's protocol.

Whoever connects is taken for a stranger: loopback only unless there is a token, msgpack without pickles
(:mod:`policies.wire`), limits on size, time and number, one request in flight for each client.  Requests of all clients
become batches (:mod:`policies.batching`).  The policy is a pure function; what a vla-eval client has left of a chunk
belongs to its connection.  Not here: TLS (put a proxy in front) and who may see which policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import ipaddress
import logging
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from policies.api import Observation, Policy, PolicyError
from policies.batching import MAX_BATCH, MAX_WAIT_S, REMEMBERED, Batcher, percentile_ms
from policies.conversation import Conversation
from policies.protocols import DIALECTS, OPENPI, VLA_EVAL, Keys, from_payload
from policies.watched import Opening, watched
from policies.wire import LIMITS, Limits, WireError, unpack

TOKEN_LENGTH = 16
SWITCH_S = 0.0002
"""How long the event loop may keep the policy's thread from the interpreter.  A network gives the interpreter away with
every small operation; at Python's own 5 ms a busy event loop slows it several times over."""
HEALTH_PATHS = ("/healthz", "/health")
SUSPECTS = 1000
"""Addresses remembered for having opened a connection in vain."""
CLOSE_S = 1.0
"""How long a client has to take its closing frame."""
READERS = 4
"""Threads that decode messages, so that a large one does not hold the event loop."""


@dataclass(frozen=True)
class ServerOptions:
    """How a policy is served.

    Attributes:
        protocol: ``"openpi"`` or ``"vla-eval"``.
        host: interface; one that is not loopback needs a token.
        port: 0 takes a free one.
        token: what clients must show, as ``Authorization: Api-Key …`` or ``?token=…``.
        names: other names on the wire: of views, of ``instruction``, of ``proprio``.
        limits: what one message may cost.
        clients: connections at once.
        pending: connections at once that have not finished their opening; past it the oldest is dropped.
        open_s: seconds to finish the opening.
        idle_s: seconds without a whole message after which a connection is closed.
        send_s: seconds in which an answer must be taken.
        answer_s: seconds in which the policy must answer.
        penalty_s: seconds that a client waits after a refused request; for as long after a connection that was never
            answered, new ones from its address wait as long to be opened.
        drain_s: seconds that a shutdown waits for requests in flight.
        max_batch: most observations of one call of the policy.
        max_wait_s: how long the first request of a batch waits for company.
        pad: fill smaller batches up, so that answers are the same to the last bit whoever else asks.
    """

    protocol: str = OPENPI.name
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    names: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = LIMITS
    clients: int = 128
    pending: int = 64
    open_s: float = 5.0
    idle_s: float = 600.0
    send_s: float = 20.0
    answer_s: float = 120.0
    penalty_s: float = 0.5
    drain_s: float = 10.0
    max_batch: int = MAX_BATCH
    max_wait_s: float = MAX_WAIT_S
    pad: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown protocol, a short token, and an open interface without one."""
        if self.protocol not in DIALECTS:
            raise PolicyError(f"protocol {self.protocol!r}: expected one of {sorted(DIALECTS)}")
        if not 0 <= self.port <= 65535:
            raise PolicyError(f"port {self.port}: expected 0 (any free one) to 65535")
        if self.token is not None and len(self.token) < TOKEN_LENGTH:
            raise PolicyError(f"token: expected at least {TOKEN_LENGTH} characters, got {len(self.token)}")
        if self.token is None and not is_loopback(self.host):
            raise PolicyError(
                f"host {self.host!r} can be reached from other machines: give a token, or serve on 127.0.0.1"
            )
        if self.max_batch < 1:
            raise PolicyError(f"batch: expected at least 1, got {self.max_batch}")


def is_loopback(host: str) -> bool:
    """Return whether an interface can be reached from this machine only; a name other than localhost cannot be told."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(connection: ServerConnection) -> str:
    where = connection.remote_address
    return str(where[0]) if where else ""


class PolicyServer:
    """One policy, one port.

    Args:
        policy: what is served.
        options: see :class:`ServerOptions`.
    """

    def __init__(self, policy: Policy, options: ServerOptions) -> None:
        self.policy, self.options = policy, options
        self.dialect = DIALECTS[options.protocol]
        self.keys: Keys = self.dialect.keys.renamed(options.names)
        self._clients: set[ServerConnection] = set()
        self._batcher = Batcher(
            policy,
            max_batch=options.max_batch,
            max_wait_s=options.max_wait_s,
            company=lambda: len(self._clients),
            pad=options.pad,
        )
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._server: Server | None = None
        self._opening: Opening = {}
        self._suspected: dict[str, float] = {}
        self._in_flight, self._draining = 0, False
        self._answered, self._refused, self._most_clients = 0, 0, 0
        self._took_s: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def port(self) -> int:
        """The port, once started."""
        if self._server is None:
            raise PolicyError("the server has not been started")
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    async def start(self) -> None:
        """Open the port.

        Raises:
            PolicyError: it cannot be had.
        """
        quiet = logging.getLogger("policies.server.websockets")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        try:
            self._server = await serve(
                self._handle,
                self.options.host,
                self.options.port,
                process_request=self._admit,
                create_connection=watched(self._opening, self.options.pending),
                origins=[None],  # a web page that the user looks at must not reach a server on loopback
                compression=None,
                open_timeout=self.options.open_s,
                close_timeout=CLOSE_S,
                ping_timeout=60,  # a client may be busy simulating
                max_size=self.options.limits.message_bytes,
                max_queue=2,
                logger=quiet,
            )
        except OSError as error:
            where = f"{self.options.host}:{self.options.port}"
            raise PolicyError(f"cannot serve on {where}: {error.strerror or error}; choose another --port") from error

    async def close(self) -> None:
        """Take no more requests, answer those in flight, and hang up."""
        self._draining = True
        until = time.monotonic() + self.options.drain_s
        while self._in_flight and time.monotonic() < until:
            await asyncio.sleep(0.01)
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 5)
        await self._batcher.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def statistics(self) -> dict[str, float | int | None]:
        """Return how many requests were answered and refused, the most clients at once, and times in ms."""
        return {
            "answered": self._answered,
            "refused": self._refused,
            "most_clients": self._most_clients,
            "answer_p50_ms": percentile_ms(self._took_s, 50),
            "answer_p95_ms": percentile_ms(self._took_s, 95),
            **self._batcher.statistics(),
        }

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        address = urlsplit(request.path)
        if address.path in HEALTH_PATHS:
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        await self._make_suspects_wait(connection)
        if self.options.token is not None and not self._shows_token(request, address.query):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "token missing or wrong\n")
        if self._draining or len(self._clients) >= self.options.clients:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "no room for another client; try again\n")
        return None

    async def _make_suspects_wait(self, connection: ServerConnection) -> None:
        """Slow down who opens one connection after the other in vain; not where so many wait that it would shut out."""
        suspected = self._suspected.get(_address(connection), -math.inf) + self.options.penalty_s
        if time.monotonic() < suspected and len(self._opening) <= self.options.pending // 2:
            await asyncio.sleep(self.options.penalty_s)

    def _suspect(self, connection: ServerConnection) -> None:
        if len(self._suspected) > SUSPECTS:
            self._suspected.clear()
        self._suspected[_address(connection)] = time.monotonic()

    def _shows_token(self, request: Request, query: str) -> bool:
        shown = [words.partition(" ")[2] for words in request.headers.get_all("Authorization")]
        shown += parse_qs(query).get("token", [])
        return any(hmac.compare_digest(one.strip().encode(), str(self.options.token).encode()) for one in shown[:4])

    async def _handle(self, connection: ServerConnection) -> None:
        self._opening.pop(connection, None)
        if len(self._clients) >= self.options.clients:
            await connection.close(1013, "no room")
            return
        self._clients.add(connection)
        self._most_clients = max(self._most_clients, len(self._clients))
        line = Conversation(self, connection)
        try:
            await (line.vla_eval() if self.dialect is VLA_EVAL else line.openpi())
        except (ConnectionClosed, TimeoutError, WireError):
            pass
        finally:
            self._clients.discard(connection)
            if not line.answered:
                self._suspect(connection)
            await self._hang_up(connection)

    async def _hang_up(self, connection: ServerConnection) -> None:
        """Close; a client that does not take what is sent would not take the closing frame either, and is cut off."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await connection.close(1001 if self._draining else 1011)
        except TimeoutError:
            connection.transport.abort()

    async def answer(self, payload: Any) -> NDArray[np.float32]:
        """Return the chunk for one decoded request.

        Raises:
            WireError: it is no observation.
            PolicyError: the policy does not take it, or not in time.
        """
        observation, seed = await self._off_loop(self._observation, payload)
        try:
            async with asyncio.timeout(self.options.answer_s):
                chunk = await self._batcher.ask(observation, seed)
        except TimeoutError:
            raise PolicyError(f"the policy gave no answer in {self.options.answer_s:.0f} s") from None
        return chunk

    def _observation(self, payload: Any) -> tuple[Observation, int]:
        return from_payload(payload, self.policy.spec, self.keys)

    async def read(self, data: bytes) -> Any:
        """Return the message in ``data``."""
        return await self._off_loop(unpack, data, self.options.limits)

    async def _off_loop(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *arguments)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Count a request while it is worked on, and how it ended."""
        began = time.perf_counter()
        self._in_flight += 1
        try:
            yield
            self._answered += 1
            self._took_s.append(time.perf_counter() - began)
        except (WireError, PolicyError):
            self._refused += 1
            raise
        finally:
            self._in_flight -= 1

    @property
    def draining(self) -> bool:
        """Whether the server is being shut down."""
        return self._draining


def serve_until_stopped(policy: Policy, options: ServerOptions, ready: Callable[[str], None]) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM, then finish what is in flight; return the statistics.

    Args:
        policy: what is served.
        options: see :class:`ServerOptions`.
        ready: is told the address once clients can connect.
    """

    async def main() -> dict[str, Any]:
        sys.setswitchinterval(SWITCH_S)
        server = PolicyServer(policy, options)
        await server.start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        ready(f"{options.host}:{server.port}")
        await stop.wait()
        await server.close()
        return server.statistics()

    return asyncio.run(main())


@contextlib.contextmanager
def serving(policy: Policy, options: ServerOptions | None = None) -> Iterator[PolicyServer]:
    """Serve in a thread of this process for as long as the block lasts; on a free port unless ``options`` say one."""
    server = PolicyServer(policy, options or ServerOptions(port=0))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="policy-server", daemon=True)
    thread.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result()
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result()
        sys.setswitchinterval(before)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
