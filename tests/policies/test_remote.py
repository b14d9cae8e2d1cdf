"""Policies behind a websocket: addresses, what strangers' servers may say, and what a lost connection means."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
from websockets.sync.server import serve

from policies.addresses import connect, parse_address
from policies.api import CALVIN_ACTIONS, PolicyError, PolicySpec
from policies.protocols import OPENPI, VLA_EVAL
from policies.registry import load_policy
from policies.remote import TOKEN_VARIABLE, PolicyUnreachableError
from policies.server import ServerOptions, serving
from policies.simple import RandomPolicy, Scripted
from policies.wire import pack_openpi, pack_vla_eval, unpack

PROTOCOLS = pytest.mark.parametrize("protocol", ["openpi", "vla-eval"])
TOKEN = "a-token-of-sixteen-letters"


@contextlib.contextmanager
def stranger(*answers, greeting=None):
    """Another project's openpi server: greets, then gives its answers in turn; an exception hangs up."""
    rest, heard = list(answers), []

    def handle(websocket):
        websocket.send(pack_openpi(greeting or {}))
        with contextlib.suppress(Exception):
            for data in websocket:
                heard.append(unpack(data))
                answer = rest.pop(0)
                if answer is ConnectionError:
                    websocket.socket.close()
                    return
                websocket.send(answer if isinstance(answer, (str, bytes)) else pack_openpi(answer))

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"openpi://127.0.0.1:{server.socket.getsockname()[1]}", heard
        server.shutdown()


CHUNK = np.linspace(-1, 1, 28).reshape(4, 7)
DECLARED = "?actions=calvin&chunk=4&connections=1&answer_s=5"


@PROTOCOLS
@pytest.mark.parametrize("name", ["random", "hold-still", "flow-untrained", "flow-untrained-anchor"])
def test_our_client_gets_from_our_server_exactly_what_the_policy_gives_here(protocol, name, observations, awake):
    policy = load_policy(name)
    if name.startswith("flow"):
        awake(policy)
    with serving(policy, ServerOptions(protocol, port=0)) as server:
        remote = connect(f"{protocol}://127.0.0.1:{server.port}")
        assert remote.spec == policy.spec
        for seed, observation in enumerate(observations):
            np.testing.assert_array_equal(remote.act([observation], [seed]), policy.act([observation], [seed]))
        together = remote.act(observations, range(5))
        np.testing.assert_allclose(together, policy.act(observations, range(5)), atol=1e-5)
        remote.close()


@PROTOCOLS
def test_the_robots_state_arrives_too(protocol, observations_of):
    spec = PolicySpec("state", chunk=2, execute=2, uses_proprio=True)
    policy = Scripted(lambda observation, _: np.tile(observation.proprio[:7], (2, 1)), spec)
    observation = observations_of(1, proprio=True)[0]
    with serving(policy, ServerOptions(protocol, port=0)) as server:
        remote = connect(f"{protocol}://127.0.0.1:{server.port}")
        np.testing.assert_array_equal(remote.act([observation], [0])[0, 0], observation.proprio[:7])
        remote.close()


def test_what_the_policy_says_of_a_question_reaches_the_asker(observations):
    def respond(observation, seed):
        raise PolicyError(f"cannot {observation.instruction}")

    with serving(Scripted(respond, PolicySpec("no")), ServerOptions(port=0)) as server:
        remote = connect(f"openpi://127.0.0.1:{server.port}")
        with pytest.raises(PolicyError, match=r"openpi://127.0.0.1.*cannot push"):
            remote.act(observations[:1], [0])
        remote.close()


@PROTOCOLS
def test_a_token_is_taken_from_the_environment(protocol, monkeypatch, observations):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with serving(RandomPolicy(), ServerOptions(protocol, port=0, token=TOKEN)) as server:
        address = f"{protocol}://127.0.0.1:{server.port}"
        with pytest.raises(PolicyError, match=TOKEN_VARIABLE):
            connect(address)
        monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
        remote = connect(address)
        assert remote.act(observations[:1], [0]).shape == (1, 10, 7)
        assert TOKEN not in repr(remote.remote)
        remote.close()


def test_a_server_that_comes_back_is_asked_again(observations):
    with serving(RandomPolicy(), ServerOptions(port=0)) as server:
        port = server.port
        remote = connect(f"openpi://127.0.0.1:{port}?connections=1")
        first = remote.act(observations[:1], [3])
    with pytest.raises(PolicyUnreachableError, match="is it running"):
        remote.act(observations[:1], [3])
    with serving(RandomPolicy(), ServerOptions(port=port)):
        np.testing.assert_array_equal(remote.act(observations[:1], [3]), first)
        remote.close()


def test_nobody_there_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(PolicyUnreachableError) as caught:
            connect(f"openpi://127.0.0.1:{taken.getsockname()[1]}?retries=0")
    assert "\n" not in str(caught.value)


# --- servers of other projects -------------------------------------------------------------------------------------


def test_an_undeclared_server_is_refused_with_what_to_type():
    with stranger() as (address, _), pytest.raises(PolicyError, match=r"\?actions=calvin&chunk=10"):
        connect(address)


def test_a_declared_one_is_asked_in_its_own_words(observations_of):
    observation = observations_of(1, proprio=True)[0]
    with stranger({"actions": CHUNK}) as (address, heard):
        remote = connect(
            f"{address}{DECLARED}&execute=2&anchor=observation/exterior_image_1_left&proprio_entries=0-2,14"
        )
        assert (remote.spec.chunk, remote.spec.execute, remote.spec.actions) == (4, 2, CALVIN_ACTIONS)
        np.testing.assert_array_equal(remote.act([observation], [5])[0], CHUNK.astype(np.float32))
        remote.close()
    assert set(heard[0]) == {
        "observation/exterior_image_1_left",
        "observation/wrist_image",
        "observation/state",
        "prompt",
        "seed",
    }
    np.testing.assert_array_equal(heard[0]["observation/state"], observation.proprio[[0, 1, 2, 14]])


def test_views_that_were_not_declared_are_not_sent(observations):
    with stranger({"actions": CHUNK}) as (address, heard):
        remote = connect(f"{address}{DECLARED}&views=anchor")
        remote.act(observations[:1], [5])
        remote.close()
    assert "observation/wrist_image" not in heard[0]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("Traceback\n  File x\nValueError: wrong shape\n", "ValueError: wrong shape"),
        ({"action": CHUNK}, "actions"),
        ({"actions": CHUNK[:3]}, r"expected actions of shape \(4, 7\), got \(3, 7\)"),
        ({"actions": np.zeros((4, 32))}, "got"),
        ({"actions": np.full((4, 7), np.nan)}, "not finite"),
        ({"actions": [[0.0] * 7] * 4}, "array of numbers"),
        ({"actions": np.zeros((4, 7), bool)}, "array of numbers"),
        (b"\xff\xff", "no msgpack"),
        (b"\x93\x01\x02\x03", "a map with 'actions'"),
    ],
)
def test_false_answers_are_one_line(answer, complaint, observations):
    with stranger(answer) as (address, _):
        remote = connect(address + DECLARED)
        with pytest.raises(PolicyError, match=complaint) as caught:
            remote.act(observations[:1], [0])
        assert "\n" not in str(caught.value)
        remote.close()


def test_a_lost_question_is_sent_again(observations):
    with stranger(ConnectionError, {"actions": CHUNK}) as (address, heard):
        remote = connect(address + DECLARED)
        np.testing.assert_array_equal(remote.act(observations[:1], [0])[0], CHUNK.astype(np.float32))
        remote.close()
    assert len(heard) == 2


def test_a_server_that_does_not_answer_is_given_up(observations):
    def handle(websocket):
        websocket.send(pack_openpi({}))
        with contextlib.suppress(Exception):
            for _ in websocket:
                time.sleep(0.01)

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"openpi://127.0.0.1:{server.socket.getsockname()[1]}"
        remote = connect(f"{address}?actions=calvin&chunk=4&answer_s=0.2&retries=1")
        with pytest.raises(PolicyUnreachableError, match="after 2 tries"):
            remote.act(observations[:1], [0])
        remote.close()
        server.shutdown()


def test_a_convention_that_differs_is_kept_and_so_refused_by_the_rollout():
    with stranger() as (address, _):
        remote = connect(f"{address}?chunk=4&gripper_open=-1&connections=1")
        assert remote.spec.actions.differences(CALVIN_ACTIONS) == ["gripper_open: -1.0 != 1.0"]
        remote.close()


def test_or_is_converted_where_that_is_exact(observations):
    with stranger({"actions": CHUNK}) as (address, _):
        remote = connect(f"{address}?chunk=4&gripper_open=-1&metres_per_unit=1&convert=calvin&connections=1")
        assert remote.spec.actions == CALVIN_ACTIONS
        got = remote.act(observations[:1], [0])[0]
        remote.close()
    np.testing.assert_allclose(got[:, :3], CHUNK[:, :3] * 50, rtol=1e-6)
    np.testing.assert_array_equal(got[:, 6], -CHUNK[:, 6].astype(np.float32))


def test_and_refused_where_it_is_not():
    with stranger() as (address, _):
        with pytest.raises(PolicyError, match="running target"):
            connect(f"{address}?chunk=4&frame=absolute&convert=calvin")
        with pytest.raises(PolicyError, match="convert=calvin"):
            connect(f"{address}?chunk=4&frame=absolute&rotation=quaternion_xyzw")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"wristworld_bench": {"name": "x"}}, "cannot be read"),
        ({"wristworld_bench": 7}, "cannot be read"),
        ({"wristworld_bench": {**PolicySpec("x").to_json(), "chunk": 10**6, "execute": 1}}, "cannot be read"),
        ({"wristworld_bench": {**PolicySpec("x").to_json(), "actions": {"rotation": "spin"}}}, "cannot be read"),
    ],
)
def test_a_false_description_is_refused(said, complaint):
    with stranger(greeting=said) as (address, _), pytest.raises(PolicyError, match=complaint):
        connect(address)


def test_a_declaration_that_the_server_contradicts_is_refused():
    with serving(RandomPolicy(), ServerOptions(port=0)) as server, pytest.raises(PolicyError, match="gripper_open"):
        connect(f"openpi://127.0.0.1:{server.port}?gripper_open=-1&chunk=10")


@pytest.mark.parametrize("wrong", ["chunk=5", "chunk=10&views=anchor", "chunk=10&optional_views="])
def test_nor_may_it_contradict_the_chunk_or_the_views(wrong):
    with serving(RandomPolicy(), ServerOptions(port=0)) as server:
        with pytest.raises(PolicyError, match=f"declared != the server's own: {wrong.split('&')[-1].split('=')[0]}"):
            connect(f"openpi://127.0.0.1:{server.port}?actions=calvin&{wrong}")
        agreed = connect(f"openpi://127.0.0.1:{server.port}?actions=calvin&chunk=10&execute=4")
        assert (agreed.spec.chunk, agreed.spec.execute) == (10, 4)
        agreed.close()


def test_a_chunk_that_nobody_stated_contradicts_nothing():
    with serving(RandomPolicy(), ServerOptions("vla-eval", port=0)) as server:
        remote = connect(f"vla-eval://127.0.0.1:{server.port}?actions=calvin")
        assert remote.spec == RandomPolicy().spec
        remote.close()


def test_one_that_never_greets_is_not_waited_for_as_long_as_for_an_answer():
    complaint = r"no greeting in 0\.2 s, openpi's servers greet first"
    with (
        serving(RandomPolicy(), ServerOptions("vla-eval", port=0)) as server,
        pytest.raises(PolicyUnreachableError, match=complaint),
    ):
        connect(f"openpi://127.0.0.1:{server.port}?connect_s=0.2&retries=0")


@contextlib.contextmanager
def vla_eval_stranger(action_spec, respond):
    heard = []

    def handle(websocket):
        with contextlib.suppress(Exception):
            for data in websocket:
                message = unpack(data)
                heard.append((message["type"], message["payload"]))
                answer = None
                if message["type"] == "hello":
                    answer = ("hello", {"action_spec": action_spec})
                elif message["type"] == "observation":
                    answer = respond(message["payload"])
                if answer is not None:
                    packed = {"type": answer[0], "payload": answer[1], "seq": message["seq"], "timestamp": 0.0}
                    websocket.send(pack_vla_eval(packed))

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"vla-eval://127.0.0.1:{server.socket.getsockname()[1]}", heard
        server.shutdown()


def test_a_vla_eval_server_is_told_that_each_question_starts_anew(observations):
    with vla_eval_stranger({}, lambda payload: ("action", {"actions": CHUNK[0]})) as (address, heard):
        remote = connect(f"{address}?actions=calvin&connections=1")
        assert remote.spec.chunk == 1
        for seed in range(2):
            np.testing.assert_array_equal(remote.act(observations[:1], [seed])[0, 0], CHUNK[0].astype(np.float32))
        remote.close()
    assert [kind for kind, _ in heard] == ["hello", "episode_start", "observation", "episode_start", "observation"]
    assert set(heard[2][1]["images"]) == {"rgb_static", "rgb_gripper"}


def test_a_vla_eval_servers_own_words_must_fit_the_declaration():
    spec = {"gripper": {"name": "gripper", "dims": 1, "format": "binary_close_positive"}, "position": {"format": "raw"}}
    with vla_eval_stranger(spec, None) as (address, _), pytest.raises(PolicyError, match="gripper: server says"):
        connect(f"{address}?actions=calvin")


def test_a_vla_eval_servers_error_is_passed_on(observations):
    with vla_eval_stranger({}, lambda payload: ("error", {"error": "no weights"})) as (address, _):
        remote = connect(f"{address}?actions=calvin&connections=1")
        with pytest.raises(PolicyError, match="no weights"):
            remote.act(observations[:1], [0])
        remote.close()


# --- addresses -----------------------------------------------------------------------------------------------------


def test_an_address_says_all_of_it():
    remote = parse_address(
        "vla-eval://[::1]:9?tls=1&connections=3&answer_s=2.5&actions=calvin&chunk=5&execute=2&views=anchor,wrist"
        "&optional_views=wrist&anchor=images/agentview&control_hz=20"
    )
    assert (remote.dialect, remote.uri, remote.connections, remote.answer_s) == (VLA_EVAL, "wss://[::1]:9", 3, 2.5)
    assert remote.keys is not None
    assert remote.keys.views == {"anchor": "images/agentview", "wrist": "images/rgb_gripper"}
    assert remote.declared == PolicySpec(
        "vla-eval@::1", ("anchor", "wrist"), ("wrist",), 5, 2, None,
        type(CALVIN_ACTIONS)(control_hz=20.0), uses_proprio=True,
    )  # fmt: skip
    assert parse_address("openpi://h:1").keys == OPENPI.keys


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("openpi://127.0.0.1", "HOST:PORT"),
        ("openpi://:8000", "HOST:PORT"),
        ("openpi://[::1:8000", "HOST:PORT"),
        ("openpi://h:99999999", "HOST:PORT"),
        ("openpi://h:8000/path", "HOST:PORT"),
        ("http://h:8000", "HOST:PORT"),
        ("openpi://user:secret@h:8000", "HOST:PORT"),
        ("openpi://h:8000?chunks=3", "unknown option 'chunks'"),
        ("openpi://h:8000?actions=mine&chunk=3", "'mine'"),
        ("openpi://h:8000?actions=calvin&chunk=ten", "'ten'"),
        ("openpi://h:8000?actions=calvin", "chunk"),
        ("openpi://h:8000?chunk=3", "actions="),
        ("openpi://h:8000?connections=0", "positive"),
        ("openpi://h:8000?proprio_entries=0-15", "0 to 14"),
        ("openpi://h:8000?token=abc", TOKEN_VARIABLE),
    ],
)
def test_an_address_that_cannot_be_read_says_what_is_wrong(address, complaint):
    with pytest.raises(PolicyError, match=complaint) as caught:
        parse_address(address)
    assert "abc" not in str(caught.value)
