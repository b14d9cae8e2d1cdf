"""An arm's numbers against hand counts, closed forms and published tables."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.errors import UserError
from bench.metrics.resampling import percentile_interval, resampled_means
from bench.metrics.success import average_length, summarise, task_rates, wilson


class Row(NamedTuple):
    chain_id: int
    seed: int
    solved: int
    tasks: tuple[str, ...] = ("a", "b", "c", "d", "e")


def rows(solved: list[int], seed: int = 0) -> list[Row]:
    return [Row(i, seed, n) for i, n in enumerate(solved)]


def test_published_rates_add_up_to_the_published_length() -> None:
    assert average_length([0.965, 0.909, 0.866, 0.820, 0.769]) == pytest.approx(4.329)


def test_length_is_the_sum_of_the_chain_success() -> None:
    summary = summarise(rows([5, 0, 2, 3, 3, 1]))
    assert summary.average_length == pytest.approx(14 / 6)
    assert summary.chain_success == pytest.approx([5 / 6, 4 / 6, 3 / 6, 1 / 6, 1 / 6])
    assert average_length(summary.chain_success) == pytest.approx(summary.average_length)
    assert (summary.chains, summary.seeds, summary.missing, summary.bounds) == (6, (0,), 0, (14 / 6, 14 / 6))


def test_interval_matches_the_normal_one_on_many_chains() -> None:
    solved = np.random.default_rng(0).integers(0, 6, 800)
    low, high = summarise(rows(solved.tolist())).interval
    half = 1.96 * solved.std() / np.sqrt(800)
    assert (low, high) == pytest.approx((solved.mean() - half, solved.mean() + half), abs=0.02)


def test_lucky_seeds_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    seeds = [rows(rng.binomial(5, share, 200).tolist(), seed) for seed, share in enumerate((0.3, 0.5, 0.7))]
    low, high = summarise([row for seed in seeds for row in seed]).interval
    pooled = summarise(rows([row.solved for seed in seeds for row in seed])).interval
    assert high - low > 3 * (pooled[1] - pooled[0])


def test_summary_is_reproducible_and_the_order_of_rows_is_nothing() -> None:
    some = rows([5, 0, 2, 3, 3, 1]) + rows([4, 1, 2, 3, 0, 1], seed=7)
    assert summarise(some) == summarise(some[::-1])


def test_missing_chains_are_bounded_and_not_zero() -> None:
    summary = summarise(rows([4, 4, 4, 4]), expected=5)
    assert summary.average_length == 4.0
    assert (summary.missing, summary.bounds) == (1, (16 / 5, 21 / 5))


def test_seed_with_a_missing_chain_keeps_the_others() -> None:
    summary = summarise(rows([1, 2] * 20 + [5]) + rows([1, 2] * 20, seed=1), expected=82)
    assert (summary.chains, summary.seeds, summary.missing) == (41, (0, 1), 1)
    assert summary.average_length == pytest.approx(125 / 81)
    whole = summarise(rows([1, 2] * 20) + rows([1, 2] * 20, seed=1))
    assert summary.interval == whole.interval  # the chain that one seed lacks cannot be drawn for both


def test_one_lucky_chain_does_not_make_an_interval_narrower_than_none_does() -> None:
    none, one = summarise(rows([0] * 10)).interval, summarise(rows([0] * 9 + [1])).interval
    assert none[1] < one[1] < 2
    many = summarise(rows([0] * 900 + [1] * 100)).interval
    assert many == pytest.approx((0.082, 0.119 + 4 * wilson(0, 1000)[1]), abs=0.003)


def test_tasks_after_the_first_failure_were_not_tried() -> None:
    rates = task_rates(rows([5, 0, 2]))
    assert [(name, rate.attempts, rate.successes) for name, rate in rates.items()] == [
        ("a", 3, 2), ("b", 2, 2), ("c", 2, 1), ("d", 1, 1), ("e", 1, 1),
    ]  # fmt: skip
    families = summarise(rows([5, 0, 2]), families={"a": "x", "b": "x", "c": "y", "d": "y", "e": "y"}).families
    assert {name: (rate.attempts, rate.successes) for name, rate in families.items()} == {"x": (5, 4), "y": (4, 3)}


@pytest.mark.parametrize(("successes", "attempts"), [(0, 10), (10, 10), (3, 17), (500, 1000)])
def test_wilson_is_scipys(successes: int, attempts: int) -> None:
    expected = binomtest(successes, attempts).proportion_ci(method="wilson")
    assert wilson(successes, attempts) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_tried_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_mean_and_spread_are_the_crossed_ones() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(4, 1)) + rng.normal(size=(1, 50)) * 2
    sample = resampled_means(values[None], resamples=20_000)[:, 0]
    assert sample.mean() == pytest.approx(values.mean(), abs=0.02)
    expected = values.mean(axis=1).var() / 4 + values.mean(axis=0).var() / 50
    assert sample.var() == pytest.approx(expected, rel=0.05)
    assert percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))


def test_same_draw_for_all_quantities() -> None:
    values = np.random.default_rng(3).normal(size=(2, 3, 20))
    values[1] = values[0] + 1
    sample = resampled_means(values, resamples=100)
    assert sample[:, 1] - sample[:, 0] == pytest.approx(np.ones(100))


@pytest.mark.parametrize(
    ("given", "expected", "message"),
    [
        ([], None, "no finished chain"),
        (rows([1]) * 2, None, "two rows"),
        (rows([1, 2]), 1, "expected 1 chains over all seeds, got 2"),
        ([Row(0, 0, 6, ("a",) * 6)], None, "at most 5 subtasks"),
    ],
)
def test_impossible_rows_are_refused(given: list[Row], expected: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        summarise(given, expected=expected)


def test_summary_is_plain_json() -> None:
    summary = summarise(rows([5, 0, 2]), families=dict.fromkeys("abcde", "all"), expected=4)
    plain = summary.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["tasks"]["a"]["attempts"] == 3


@pytest.mark.parametrize("score", [0, 2, 5])
def test_a_dozen_equal_scores_are_no_certainty(score: int) -> None:
    low, high = summarise(rows([score] * 12)).interval
    assert low <= score <= high
    assert high - low > 0.9
    wider = summarise(rows([score] * 1000)).interval
    assert wider[1] - wider[0] < 0.03
