"""The measurement: what its numbers must add up to; never how large they are."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np
import psutil
import pytest
from rollout_doubles import NoisyPolicy

from bench.errors import UserError
from bench.perf.cores import CoreWatch, own_speed
from bench.perf.rollout import PerfOptions, Slow, _agree, measure, rows, slowed, summary
from bench.rollout.chain import ChainResult
from bench.rollout.spent import Meter, Stint, TimedWorld
from bench.rollout.world import WorldOptions
from policies.api import Observation

WORKED = {"physics": 2.0, "drawing": 1.0, "oracle": 0.5, "busy": 4.0, "waiting": 1.0, "requests": 10.0, "steps": 100.0}


def meter() -> Meter:
    """Two workers; after its first chain one gave two chains 8 s of 10, the other one chain 5 s of 5."""
    book = Meter()
    book.ready()
    for began, ended in ((90.0, 100.0), (100.0, 105.0), (105.0, 110.0)):
        book.add(1, Stint(began, ended, WORKED))
    book.add(2, Stint(1.0, 7.0, WORKED))
    book.add(2, Stint(7.0, 12.0, {**WORKED, "busy": 5.0}))
    book.served(
        [
            {"batches": 3, "batch_fill": 0.5, "queue_p50_ms": 1.0, "queue_p95_ms": 2.0, "predict_p50_ms": 30.0,
             "queue_mean_ms": 10.0, "predict_mean_ms": 40.0, "busy_s": 0.12},
            {"batches": 0, "batch_fill": None, "queue_p50_ms": None, "queue_p95_ms": None, "predict_p50_ms": None,
             "queue_mean_ms": None, "predict_mean_ms": None, "busy_s": 0.0},
        ]
    )  # fmt: skip
    return book


def test_shares_add_up_and_rates_are_those_of_the_steady_time() -> None:
    result = summary(meter())
    assert sum(result["shares"].values()) == pytest.approx(1.0)
    assert result["shares"]["physics"] == pytest.approx(6 / 15)
    assert result["shares"]["inference"] == pytest.approx(1 / 15)  # of 2 s idle, half of each wait is queue and forward
    assert result["shares"]["transport"] == pytest.approx(1 / 15)
    assert result["env_steps_per_s"] == pytest.approx(200 / 10 + 100 / 5)
    assert result["overhead_us_per_step"] == pytest.approx(1e6 * (13 - 10.5) / 300)
    assert (result["request_ms"], result["transport_ms"]) == (pytest.approx(100.0), pytest.approx(50.0))
    assert (result["batch_fill"], result["predict_p50_ms"], result["servers"]) == (0.5, 30.0, 2)
    assert (result["chains"], result["steps"], result["requests"]) == (5, 500, 30)


def test_worker_whose_chains_all_began_at_once_is_taken_whole() -> None:
    book = Meter()
    book.add(4, Stint(0.0, 8.0, WORKED))
    book.add(4, Stint(1.0, 10.0, WORKED))
    (stint,) = book.steady()
    assert (stint.began, stint.ended, stint.spent["steps"]) == (0.0, 10.0, 200.0)


def test_cores_are_those_that_a_process_burns() -> None:
    with CoreWatch() as watch:
        began = time.perf_counter()
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(3.5)
        burner.kill()
        burner.wait()
        ended = time.perf_counter()
    cores = watch.cores(began, ended)
    assert set(cores) == {"driver", "ray"}
    assert cores["ray"] > 5 * cores["driver"]
    assert watch.cores(ended, ended) == {}


def test_more_processes_than_cores_are_slower_each() -> None:
    cores = len(psutil.Process().cpu_affinity())
    speeds = own_speed([1, 4 * cores])
    assert list(speeds) == [1, 4 * cores]
    assert speeds[1] == 1.0
    assert 0.0 < speeds[4 * cores] < 0.7


def test_timed_world_is_the_world_and_counts() -> None:
    class World:
        secret = 7

        def step(self, action: Any, render_views: bool = True) -> tuple[Any, ...]:
            return (action, render_views)

        def views(self) -> dict[str, Any]:
            return {"rgb_static": 1}

    timed = TimedWorld(World())  # type: ignore[arg-type]
    assert timed.step(3, render_views=False) == (3, False)  # type: ignore[arg-type]
    assert timed.views() == {"rgb_static": 1}
    assert timed.secret == 7
    assert timed.spent["steps"] == 1
    assert set(timed.spent) == {"physics", "drawing", "steps"}
    timed.close()


def test_process_that_ends_while_it_is_looked_at_is_counted_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(process: psutil.Process) -> list[str]:
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setattr(psutil.Process, "cmdline", gone)
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    totals = CoreWatch()._sample()
    burner.kill()
    burner.wait()
    assert set(totals) == {"driver", "ray"}


def test_slow_policy_answers_the_same_later(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    policy, fast = Slow(NoisyPolicy(), 5.0), NoisyPolicy()
    assert policy.spec == fast.spec
    seen = Observation({"anchor": np.full((4, 4, 3), 3, np.uint8)}, "go")
    assert (policy.act([seen], [1]) == fast.act([seen], [1])).all()
    assert 4.0 < naps[0] <= 5.0
    with pytest.raises(UserError, match="is no network"):
        slowed("expert", "cpu", 1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": (2, 0)}, "at least 1 worker"),
        ({"chains": 1001}, "1 to 1000 chains"),
        ({"batch": 0}, "a batch of at least 1"),
        ({"policy": "random", "slow_policy_ms": 5.0}, "cannot be slowed"),
    ],
)
def test_impossible_measurements_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PerfOptions(**wrong)


def test_rows_that_differ_between_runs_are_noticed() -> None:
    one, other = (ChainResult(4, "real", 0, ("a", "b"), solved, (7,) * 2) for solved in (1, 2))
    assert _agree([[one], [one], []])
    assert not _agree([[one], [other]])


def test_workers_are_measured_on_the_real_world(ray_session: Any) -> None:
    options = PerfOptions(policy="tiny", workers=(2,), chains=3, steps_per_subtask=12, inference="actor", batch=2)
    result = measure(options, WorldOptions(renderer="bullet-tiny"))
    assert result["same_rows"] is True
    assert [run["workers"] for run in result["runs"]] == [2]
    for run in result["runs"]:
        assert (run["chains"], run["steps"], run["requests"]) == (3, 36, 6)
        assert sum(run["shares"].values()) == pytest.approx(1.0)
        assert min(run["shares"].values()) >= 0
        assert 0 < run["batch_fill"] <= 1
        assert run["chains_per_hour"] > 0
    assert result["runs"][0]["efficiency"] == 1.0
    table = {line[0]: line[1:] for line in rows(result)}
    assert (table["workers"], table["chains"], table["efficiency"]) == (["2"], ["3"], ["1.00"])
    shares = [float(cells[0].rstrip("%")) for name, cells in table.items() if name.startswith("shares: ")]
    assert sum(shares) == pytest.approx(100, abs=1)
