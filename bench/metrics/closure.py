"""The number of this project: the share of the gap between anchor-only and real-wrist policies that an arm closes.

closure = (L_arm − L_anchor) / (L_real − L_anchor), L the average length.  A ratio whose denominator may be zero is no
number: none is given unless the paired interval of L_real − L_anchor lies above zero.  Its own interval is
bootstrapped over chains and training seeds, with the same draw for the three arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from bench.errors import UserError
from bench.metrics.resampling import (
    CONFIDENCE,
    RESAMPLES,
    Row,
    Table,
    grid,
    percentile_interval,
    resampled_means,
    table,
)

MIN_CHAINS = 10
"""Below this a bootstrap interval over chains is far too narrow to decide anything."""


@dataclass(frozen=True)
class Difference:
    """A paired difference of average lengths.

    Attributes:
        value: mean difference, in subtasks.
        interval: 95 % of it.
    """

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Closure:
    """How much of the gap one arm closes, or why that cannot be said.

    Attributes:
        value: share of the gap closed, 1.0 for all of it; None where none may be printed.
        interval: 95 % of it, or None.
        reason: why there is no value, in words; "" where there is one.
        gain: L_arm − L_anchor, or None where the arms cannot be paired.
        gap: L_real − L_anchor, or None likewise.
        relative_gain: (L_arm − L_anchor) / L_anchor, or None where L_anchor is 0.
        relative_gain_interval: 95 % of it, or None.
        chains: chains that the comparison rests on.
        seeds: training seeds that it rests on.
    """

    value: float | None
    interval: tuple[float, float] | None
    reason: str = ""
    gain: Difference | None = None
    gap: Difference | None = None
    relative_gain: float | None = None
    relative_gain_interval: tuple[float, float] | None = None
    chains: int = 0
    seeds: int = 0

    def __post_init__(self) -> None:
        """Refuse a value with a reason against it, and none without."""
        if (self.value is None) != bool(self.reason) or (self.value is None) != (self.interval is None):
            raise UserError(f"closure {self.value} with interval {self.interval} and reason {self.reason!r}: pick one")

    def to_json(self) -> dict[str, Any]:
        """Return the closure as plain JSON data."""
        plain = asdict(self)
        for name in ("interval", "relative_gain_interval"):
            plain[name] = None if plain[name] is None else list(plain[name])
        for name in ("gain", "gap"):
            if plain[name] is not None:
                plain[name]["interval"] = list(plain[name]["interval"])
        return plain


def gap_closure(
    anchor: Sequence[Row] | None,
    arm: Sequence[Row] | None,
    real: Sequence[Row] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Closure:
    """Return the share of the gap that ``arm`` closes; never raises over data, but says why there is no value.

    Args:
        anchor: finished chains of the arm without a wrist view.
        arm: those of the arm in question.
        real: those of the arm with the real wrist view.
        resamples: bootstrap resamples.
        seed: seeds the bootstrap.
    """
    tables = {"anchor": table(anchor or ()), "the arm": table(arm or ()), "real": table(real or ())}
    obstacle = _obstacle(tables)
    if obstacle:
        return Closure(None, None, obstacle)
    values = np.stack([grid(scores) for scores in tables.values()])  # (3, S, C)
    seeds, chains = values.shape[1:]
    sample = resampled_means(values, resamples=resamples, seed=seed)  # (R, 3)
    means, counts = values.mean(axis=(1, 2)), {"chains": chains, "seeds": seeds}
    gain = Difference(float(means[1] - means[0]), percentile_interval(sample[:, 1] - sample[:, 0]))
    gap = Difference(float(means[2] - means[0]), percentile_interval(sample[:, 2] - sample[:, 0]))
    relative: dict[str, Any] = {"gain": gain, "gap": gap, **_relative_gain(means, sample)}
    may_be_zero = gap.interval[0] <= 0 or (sample[:, 2] <= sample[:, 0]).mean() > (1 - CONFIDENCE) / 2
    if may_be_zero or chains < MIN_CHAINS:
        return Closure(None, None, _no_gap(gap, chains), **relative, **counts)
    return Closure(gain.value / gap.value, _ratio_interval(sample), "", **relative, **counts)


def paired_difference(
    first: Sequence[Row], second: Sequence[Row], *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Return L_second − L_first over the same chains and seeds.

    Raises:
        UserError: the two were not run on the same chains and seeds.
    """
    tables = {"the first arm": table(first), "the second arm": table(second)}
    obstacle = _obstacle(tables)
    if obstacle:
        raise UserError(f"no paired difference: {obstacle}")
    values = np.stack([grid(scores) for scores in tables.values()])  # (2, S, C)
    sample = resampled_means(values, resamples=resamples, seed=seed)
    means = values.mean(axis=(1, 2))
    return Difference(float(means[1] - means[0]), percentile_interval(sample[:, 1] - sample[:, 0]))


def chains_needed(difference: float, paired_sd: float, *, power: float = 0.8, confidence: float = CONFIDENCE) -> int:
    """Return how many chains show a paired difference of average lengths, with one training seed.

    Args:
        difference: the true difference, in subtasks.
        paired_sd: standard deviation over chains of the difference within a chain.
        power: probability of an interval that excludes zero.
        confidence: of that interval.

    Raises:
        UserError: the difference is 0, which no number of chains shows.
    """
    if difference == 0:
        raise UserError("chains needed: expected a difference other than 0, which no number of chains can show")
    z = norm.ppf(0.5 + confidence / 2) + norm.ppf(power)
    return math.ceil((z * paired_sd / difference) ** 2)


def _obstacle(tables: Mapping[str, Table]) -> str:
    """Return why these arms cannot be paired, or ""."""
    absent = [name for name, scores in tables.items() if not scores]
    if absent:
        return f"no finished chains for {' and '.join(absent)}"
    everything = set().union(*tables.values())
    whole = {(s, c) for s in {seed for seed, _ in everything} for c in {chain for _, chain in everything}}
    lacking = {name: len(whole - set(scores)) for name, scores in tables.items() if whole - set(scores)}
    if lacking:
        counts = ", ".join(f"{name} lacks {count}" for name, count in lacking.items())
        return f"the arms were not run on the same chains and seeds ({counts} of {len(whole)}); run again to fill them"
    return ""


def _relative_gain(means: np.ndarray, sample: np.ndarray) -> dict[str, Any]:
    if means[0] <= 0 or (sample[:, 0] <= 0).any():
        return {}
    ratios = sample[:, 1] / sample[:, 0] - 1
    return {
        "relative_gain": float(means[1] / means[0] - 1),
        "relative_gain_interval": percentile_interval(ratios),
    }


def _no_gap(gap: Difference, chains: int) -> str:
    low, high = gap.interval
    if chains < MIN_CHAINS:
        return f"{chains} chains are too few to resample, at least {MIN_CHAINS} are needed"
    spread = f"95 % interval {low:+.2f} to {high:+.2f}" if low < high else "the same in every draw of chains"
    return f"the gap between real and anchor is not clearly above zero ({gap.value:+.2f} subtasks, {spread})"


def _ratio_interval(sample: np.ndarray) -> tuple[float, float]:
    """Return the interval of the ratio; draws whose gap is not positive count as extreme on the side of their gain.

    There are fewer of those than either tail holds, or no ratio would have been formed, so the bounds are finite.
    """
    gain, gap = sample[:, 1] - sample[:, 0], sample[:, 2] - sample[:, 0]
    positive = gap > 0
    ratios = np.where(positive, gain / np.where(positive, gap, 1.0), np.where(gain > 0, np.inf, -np.inf))
    tail = 50 * (1 - CONFIDENCE)
    low = np.percentile(ratios, tail, method="inverted_cdf")
    high = np.percentile(ratios, 100 - tail, method="inverted_cdf")
    return float(low), float(high)
