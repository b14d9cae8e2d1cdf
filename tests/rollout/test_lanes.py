"""How many chains a worker carries: more where it is found idle, never more than there are chains for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rollout_doubles import TASKS, chains

from bench.rollout.lanes import FEWEST, MOST, Lanes
from bench.rollout.sources import PolicySource
from bench.rollout.spent import Meter, Stint
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions


def grown(lanes: Lanes, busy_s: float, wait_s: float, count: int) -> int:
    """Let chains end that need so much time of the worker and wait so long for answers, on a core that they share."""
    for _ in range(count):
        seconds = max(busy_s + wait_s, lanes.number * busy_s)
        lanes.learn(Stint(0.0, seconds, {"busy": busy_s}))
    return lanes.number


@pytest.mark.parametrize(("wait_s", "expected"), [(0.0, FEWEST), (0.9, FEWEST), (1.8, 3), (2.9, MOST), (20.0, MOST)])
def test_idle_workers_get_more_lanes(wait_s: float, expected: int) -> None:
    assert grown(Lanes(None, True, workers=4, chains=1000), 1.0, wait_s, 500) == expected


def test_the_first_chains_say_nothing_for_they_waited_until_the_policy_was_loaded() -> None:
    lanes = Lanes(None, True, workers=4, chains=1000)
    assert grown(lanes, 1.0, 60.0, 2 * 4) == FEWEST
    assert grown(lanes, 1.0, 0.5, 100) == FEWEST


def test_a_number_that_was_asked_for_stays() -> None:
    assert grown(Lanes(1, True, 2, 100), 1.0, 20.0, 90) == 1
    assert grown(Lanes(6, True, 2, 100), 1.0, 0.0, 90) == 6
    assert grown(Lanes(None, False, 2, 100), 1.0, 0.0, 90) == 1


def test_there_are_no_lanes_without_chains() -> None:
    assert Lanes(4, True, workers=8, chains=12).number == 2
    assert grown(Lanes(None, True, workers=8, chains=8), 1.0, 20.0, 90) == 1


def test_rollout_that_widens_gives_the_same_rows(ray_session: Any, tmp_path: Path) -> None:
    def run(out: Path, workers: int, **options: Any) -> Any:
        return roll_out(
            PolicySource("rollout_doubles:LatePolicy"), chains(40), arm="real", seed=3, workers=workers, out=out,
            world=WorldOptions(factory="rollout_doubles:PointWorld"), steps_per_subtask=25, inference="actor",
            max_batch=4, instructions={task: task for task in TASKS}, progress=False, **options,
        )  # fmt: skip

    meter = Meter()
    assert run(tmp_path / "wide", 2, meter=meter) == run(tmp_path / "quiet", 0)
    assert meter.lanes == MOST
