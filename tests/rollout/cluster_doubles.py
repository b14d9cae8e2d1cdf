"""Drivers that the cluster tests start as processes of their own: a process has one Ray, and the tests have theirs.

``python cluster_doubles.py WHAT OUT [ADDRESS]`` prints the finished rows as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rollout_doubles import TASKS, chains

from bench.rollout.sources import PolicySource
from bench.rollout.spent import Meter
from bench.rollout.workers import LEDGER_FILE, roll_out
from bench.rollout.world import WorldOptions

COUNT = 16


def run(out: Path, workers: int, **options: Any) -> list[dict[str, Any]]:
    world = WorldOptions(factory="rollout_doubles:PointWorld", options={"slow_s": options.pop("slow_s", 0.0)})
    rows = roll_out(
        PolicySource("rollout_doubles:NoisyPolicy"), chains(COUNT), arm="real", seed=3, workers=workers, out=out,
        world=world, steps_per_subtask=25, instructions={task: f"please {task}" for task in TASKS}, progress=False,
        **options,
    )  # fmt: skip
    whole: list[dict[str, Any]] = json.loads(json.dumps([{**row.to_json(), "wall_s": 0.0} for row in rows]))
    return whole


STRANGER = """
import sys
from ray.exceptions import AuthenticationError
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1], cluster_id=None)
except AuthenticationError:
    print("refused")
"""


def listening() -> dict[str, Any]:
    """Addresses that this process and those it started listen on, and what somebody without the token is told."""
    import psutil

    me, found = psutil.Process(), set()
    run(Path(sys.argv[2]), 1)
    import ray  # not before: who imports Ray first decides where it listens

    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets = process.net_connections(kind="inet")
            found |= {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
    told = subprocess.run(
        [sys.executable, "-c", STRANGER, ray.get_runtime_context().gcs_address], timeout=60, check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True,
    )  # fmt: skip
    return {"addresses": sorted(found), "stranger": told.stdout.strip()}


def node_lost(out: Path) -> dict[str, Any]:
    """Lose the node that holds two of three workers, and the inference actor's with it or not, in the middle."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    doomed = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    had: list[int] = []

    def lose() -> None:
        ledger = out / LEDGER_FILE
        while not ledger.exists() or ledger.read_bytes().count(b"solved") < 3:
            time.sleep(0.01)
        had.append(ledger.read_bytes().count(b"solved"))
        cluster.remove_node(doomed, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    meter = Meter()
    rows = run(out, 3, slow_s=0.02, lanes=2, inference="actor", max_batch=4, meter=meter)
    thread.join(30)
    until = time.monotonic() + 60
    while (nodes := sum(node["Alive"] for node in ray.nodes())) > 1 and time.monotonic() < until:
        time.sleep(0.2)  # a dead node's workers are missed before the node is
    ray.shutdown()
    cluster.shutdown()
    return {"rows": rows, "before": had[0], "nodes": nodes, "restarts": meter.restarts}


def autoscaled(out: Path, address: str) -> dict[str, Any]:
    """Ask a cluster without a single CPU for three workers, and wait until it is as small as before."""
    from bench.rollout.session import start_ray

    ray = start_ray(address)
    over = threading.Event()
    counts = [_alive(ray)]

    def watch() -> None:
        while not over.wait(0.2):
            counts.append(_alive(ray))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    meter = Meter()
    rows = run(out, 3, slow_s=0.05, ray_address=address, meter=meter)
    over.set()
    thread.join()
    until = time.monotonic() + 90
    while (left := _alive(ray)) > counts[0] and time.monotonic() < until:
        time.sleep(0.5)
    return {"rows": rows, "nodes": [counts[0], max(counts), left], "workers": len(meter.steady())}


def _alive(ray: Any) -> int:
    return sum(node["Alive"] for node in ray.nodes())


def main() -> None:
    what, out = sys.argv[1], Path(sys.argv[2])
    answer: Any
    if what == "listening":
        answer = listening()
    elif what == "node-lost":
        answer = node_lost(out)
    elif what == "autoscaled":
        answer = autoscaled(out, sys.argv[3])
    elif what == "local":
        answer = run(out, 2, slow_s=0.02, lanes=2, inference="actor", max_batch=4)
    else:
        answer = run(out, 2, ray_address=sys.argv[3])
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
