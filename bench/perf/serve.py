"""How fast a served policy answers: 1, 16, 64 clients, and beside one that tries to spoil it for them.

Clients live in a process of their own, so that the server has its interpreter to itself; what is measured is from the
moment a client begins to send until it has the answer.  Not here: the server (:mod:`policies.server`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np

from bench.errors import UserError
from policies.api import ANCHOR, WRIST, Observation

SIDES = {ANCHOR: 200, WRIST: 84}
WARM = 2
"""Answers of each client that are not counted: connecting and the first batches."""
OPENING = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ATTACKS = (
    b"",  # half-open: never says another word
    b"\x82\xff" + (2**30).to_bytes(8, "big") + bytes(4),  # a gigabyte announced
    b"\x82\xff" + (3 * 2**20).to_bytes(8, "big") + bytes(4) + b"\x80" * 3 * 2**20,  # three million empty maps
    b"\x02\x80" + bytes(4) + (b"\x00\x80" + bytes(4)) * 5000,  # a message in crumbs
    (b"\x89\x80" + bytes(4)) * 20_000,  # pings
    b"\x82\x8a" + bytes(4) + b"\xff" * 10,  # no msgpack
    b"\xff\x00not a frame",
)
HELD = 100


def measure(
    policy: str,
    *,
    protocol: str = "openpi",
    clients: Sequence[int] = (1, 16, 64),
    requests: int = 640,
    device: str | None = None,
    pad: bool = False,
) -> dict[str, Any]:
    """Serve a policy on loopback and return how long clients wait for it, in ms.

    Args:
        policy: name or folder, as :func:`policies.registry.load_policy` takes it.
        protocol: ``"openpi"`` or ``"vla-eval"``.
        clients: numbers of clients at once, one row for each; the largest once more beside a hostile one.
        requests: answers counted in each row, shared by its clients.
        device: where a network runs; by default a GPU where there is one.
        pad: as in :class:`policies.server.ServerOptions`.
    """
    from bench.jobs import device as own_device
    from policies.registry import load_policy
    from policies.server import ServerOptions, serving

    if not clients or min(clients) < 1 or requests < max(clients):
        raise UserError(f"perf serve: expected clients from 1 and a request for each, got {list(clients)}, {requests}")
    where = device or own_device()
    loaded = load_policy(policy, device=where)
    spawn = multiprocessing.get_context("spawn")
    rows = []
    with (
        serving(loaded, ServerOptions(protocol, port=0, clients=2 * max(clients) + HELD, pad=pad)) as server,
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
    ):
        for count in clients:
            rows.append(pool.submit(ask_often, protocol, server.port, count, requests).result())
        enough = spawn.Event()
        hostile = spawn.Process(target=attack, args=(server.port, enough), daemon=True)
        hostile.start()
        try:
            row = pool.submit(ask_often, protocol, server.port, max(clients), requests).result()
        finally:
            enough.set()
            hostile.join(10)
        statistics = server.statistics()
    rows.append({**row, "hostile": True})
    return {
        "policy": policy,
        "protocol": protocol,
        "device": where,
        "rows": rows,
        "p95_beside_hostile": row["p95_ms"] / rows[-2]["p95_ms"],
        "server": statistics,
    }


def ask_often(protocol: str, port: int, clients: int, requests: int) -> dict[str, Any]:
    """Ask from many threads, each with a connection of its own; return the times of all answers."""
    rng = np.random.default_rng(0)
    views = {name: rng.integers(0, 256, (side, side, 3), np.uint8) for name, side in SIDES.items()}
    each = -(-requests // clients)
    with ThreadPoolExecutor(clients) as pool:
        jobs = [pool.submit(_one_client, f"{protocol}://127.0.0.1:{port}", views, each) for _ in range(clients)]
        results = [job.result() for job in jobs]
    seconds = np.array([second for times, _, _ in results for second in times])
    span = max(ended for _, _, ended in results) - min(began for _, began, _ in results)
    p50, p95, worst = (float(np.percentile(seconds, percent)) * 1000 for percent in (50, 95, 100))
    return {
        "clients": clients,
        "hostile": False,
        "answers": len(seconds),
        "p50_ms": p50,
        "p95_ms": p95,
        "worst_ms": worst,
        "answers_per_s": len(seconds) / span,
    }


def _one_client(address: str, views: dict[str, Any], requests: int) -> tuple[list[float], float, float]:
    from policies.addresses import connect

    remote = connect(f"{address}?connections=1")
    observation = Observation(views, "grasp the red block")
    times, began = [], time.perf_counter()
    for number in range(-WARM, requests):
        if number == 0:
            began = time.perf_counter()
        asked = time.perf_counter()
        remote.act([observation], [number + WARM])
        if number >= 0:
            times.append(time.perf_counter() - asked)
    ended = time.perf_counter()
    remote.close()
    return times, began, ended


def attack(port: int, enough: Event) -> None:
    """Do to a server on loopback what must not matter to its other clients, until told to stop."""
    held: list[socket.socket] = []
    while not enough.is_set():
        for opening, attack_bytes in [(OPENING, one) for one in ATTACKS] + [(b"GET / HT", b"")]:
            with contextlib.suppress(OSError):
                line = socket.create_connection(("127.0.0.1", port), timeout=5)
                line.sendall(opening)
                if opening is OPENING:
                    line.recv(4096)
                line.sendall(attack_bytes)
                held.append(line)
        for line in held[:-HELD]:
            line.close()
        held = held[-HELD:]
    for line in held:
        line.close()
