"""A Ray of one's own that nobody else can reach, a running cluster by its address, and a cluster that loses a node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cluster_doubles import COUNT, run

from bench.rollout import session
from bench.rollout.ledger import LEDGER_FILE

HERE = Path(__file__).parent
DEFAULTS: dict[str, Any] = {
    "docker": {}, "initialization_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
    "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
}  # fmt: skip
"""What ``ray up`` adds to a cluster's file."""


def driver(*arguments: object, **environment: str) -> Any:
    """Run a driver of ``cluster_doubles`` to its end and return what it said."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    told = subprocess.run(
        [sys.executable, str(HERE / "cluster_doubles.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    return json.loads(told.stdout.splitlines()[-1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def head(port: int, *options: str, **environment: str) -> Iterator[str]:
    """Start a Ray head of two CPUs as ``ray start --head`` does and give its address on this machine."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
               "--include-dashboard=false", f"--object-store-memory={100 * 2**20}", *options]  # fmt: skip
    process = psutil.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + 90
        while not session._answers("127.0.0.1", port):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until, "the head did not come up"
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        for started in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                started.kill()
        process.wait()


def test_nothing_listens_beyond_the_loopback_interface_and_nobody_without_the_token_is_heard(tmp_path: Path) -> None:
    found = driver("listening", tmp_path)
    assert found["addresses"]
    assert all(ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1") for ip in found["addresses"]), found
    assert found["stranger"] == "refused"


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["0", "1"], ids=["loopback-only", "open"])
def test_running_cluster_is_reached_by_its_loopback_address_with_its_token(tmp_path: Path, switch: str) -> None:
    """``ray start`` takes the user's token; a driver that did not would be turned away."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    secret = {session.TOKEN_PATH: str(token)}
    with head(free_port(), **{session.CLUSTER_SWITCH: switch, **secret}) as address:
        # py_modules brings the packages of the project; the doubles are not among them
        rows = driver("address", tmp_path / "there", address, **secret)
    assert rows == run(tmp_path / "here", 0)


@pytest.mark.slow
def test_nodes_come_for_a_rollout_work_and_go(tmp_path: Path) -> None:
    """The node types are the recipe's, made small; Ray's fake provider starts their nodes as processes here."""
    pytest.importorskip("ray.autoscaler._private.fake_multi_node.node_provider", reason="this Ray fakes no nodes")
    port, token = free_port(), tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    config = yaml.safe_load((HERE.parents[1] / "deploy" / "autoscaler.yaml").read_text())
    for name, kind in config["available_node_types"].items():
        here = {"CPU": 1, "object_store_memory": 100 * 2**20}
        kind |= {"node_config": {}, "resources": {"CPU": 0} if name == config["head_node_type"] else here}
    types = config["available_node_types"] | {"ray.head.default": config["available_node_types"]["policies"]}
    config |= {
        "available_node_types": types,
        "head_node_type": "ray.head.default",  # the fake provider knows no other
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            **dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True),
        },
        "file_mounts": {},
        **{key: [] for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")},
    }
    (tmp_path / "cluster.json").write_text(json.dumps({**DEFAULTS, **config}))
    secret = {session.TOKEN_PATH: str(token)}
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", session.CLUSTER_SWITCH: "0", **secret}
    with head(port, f"--autoscaling-config={tmp_path / 'cluster.json'}", "--num-cpus=0", **fake) as address:
        told = driver("autoscaled", tmp_path / "there", address, **secret)
    assert told["nodes"] == [1, 4, 1], "before, at most, and after"
    assert told["workers"] == 3, "each of them finished chains"
    assert told["rows"] == run(tmp_path / "here", 0)


@pytest.mark.slow
def test_node_that_is_lost_loses_no_chain(tmp_path: Path) -> None:
    told = driver("node-lost", tmp_path / "cluster")
    assert told["before"] < len(told["rows"])
    assert told["nodes"] == 1
    assert told["restarts"] >= 1, "the node's workers were lost and replaced"
    assert told["rows"] == run(tmp_path / "here", 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_driver_that_ends_in_the_middle_loses_only_what_was_under_way(tmp_path: Path, how: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    command = [sys.executable, str(HERE / "cluster_doubles.py"), "local", str(tmp_path / "there")]
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledger, until = tmp_path / "there" / LEDGER_FILE, time.monotonic() + 120
    while not ledger.exists() or ledger.read_bytes().count(b"solved") < 3:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    started = process.children(recursive=True)
    agents = [child for child in started if "Agent" in child.name()]  # they outlive a killed Ray by minutes
    process.send_signal(how)
    process.wait(60)
    _, left = psutil.wait_procs([child for child in started if child not in agents], timeout=60)
    for agent in agents:
        with contextlib.suppress(psutil.NoSuchProcess):
            agent.kill()
    assert not left, "a dead driver's workers go with it"
    assert 3 <= ledger.read_bytes().count(b"solved") < COUNT
    whole = run(tmp_path / "there", 0, inference="actor", max_batch=4)
    assert whole == run(tmp_path / "here", 0, inference="actor", max_batch=4)


def test_address_that_nobody_answers_is_not_taken_for_a_loopback_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    assert not session._listens_on_loopback_only(f"127.0.0.1:{port}")
    assert not session._listens_on_loopback_only("10.1.2.3:6379")
    assert not session._listens_on_loopback_only("auto")
    assert session.cluster_address("10.1.2.3:6379") == "10.1.2.3:6379"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert session.cluster_address(None) == "head:6379"
    monkeypatch.setattr(session, "_outward_address", lambda: "127.0.0.77")
    with socket.create_server(("127.0.0.1", port)):
        assert session._listens_on_loopback_only(f"localhost:{port}")


def test_token_is_found_where_ray_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (session.TOKEN, session.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not session._has_token()
    monkeypatch.setenv(session.TOKEN, "abc")
    assert session._has_token()
    monkeypatch.delenv(session.TOKEN)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("abc")
    assert session._has_token()
