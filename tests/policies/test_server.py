"""A policy server: who is let in, what is answered and what is refused.  Attacks are in test_hostile_clients.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from server_doubles import TOKEN, Picky, ask, changed, line, options, request
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from policies.api import Observation, PolicyError, PolicySpec
from policies.batching import Batcher
from policies.protocols import OPENPI, VLA_EVAL, to_payload, vla_eval_message
from policies.registry import load_policy
from policies.server import ServerOptions, is_loopback, serving
from policies.simple import RandomPolicy, Scripted
from policies.wire import Limits, pack_openpi, unpack

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


def test_small_limits_are_kept(observations):
    with serving(RandomPolicy(), options(limits=Limits(message_bytes=1000))) as server, line(server) as websocket:
        websocket.recv(timeout=20)
        with contextlib.suppress(ConnectionClosed):
            websocket.send(request(observations[0]))
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=20)


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


def test_a_network_policy_is_served_as_it_answers_locally(observations):
    policy = load_policy("flow-untrained")
    with serving(policy, options()) as server:
        served = ask(server, observations[0], seed=11)
    np.testing.assert_array_equal(served, policy.act(observations[:1], [11])[0])
