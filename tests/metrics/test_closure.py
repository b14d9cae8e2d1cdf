"""Gap closure: the published ratio, honest refusals, and intervals that cover the truth."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest

from bench.errors import UserError
from bench.metrics.closure import Closure, chains_needed, gap_closure, paired_difference


class Row(NamedTuple):
    chain_id: int
    seed: int
    solved: int


def rows(solved: np.ndarray | list[int], seed: int = 0) -> list[Row]:
    return [Row(i, seed, int(n)) for i, n in enumerate(solved)]


def with_mean(mean: float, chains: int = 100) -> np.ndarray:
    """Scores of 3, 4 and 5 with exactly this mean, in the same order of difficulty in every arm."""
    total = round(mean * chains)
    low = total // chains
    return np.sort(np.full(chains, low) + (np.arange(chains) < total - low * chains))


def simulated(
    rng: np.random.Generator, lengths: tuple[float, float, float], chains: int, seeds: int
) -> list[list[Row]]:
    """Three arms on chains of unequal difficulty that all arms share, with unequal luck of training."""
    difficulty = rng.normal(0, 0.8, chains)
    arms = []
    for length in lengths:
        score = length + difficulty + rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.6, (seeds, chains))
        whole = np.floor(score + rng.random((seeds, chains)))  # unbiased rounding, so the means are known
        arms.append([Row(c, s, int(whole[s, c])) for s in range(seeds) for c in range(chains)])
    return arms


def test_published_triple() -> None:
    closure = gap_closure(rows(with_mean(3.67)), rows(with_mean(3.81)), rows(with_mean(4.00)))
    assert closure.reason == ""
    assert closure.value == pytest.approx(0.424, abs=5e-4)
    assert closure.relative_gain == pytest.approx(0.0381, abs=5e-5)
    assert closure.gain is not None
    assert closure.gain.value == pytest.approx(0.14)
    assert (closure.chains, closure.seeds) == (100, 1)


def test_arm_as_good_as_real_closes_all_and_anchor_none() -> None:
    anchor, _, real = simulated(np.random.default_rng(0), (2.0, 2.0, 3.0), 200, 2)
    everything, nothing = gap_closure(anchor, real, real), gap_closure(anchor, anchor, real)
    assert (everything.value, everything.interval) == (1.0, (1.0, 1.0))
    assert (nothing.value, nothing.interval) == (0.0, (0.0, 0.0))


def test_identical_arms_have_no_closure() -> None:
    same = rows(np.random.default_rng(1).integers(0, 6, 500))
    closure = gap_closure(same, same, same)
    assert closure.value is None
    assert "not clearly above zero (+0.00 subtasks" in closure.reason
    assert closure.gap is not None
    assert closure.gap.interval == (0.0, 0.0)


def test_gap_that_noise_may_explain_has_no_closure() -> None:
    rng = np.random.default_rng(2)
    arms = [rows(rng.integers(0, 6, 50)) for _ in range(3)]
    closure = gap_closure(*arms)
    assert closure.value is None
    assert closure.interval is None
    assert closure.gap is not None
    assert closure.gap.interval[0] <= 0


def test_real_worse_than_anchor_has_no_closure() -> None:
    closure = gap_closure(rows(with_mean(4.0)), rows(with_mean(3.8)), rows(with_mean(3.5)))
    assert closure.value is None


def test_pairing_decides_what_chains_alone_could_not() -> None:
    difficulty = np.random.default_rng(3).integers(0, 5, 300)
    anchor, real = rows(difficulty), rows(difficulty + (np.arange(300) % 10 == 0))
    assert gap_closure(anchor, real, real).value == 1.0  # a gap of 0.1 with a spread of 1.4 between chains


def test_few_chains_are_not_resampled() -> None:
    closure = gap_closure(rows([0] * 4), rows([3] * 4), rows([5] * 4))
    assert closure.value is None
    assert "4 chains are too few" in closure.reason


@pytest.mark.parametrize(
    ("arms", "reason"),
    [
        ((None, rows([1] * 20), rows([2] * 20)), "no finished chains for anchor"),
        ((rows([1] * 20), [], None), "no finished chains for the arm and real"),
        ((rows([1] * 20), rows([1] * 20), rows([2] * 19)), r"real lacks 1 of 20"),
        ((rows([1] * 20), rows([1] * 20, seed=1), rows([2] * 20)), "anchor lacks 20, the arm lacks 20, real lacks 20"),
    ],
)
def test_arms_that_cannot_be_paired_have_no_closure(arms: tuple[list[Row] | None, ...], reason: str) -> None:
    closure = gap_closure(*arms)
    assert closure.value is None
    assert reason in closure.reason
    assert closure.gap is None


def test_anchor_that_never_succeeds_has_no_relative_gain() -> None:
    closure = gap_closure(rows([0] * 50), rows([1, 2] * 25), rows([3, 4] * 25))
    assert closure.relative_gain is None
    assert closure.value == pytest.approx(1.5 / 3.5)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    truth, covered, printed = 0.4, 0, 0
    for _ in range(120):
        closure = gap_closure(*simulated(rng, (20.0, 20.4, 21.0), 150, 3), resamples=500)
        if closure.interval is not None:
            printed += 1
            covered += closure.interval[0] <= truth <= closure.interval[1]
    assert printed == 120
    assert 0.87 <= covered / printed <= 1.0


def test_gap_of_zero_is_printed_rarely() -> None:
    rng = np.random.default_rng(5)
    printed = sum(
        gap_closure(*simulated(rng, (20.0, 20.0, 20.0), 100, 1), resamples=400).value is not None for _ in range(150)
    )
    assert printed / 150 <= 0.07


def test_bounds_are_finite_when_the_gap_is_barely_clear() -> None:
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(200):
        closure = gap_closure(*simulated(rng, (20.0, 20.1, 20.17), 60, 1), resamples=200)
        if closure.interval is not None:
            found += 1
            assert np.isfinite(closure.interval).all()
            assert closure.interval[0] <= closure.interval[1]
    assert found > 10


def test_result_is_reproducible_and_plain_json() -> None:
    arms = simulated(np.random.default_rng(7), (2.0, 2.5, 3.0), 60, 2)
    first = gap_closure(*arms)
    assert first == gap_closure(*[arm[::-1] for arm in arms])
    plain = first.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    refused = gap_closure(None, None, None).to_json()
    assert refused["value"] is None
    assert json.loads(json.dumps(refused, allow_nan=False)) == refused


def test_value_needs_no_reason_and_none_needs_one() -> None:
    with pytest.raises(UserError, match="pick one"):
        Closure(None, None)
    with pytest.raises(UserError, match="pick one"):
        Closure(0.4, (0.1, 0.7), "because")


def test_paired_difference() -> None:
    difference = paired_difference(rows([0, 1, 2] * 20), rows([1, 2, 3] * 20))
    assert (difference.value, *difference.interval) == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="the second arm lacks 1 of 3"):
        paired_difference(rows([0, 1, 2]), rows([0, 1]))


def test_planner() -> None:
    assert chains_needed(0.14, 1.7) == pytest.approx(1158, abs=2)
    assert chains_needed(0.28, 1.7) == pytest.approx(chains_needed(0.14, 1.7) / 4, abs=1)
    with pytest.raises(UserError, match="other than 0"):
        chains_needed(0, 1.0)
