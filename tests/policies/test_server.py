"""A policy server among strangers: who is let in, what is answered, and that nobody can spoil it for the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from policies.api import Observation, PolicyError, PolicySpec
from policies.batching import Batcher
from policies.protocols import OPENPI, VLA_EVAL, to_payload, vla_eval_message
from policies.registry import load_policy
from policies.server import PolicyServer, ServerOptions, is_loopback, serving
from policies.simple import RandomPolicy, Scripted
from policies.wire import Limits, pack_openpi, unpack

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


# --- who is let in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.4", "example.org"])
def test_an_open_interface_needs_a_token(host):
    with pytest.raises(PolicyError, match="give a token"):
        ServerOptions(host=host)
    assert ServerOptions(host=host, token=TOKEN).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_does_not(host):
    assert is_loopback(host)
    assert ServerOptions(host=host).token is None


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"protocol": "grpc"}, "openpi"),
        ({"port": 70000}, "port"),
        ({"token": "short"}, "16"),
        ({"max_batch": 0}, "batch"),
    ],
)
def test_impossible_options_are_refused(wrong, complaint):
    with pytest.raises(PolicyError, match=complaint):
        ServerOptions(**wrong)


def test_a_token_is_not_shown_where_options_are_printed():
    assert TOKEN not in repr(ServerOptions(token=TOKEN))


def test_clients_must_show_the_token(observations):
    with serving(RandomPolicy(), options(token=TOKEN)) as server:
        for headers in ({}, {"Authorization": "Api-Key wrong-token-wrong"}, {"Authorization": TOKEN[:-1]}):
            with pytest.raises(InvalidStatus, match="401"):
                line(server, additional_headers=headers)
        for scheme in ("Api-Key", "Bearer"):
            with line(server, additional_headers={"Authorization": f"{scheme} {TOKEN}"}) as websocket:
                assert unpack(websocket.recv(timeout=20))["policy"] == "random"
        with connect(f"ws://127.0.0.1:{server.port}/?token={TOKEN}", proxy=None) as websocket:
            websocket.recv(timeout=20)


def test_web_pages_are_not_let_in():
    with serving(RandomPolicy(), options()) as server, pytest.raises(InvalidStatus, match="403"):
        line(server, origin="https://example.org")


@pytest.mark.parametrize("path", ["/healthz", "/health"])
def test_it_says_over_http_that_it_is_well(path):
    with (
        serving(RandomPolicy(), options(token=TOKEN)) as server,
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as answer,
    ):
        assert answer.read() == b"OK\n"


def test_a_client_too_many_is_told_so(observations):
    with serving(RandomPolicy(), options(clients=2)) as server:
        with line(server), line(server) as second, pytest.raises(InvalidStatus, match="503"):
            second.recv(timeout=20)
            line(server)
        assert ask(server, observations[0]).shape == (10, 7)


def test_a_taken_port_is_one_line():
    with (
        serving(RandomPolicy(), options()) as server,
        pytest.raises(PolicyError, match="choose another --port"),
        serving(RandomPolicy(), ServerOptions(port=server.port)),
    ):
        pass


# --- what is answered ----------------------------------------------------------------------------------------------


def test_openpi_answers_carry_the_chunk_and_its_time(observations):
    with serving(RandomPolicy(), options()) as server, line(server) as websocket:
        metadata = unpack(websocket.recv(timeout=20))
        assert PolicySpec.from_json(metadata["wristworld_bench"]) == RandomPolicy().spec
        websocket.send(request(observations[0]))
        answer = unpack(websocket.recv(timeout=20))
        np.testing.assert_array_equal(answer["actions"], RandomPolicy().act(observations[:1], [7])[0])
        assert answer["server_timing"]["infer_ms"] > 0


def test_a_request_without_a_seed_is_answered_by_its_content(observations):
    payload = to_payload(observations[0], 0, OPENPI, OPENPI.keys)
    del payload["seed"]
    other = {**payload, "prompt": "something else"}
    with serving(RandomPolicy(), options()) as server, line(server) as websocket:
        websocket.recv(timeout=20)
        answers = []
        for one in (payload, payload, other):
            websocket.send(pack_openpi(one))
            answers.append(unpack(websocket.recv(timeout=20))["actions"])
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


def test_things_may_be_called_otherwise(observations):
    names = {"anchor": "observation/exterior_image_1_left", "wrist": "images/wrist"}
    payload = {
        "observation/exterior_image_1_left": observations[0].views["anchor"],
        "images": {"wrist": observations[0].views["wrist"]},
        "prompt": "grasp",
        "observation/joint_position": np.zeros(7),
    }
    seen: list[Observation] = []

    def respond(observation, seed):
        seen.append(observation)
        return np.zeros((10, 7), np.float32)

    with serving(Scripted(respond, PolicySpec("seer")), options(names=names)) as server, line(server) as websocket:
        websocket.recv(timeout=20)
        websocket.send(pack_openpi(payload))
        websocket.recv(timeout=20)
    np.testing.assert_array_equal(seen[0].views["wrist"], observations[0].views["wrist"])
    assert seen[0].instruction == "grasp"


def converse(websocket, kind, payload, seq=1):
    websocket.send(VLA_EVAL.pack(vla_eval_message(kind, payload, seq)))
    if kind in ("hello", "observation"):
        answer = unpack(websocket.recv(timeout=20))
        assert answer["seq"] == seq
        return answer["type"], answer["payload"]
    return None


def test_vla_eval_gets_one_action_at_a_time_until_an_episode_starts(observations):
    payload = to_payload(observations[0], 7, VLA_EVAL, VLA_EVAL.keys)
    chunk = RandomPolicy().act(observations[:1], [7])[0]
    with serving(RandomPolicy(), options("vla-eval")) as server, line(server) as websocket:
        kind, greeting = converse(websocket, "hello", {"harness_version": "0.8.0"})
        assert kind == "hello"
        assert greeting["action_spec"]["gripper"]["format"] == "binary_close_negative"
        assert greeting["observation_params"] == {"send_wrist_image": True}
        converse(websocket, "episode_start", {"task": {}})
        for step in range(3):
            kind, answer = converse(websocket, "observation", payload, seq=step + 5)
            assert kind == "action"
            np.testing.assert_array_equal(answer["actions"], chunk[step])
        for restart in ("episode_start", "episode_restart"):
            if restart == "episode_start":
                converse(websocket, restart, {})
                answer = converse(websocket, "observation", payload)[1]
            else:
                answer = converse(websocket, "observation", {**payload, "episode_restart": True})[1]
            np.testing.assert_array_equal(answer["actions"], chunk[0])


def test_vla_eval_mistakes_are_answered_and_end_the_connection_when_they_pile_up(observations):
    payload = to_payload(observations[0], 7, VLA_EVAL, VLA_EVAL.keys)
    with serving(RandomPolicy(), options("vla-eval")) as server, line(server) as websocket:
        kind, answer = converse(websocket, "observation", {**payload, "task_description": 3})
        assert (kind, "task_description" in answer["error"]) == ("error", True)
        assert converse(websocket, "observation", payload)[0] == "action"
        for _ in range(2):
            websocket.send(VLA_EVAL.pack({"type": "observation"}))
            assert unpack(websocket.recv(timeout=20))["type"] == "error"
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=20)


def test_requests_that_wait_become_one_call(observations):
    policy = Picky(pause=0.05)
    with serving(policy, options(max_wait_s=0.05)) as server, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: ask(server, observations[seed % 5], seed), range(24)))
    assert max(policy.sizes) > 1
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, np.full((3, 7), np.float32(seed) / 1000))


def test_one_client_alone_does_not_wait_for_others(observations):
    with serving(Picky(), options(max_wait_s=30.0)) as server:
        np.testing.assert_array_equal(ask(server, observations[0], 5), np.full((3, 7), np.float32(0.005)))


def test_padding_gives_every_call_the_same_size(observations):
    policy = Picky()
    with serving(policy, options(max_batch=4, pad=True)) as server:
        ask(server, observations[0], 3)
    assert policy.sizes == [4]


def test_one_bad_request_takes_nobody_with_it(observations):
    good, bad = observations[0], Observation(observations[0].views, "no")
    nan = Observation(observations[0].views, "nan")

    async def together():
        batcher = Batcher(Picky(), max_wait_s=0.1)
        questions = [good] * 6 + [bad] + [good] * 3 + [nan]
        answers = await asyncio.gather(*map(batcher.ask, questions, range(11)), return_exceptions=True)
        await batcher.close()
        return answers

    answers = asyncio.run(together())
    assert [isinstance(answer, PolicyError) for answer in answers] == [False] * 6 + [True] + [False] * 3 + [True]
    assert "cannot do that" in str(answers[6])
    assert "NaN or infinite" in str(answers[10])


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"observation/image": None}, "needs view anchor"),
        ({"observation/image": np.zeros((200, 200, 3))}, "uint8 image"),
        ({"observation/image": np.zeros((3, 200, 200), np.uint8)}, "uint8 image"),
        ({"observation/image": np.zeros((200, 200), np.uint8)}, "uint8 image"),
        ({"observation/image": np.zeros((0, 200, 3), np.uint8)}, "sides"),
        ({"observation/image": np.zeros((16, 4096, 3), np.uint8)}, "sides"),
        ({"observation/image": [1, 2]}, "uint8 image"),
        ({"observation/state": np.full(15, np.nan, np.float32)}, "finite"),
        ({"observation/state": np.zeros(8, np.float32)}, "15 finite"),
        ({"observation/state": "here"}, "15 finite"),
        ({"prompt": None}, "sentence"),
        ({"prompt": "x" * 1001}, "sentence"),
        ({"prompt": b"bytes"}, "sentence"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_a_false_observation_is_refused_by_name(changes, complaint, observations_of):
    observation = observations_of(1, proprio=True)[0]
    policy = Scripted(lambda *_: np.zeros((10, 7), np.float32), PolicySpec("all", uses_proprio=True))
    with serving(policy, options()) as server:
        with line(server) as websocket:
            websocket.recv(timeout=20)
            websocket.send(changed(observation, **changes))
            answer = websocket.recv(timeout=20)
            assert isinstance(answer, str)
            assert complaint in answer
            assert "\n" not in answer
        assert ask(server, observation).shape == (10, 7)


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


def test_a_shutdown_answers_what_is_in_flight_and_hangs_up(observations):
    with ThreadPoolExecutor(4) as pool:
        with serving(Picky(pause=0.3), options()) as server:
            idle = line(server)
            idle.recv(timeout=20)
            answers = [pool.submit(ask, server, observations[0], seed) for seed in range(4)]
            port = server.port
            while server.statistics()["batches"] == 0:
                time.sleep(0.01)
        got = [answer.exception() is None for answer in answers]
        with pytest.raises(ConnectionClosed):
            idle.recv(timeout=20)
    assert any(got)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_small_limits_are_kept(observations):
    with serving(RandomPolicy(), options(limits=Limits(message_bytes=1000))) as server, line(server) as websocket:
        websocket.recv(timeout=20)
        with contextlib.suppress(ConnectionClosed):
            websocket.send(request(observations[0]))
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=20)


def test_a_network_policy_is_served_as_it_answers_locally(observations):
    policy = load_policy("flow-untrained")
    with serving(policy, options()) as server:
        served = ask(server, observations[0], seed=11)
    np.testing.assert_array_equal(served, policy.act(observations[:1], [11])[0])
