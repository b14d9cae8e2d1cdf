"""The sequence holds the truth at every look as often as it says, and decides what is clear."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench.errors import UserError
from bench.metrics.early_stop import PairedSequence


def differences(rng: np.random.Generator, chains: int, shift: float) -> np.ndarray:
    """Paired differences of two policies of average length about 2.5, the first better by about ``shift``."""
    hard = rng.normal(0, 1, chains)
    one = np.clip(np.round(2.5 + shift + hard + rng.normal(0, 1, chains)), 0, 5)
    other = np.clip(np.round(2.5 + hard + rng.normal(0, 1, chains)), 0, 5)
    return one - other


def balanced(rng: np.random.Generator, chains: int) -> np.ndarray:
    """Differences whose mean over all chains is exactly 0."""
    half = differences(rng, chains // 2, 0.5)
    return rng.permutation(np.concatenate([half, -half]))


def first_decision(values: np.ndarray, level: float) -> tuple[str | None, int]:
    sequence = PairedSequence(len(values), level)
    for value in values:
        verdict = sequence.add(float(value))
        if verdict.decided:
            return verdict.decided, verdict.pairs
    return None, len(values)


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_equal_policies_are_rarely_told_apart_however_often_one_looks(level: float) -> None:
    rng = np.random.default_rng(1)
    runs = 120
    # the last pairs settle the matter for good: at exactly equal means nothing is ever decided rightly
    wrong = sum(first_decision(balanced(rng, 80)[:78], level)[0] is not None for _ in range(runs))
    assert wrong / runs <= level + 2 * np.sqrt(level * (1 - level) / runs)


def test_the_truth_is_inside_at_every_look() -> None:
    rng = np.random.default_rng(2)
    left_out, runs, level = 0, 100, 0.1
    for _ in range(runs):
        values = differences(rng, 80, rng.normal(0, 1))
        sequence = PairedSequence(80, level)
        inside = True
        for value in values[:78]:
            low, high = sequence.add(float(value)).interval
            inside &= low - 0.025 <= values.mean() <= high + 0.025  # half a step between candidates, and some
        left_out += not inside
    assert left_out / runs <= level + 2 * np.sqrt(level * (1 - level) / runs)


def test_clear_difference_is_decided_long_before_the_end() -> None:
    rng = np.random.default_rng(3)
    decisions = [first_decision(differences(rng, 1000, 1.0), 0.05) for _ in range(20)]
    assert {decision for decision, _ in decisions} == {"better"}
    assert np.median([pairs for _, pairs in decisions]) < 150
    worse, pairs = first_decision(-differences(rng, 1000, 1.0), 0.05)
    assert worse == "worse"
    assert pairs < 300


def test_interval_closes_in_on_the_mean_of_all_chains() -> None:
    values = differences(np.random.default_rng(4), 300, 0.4)
    sequence = PairedSequence(300)
    widths = [np.ptp(sequence.add(float(value)).interval) for value in values]
    assert all(later <= earlier for earlier, later in itertools.pairwise(widths))
    verdict = sequence.verdict()
    assert verdict.mean_difference == pytest.approx(values.mean())
    assert verdict.interval[0] - 0.05 <= values.mean() <= verdict.interval[1] + 0.05
    assert widths[-1] < 0.2


def test_missing_pairs_never_help_a_decision() -> None:
    rng = np.random.default_rng(5)
    values = differences(rng, 400, 1.0)
    whole, gaps = PairedSequence(400), PairedSequence(400)
    for number, value in enumerate(values[:200]):
        full = whole.add(float(value))
        holed = gaps.add(None if number % 4 == 0 else float(value))
    assert holed.interval[0] <= full.interval[0]
    assert holed.interval[1] >= full.interval[1]
    nothing = PairedSequence(50)
    for _ in range(50):
        verdict = nothing.add(None)
    assert verdict.decided is None
    assert verdict.interval == (-5.0, 5.0)
    assert verdict.mean_difference is None


def test_verdict_is_plain_data_with_its_method() -> None:
    sequence = PairedSequence(3, 0.1)
    plain = sequence.add(2.0).to_json()
    assert plain["error_level"] == 0.1
    assert (plain["pairs"], plain["of"], plain["mean_difference"]) == (1, 3, 2.0)
    assert "without replacement" in plain["method"]


@pytest.mark.parametrize(("chains", "level"), [(10, 0.0), (10, 0.6), (0, 0.05)])
def test_impossible_sequences_are_refused(chains: int, level: float) -> None:
    with pytest.raises(UserError, match="early stop: expected"):
        PairedSequence(chains, level)


def test_more_pairs_than_chains_are_refused() -> None:
    sequence = PairedSequence(1)
    sequence.add(0.0)
    with pytest.raises(UserError, match="at most 1 pairs"):
        sequence.add(0.0)
