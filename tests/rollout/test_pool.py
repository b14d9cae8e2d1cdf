"""Workers with several chains each, inference actors on several GPUs, and what happens when one of them stops."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rollout_doubles import TASKS, chains

from bench.calvin.instructions import evaluation_instruction
from bench.calvin.tasks import TASKS as CALVIN_TASKS
from bench.rollout import watch
from bench.rollout.actors import ALL_HERE, Job
from bench.rollout.chain import evaluation_chains
from bench.rollout.ledger import Ledger
from bench.rollout.servers import POLICIES_AT_A_TIME, Servers
from bench.rollout.sources import PolicySource
from bench.rollout.workers import LEDGER_FILE, roll_out, roll_out_jobs
from bench.rollout.world import WorldOptions
from policies.config import FlowPolicyConfig
from policies.flow import FlowPolicy

COUNT = 12
TOLD = sorted({evaluation_instruction(task) for task in CALVIN_TASKS})


def run(
    out: Path, workers: int, *, policy: Any = None, slow_s: float = 0.0, trouble: Any = None, **options: Any
) -> Any:
    world = WorldOptions(factory="rollout_doubles:PointWorld", options={"slow_s": slow_s, "trouble": trouble or {}})
    return roll_out(
        policy or PolicySource("rollout_doubles:NoisyPolicy"), chains(COUNT), arm="real", seed=3, workers=workers,
        out=out, world=world, steps_per_subtask=25, instructions={task: f"please {task}" for task in TASKS},
        progress=False, **options,
    )  # fmt: skip


def actors(prefix: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "".join(process.cmdline()).startswith(prefix):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_company_of_a_deadly_chain_is_not_missing(ray_session: Any, tmp_path: Path) -> None:
    quiet = run(tmp_path / "quiet", 0)
    rows = run(tmp_path / "wild", 2, lanes=3, trouble={4: "die"}, slow_s=0.002)
    with Ledger(tmp_path / "wild" / LEDGER_FILE) as ledger:
        assert [chain_id for _, _, chain_id in ledger.missing()] == [4]
    assert rows == [row for row in quiet if row.chain_id != 4]


def test_stopped_worker_is_replaced(ray_session: Any, tmp_path: Path) -> None:
    """A process that SIGSTOP holds has no watchdog of its own; the driver misses its pulse."""
    quiet = run(tmp_path / "quiet", 0)
    victims: list[psutil.Process] = []

    def stop_one() -> None:
        until = time.monotonic() + 60
        ledger = tmp_path / "wild" / LEDGER_FILE
        while not victims and time.monotonic() < until:
            time.sleep(0.02)
            if ledger.exists() and ledger.read_bytes().count(b"solved") >= 2:
                victims.extend(actors("ray::ChainWorker.run")[:1])
                for victim in victims:
                    os.kill(victim.pid, signal.SIGSTOP)

    thread = threading.Thread(target=stop_one)
    thread.start()
    rows = run(tmp_path / "wild", 2, slow_s=0.02, watchdog_s=4.0)
    thread.join()
    assert victims, "no worker was caught at work"
    assert rows == quiet
    _gone, alive = psutil.wait_procs(victims, timeout=30)
    assert not alive


def test_inference_actor_that_hangs_is_replaced(
    ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.rollout.servers.PATIENCE_S", 10.0)  # a replacement must be up by then on a busy machine
    (tmp_path / "mark").mkdir()
    hanging = PolicySource("rollout_doubles:HangingPolicy", {"once": str(tmp_path / "mark")})
    rows = run(tmp_path / "wild", 2, policy=hanging, inference="actor", max_batch=4)
    assert (tmp_path / "mark" / "hung").exists()
    assert rows == run(tmp_path / "quiet", 0)


def test_policy_has_one_actor_on_each_gpu_and_workers_spread(ray_session: Any) -> None:
    servers = Servers(ray_session, max_batch=4)
    try:
        job = Job(PolicySource("rollout_doubles:PlacedPolicy", device="cuda"), "real", 0)
        served = [servers.of(job, worker, set()).policy for worker in range(4)]
        assert {policy.spec.name for policy in served if policy} == {"on GPU 0", "on GPU 1"}
        assert served[0] is served[2]
        assert served[1] is served[3]
        other = Job(PolicySource("rollout_doubles:PlacedPolicy", device="cuda"), "paired", 0)
        servers.prepare(other)
        prepared = list(servers._policies["paired", 0].actors)
        overlapping = {servers.of(other, worker, {("real", 0)}).policy.spec.name for worker in range(2)}  # type: ignore[union-attr]
        assert overlapping == {"on GPU 0", "on GPU 1"}
        assert servers._policies["paired", 0].actors == prepared, "what was loaded beforehand is what is asked"
        assert servers.of(Job(PolicySource("expert"), "expert", 0), 0, set()) == ALL_HERE
    finally:
        servers.close()
    assert len(servers.statistics) == 4


def test_more_policies_than_a_gpu_holds_take_turns(ray_session: Any, tmp_path: Path) -> None:
    """Five policies with one chain each would fit into the worker at once, but not on the GPU."""
    source = PolicySource("rollout_doubles:PlacedPolicy", device="cuda")
    rows = roll_out_jobs(
        [Job(source, "real", seed) for seed in range(5)], chains(1), workers=1, lanes=5, out=tmp_path,
        world=WorldOptions(factory="rollout_doubles:PointWorld", options={"slow_s": 0.01}), inference="actor",
        servers=1, max_batch=2, steps_per_subtask=25, instructions={task: task for task in TASKS}, progress=False,
    )  # fmt: skip
    assert [row.seed for row in rows] == list(range(5))


def test_policy_has_room_where_it_is_served_already_or_few_others_are(ray_session: Any) -> None:
    servers = Servers(ray_session, max_batch=4)
    job, expert = Job(PolicySource("somewhere:policy"), "real", 9), Job(PolicySource("expert"), "expert", 0)
    full = {("real", seed) for seed in range(POLICIES_AT_A_TIME)}
    assert not servers.has_room(job, full)
    assert servers.has_room(job, full - {("real", 0)})
    assert servers.has_room(expert, full)
    assert Servers(ray_session, max_batch=0).has_room(job, full)


def test_rollout_ends_where_enough_is_known(ray_session: Any, tmp_path: Path) -> None:
    rows = run(tmp_path, 2, lanes=2, until=lambda ledger: len(ledger.completed()) >= 3)
    assert 3 <= len(rows) < COUNT
    assert watch.look(tmp_path)["state"] == "finished"
    assert len(run(tmp_path, 2, until=lambda ledger: True)) == len(rows)
    assert run(tmp_path, 0) == run(tmp_path / "quiet", 0)
    assert watch.look(tmp_path)["state"] == "finished"


@pytest.mark.slow
def test_real_trajectories_are_the_same_to_the_bit_for_any_workers_and_lanes(ray_session: Any, tmp_path: Path) -> None:
    FlowPolicy.initial(FlowPolicyConfig.preset("tiny"), "real", TOLD).save_pretrained(tmp_path / "policy")
    chains_of_calvin = evaluation_chains(4)
    traces = []
    for number, (workers, lanes) in enumerate([(0, 1), (1, 4), (2, 1)]):
        rows = roll_out(
            PolicySource(str(tmp_path / "policy")), chains_of_calvin, arm="real", seed=0, workers=workers, lanes=lanes,
            out=tmp_path / str(number), inference="actor", max_batch=4, steps_per_subtask=24, progress=False,
        )  # fmt: skip
        traces.append([row.trace for row in rows])
    assert traces[0] == traces[1] == traces[2]
    assert len(set(traces[0])) == 4
