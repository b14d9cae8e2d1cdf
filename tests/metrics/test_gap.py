"""The gap by kind of subtask: shares of attempts, intervals that cover, nothing said of what was hardly tried."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.gap import gap
from bench.rollout.chain import ChainResult

FAMILY = {"open": "drawer", "lift": "block", "turn": "light"}


def chain(number: int, arm: str, solved: int, seed: int = 0, tasks: tuple[str, ...] = ("open", "lift")) -> ChainResult:
    return ChainResult(number, arm, seed, tasks, solved, (1,) * min(solved + 1, len(tasks)))


def test_shares_are_of_attempts_and_the_whole_gap_is_of_lengths() -> None:
    anchor = [chain(i, "anchor", 1 if i < 30 else 0) for i in range(40)]
    real = [chain(i, "real", 2 if i < 20 else 1) for i in range(40)]
    found = gap(anchor, real, FAMILY)
    assert found is not None
    assert found["value"] == pytest.approx(1.5 - 0.75)
    assert (found["chains"], found["seeds"]) == (40, 1)
    assert found["tasks"]["open"]["value"] == pytest.approx(1.0 - 0.75)
    assert found["tasks"]["lift"]["value"] == pytest.approx(20 / 40 - 0 / 30)
    assert found["families"]["block"] == found["tasks"]["lift"]
    low, high = found["tasks"]["lift"]["interval"]
    assert low < 0.5 < high
    assert found["tasks"] == gap(anchor, real, FAMILY)["tasks"], "the same draw each time"  # type: ignore[index]


def test_the_interval_covers_the_true_difference_and_luck_of_training_widens_it() -> None:
    rng, hits, runs = np.random.default_rng(0), 0, 40
    for _ in range(runs):
        rows = [
            [chain(i, arm, int(rng.random() < share), tasks=("open",)) for i in range(120)]
            for arm, share in (("anchor", 0.3), ("real", 0.5))
        ]
        low, high = gap(*rows, FAMILY, resamples=400)["tasks"]["open"]["interval"]  # type: ignore[index]
        hits += low <= 0.2 <= high
    assert hits >= 0.85 * runs
    lucky = {0: 0.2, 1: 0.8}
    real = [chain(i, "real", int(rng.random() < lucky[s]), s, ("open",)) for s in lucky for i in range(120)]
    anchor = [chain(i, "anchor", int(rng.random() < 0.3), s, ("open",)) for s in lucky for i in range(120)]
    low, high = gap(anchor, real, FAMILY)["tasks"]["open"]["interval"]  # type: ignore[index]
    assert high - low > 0.4


def test_nothing_is_said_of_what_was_hardly_tried() -> None:
    tasks = ("open", "lift")
    anchor = [chain(i, "anchor", int(i % 2), tasks=tasks) for i in range(18)]
    real = [chain(i, "real", 1 if i < 4 else 0, tasks=tasks) for i in range(18)] + [chain(99, "real", 2, tasks=tasks)]
    found = gap(anchor, real, FAMILY)
    assert found is not None
    assert found["chains"] == 18, "the chain that one arm alone has is left out"
    assert found["tasks"]["open"]["interval"] is not None
    assert found["tasks"]["lift"] == {"value": 0.0, "interval": None}, "nine and four attempts"
    never = gap([chain(i, "anchor", 0, tasks=tasks) for i in range(18)], real, FAMILY)
    assert never is not None
    assert never["tasks"]["lift"] == {"value": None, "interval": None}, "anchor attempted none"
    same = gap(anchor, [chain(row.chain_id, "real", row.solved, tasks=tasks) for row in anchor], FAMILY)
    assert same is not None
    assert same["tasks"]["open"] == {"value": 0.0, "interval": None}, "no draw differs: that is no certainty"
    assert (same["value"], same["interval"]) == (0.0, None)
    few = gap(anchor[:9], real[:9], FAMILY)
    assert few is not None
    assert few["interval"] is None


def test_without_both_arms_there_is_no_gap() -> None:
    rows = [chain(0, "real", 1)]
    assert gap([], rows, FAMILY) is None
    assert gap([chain(1, "anchor", 1)], rows, FAMILY) is None
    assert gap([chain(0, "anchor", 1, seed=1)], rows, FAMILY) is None
