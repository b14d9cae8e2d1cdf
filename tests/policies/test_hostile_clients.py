"""Nobody can spoil a policy server for others: floods, crumbs, silence, hang-ups, and 64 clients beside all of it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from server_doubles import Picky, ask, changed, ended, frame, line, options, raw, request, shaken

from policies.api import Observation, PolicySpec
from policies.protocols import VLA_EVAL
from policies.server import PolicyServer, serving
from policies.simple import RandomPolicy, Scripted
from policies.wire import pack_openpi, unpack


def test_a_gigabyte_announced_is_not_waited_for():
    with serving(RandomPolicy(), options()) as server, shaken(server) as bare:
        bare.sendall(frame(2**30))
        assert ended(bare)


def test_a_message_in_crumbs_is_not_put_together():
    crumb = struct.pack("!BBI", 0x02, 0x80, 0)
    more = struct.pack("!BBI", 0x00, 0x80, 0)
    with serving(RandomPolicy(), options()) as server, shaken(server) as bare:
        with contextlib.suppress(ConnectionError):
            bare.sendall(crumb + more * 5000)
        assert ended(bare)


def test_a_flood_of_pings_is_cut_off(observations):
    ping = struct.pack("!BBI", 0x89, 0x80, 0)
    with serving(RandomPolicy(), options()) as server, shaken(server) as bare:
        with contextlib.suppress(ConnectionError):
            bare.sendall(ping * 20_000)
        assert ended(bare)
        assert ask(server, observations[0]).shape == (10, 7)


def test_a_refused_client_has_to_wait(observations):
    with serving(RandomPolicy(), options("vla-eval", penalty_s=0.3)) as server, line(server) as websocket:
        began = time.monotonic()
        for _ in range(2):
            websocket.send(VLA_EVAL.pack({"type": "observation"}))
            websocket.recv(timeout=20)
        assert time.monotonic() - began >= 0.3


def test_who_connects_in_vain_waits_to_connect_again_and_nobody_else_does(observations):
    with (
        serving(RandomPolicy(), options(penalty_s=2.0)) as server,
        line(server) as good,
        ThreadPoolExecutor(1) as pool,
    ):
        good.recv(timeout=20)
        with shaken(server) as bare:
            bare.sendall(frame(2**30))
            assert ended(bare)
        again = pool.submit(ask, server, observations[1])
        good.send(request(observations[0]))
        good.recv(timeout=20)
        assert not again.done()
        assert again.result().shape == (10, 7)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=20) as answer:
            assert answer.status == 200


def test_an_opening_that_never_ends_is_dropped():
    with serving(RandomPolicy(), options(open_s=0.3)) as server, raw(server) as bare:
        bare.sendall(b"GET / HTTP/1.1\r\n")
        assert ended(bare)


def test_openings_that_never_end_do_not_keep_others_out(observations):
    with serving(RandomPolicy(), options(pending=5, open_s=30)) as server:
        sockets = [raw(server) for _ in range(40)]
        assert ask(server, observations[0]).shape == (10, 7)
        assert ended(sockets[0])
        for bare in sockets:
            bare.close()


def test_a_silent_client_is_dropped():
    with serving(RandomPolicy(), options(idle_s=0.3)) as server, shaken(server) as bare:
        bare.sendall(frame(1000)[:5])
        assert ended(bare)


def test_a_client_that_takes_no_answers_is_dropped(observations):
    big = Scripted(lambda *_: np.zeros((50_000, 7), np.float32), PolicySpec("big", chunk=50_000, execute=1))
    with serving(big, options(send_s=0.3)) as server, shaken(server) as bare:
        message = request(observations[0])
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                bare.sendall(frame(len(message)) + message)


def test_a_policy_that_hangs_is_not_waited_for_for_ever(observations):
    with serving(Picky(pause=1.0), options(answer_s=0.1)) as server, line(server) as websocket:
        websocket.recv(timeout=20)
        websocket.send(request(observations[0]))
        assert "no answer in" in websocket.recv(timeout=20)


# --- many, and one of them hostile ---------------------------------------------------------------------------------


class Hostile(threading.Thread):
    """Does everything that must not matter, over and over."""

    def __init__(self, server: PolicyServer, observation: Observation) -> None:
        super().__init__(daemon=True)
        self.server, self.observation, self.enough, self.rounds = server, observation, threading.Event(), 0
        self.held: list[socket.socket] = []

    def run(self) -> None:
        objects = pack_openpi({"a": np.zeros(1)}).replace(b"<f8", b"|O8")
        while not self.enough.is_set():
            for attack in (
                frame(2**30),
                frame(100)[:7],
                frame(3, opcode=5) + b"abc",
                frame(50) + bytes(50),
                frame(len(objects)) + objects,
                frame(4, opcode=1) + b"text",
                b"\x00\xff\x13garbage" * 1000,
            ):
                with contextlib.suppress(OSError):
                    bare = shaken(self.server)
                    bare.sendall(attack)
                    self.held.append(bare)
            with contextlib.suppress(OSError):
                half_open = raw(self.server)
                half_open.sendall(b"GET / HT")
                self.held.append(half_open)
            for bad in (
                changed(self.observation, **{"observation/image": np.full((200, 200, 3), np.nan)}),
                changed(self.observation, prompt="no"),
                changed(self.observation, prompt="nan"),
            ):
                with contextlib.suppress(Exception), line(self.server, close_timeout=1) as websocket:
                    websocket.recv(timeout=5)
                    websocket.send(bad)
                    websocket.recv(timeout=5)
            for bare in self.held[:-60]:
                bare.close()
            self.held = self.held[-60:]
            self.rounds += 1

    def stop(self) -> None:
        self.enough.set()
        self.join()
        for bare in self.held:
            bare.close()


def test_sixty_four_clients_are_all_answered_beside_a_hostile_one(observations):
    requests = 5
    with serving(Picky(pause=0.002), options(clients=200)) as server:
        hostile = Hostile(server, observations[0])
        hostile.start()

        def client(number: int) -> int:
            good = 0
            with line(server, open_timeout=60) as websocket:
                websocket.recv(timeout=60)
                for turn in range(requests):
                    seed = number * requests + turn
                    websocket.send(request(observations[number % 5], seed))
                    answer = unpack(websocket.recv(timeout=60))["actions"]
                    good += np.array_equal(answer, np.full((3, 7), np.float32(seed) / 1000))
            return good

        with ThreadPoolExecutor(64) as pool:
            assert list(pool.map(client, range(64))) == [requests] * 64
        while not hostile.rounds:
            time.sleep(0.05)
        hostile.stop()
        statistics = server.statistics()
    assert statistics["answered"] >= 64 * requests
    assert statistics["refused"] > 0
    assert statistics["most_clients"] <= 200
