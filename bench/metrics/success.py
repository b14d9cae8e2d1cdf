"""From chain results to an arm's numbers: average length, chain success, success by task and family.

The definitions are CALVIN's (``calvin_agent/evaluation/utils.py: count_success``): a chain scores the number of
subtasks solved in a row, the average length is the mean over chains, and i/5 is the share that solved at least i.
The intervals are ours.  A chain that could not be run has no score: it is counted as missing and bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from scipy.stats import norm

from bench.errors import UserError
from bench.metrics.resampling import CONFIDENCE, RESAMPLES, grid, percentile_interval, resampled_means, table

CHAIN_LENGTH = 5


class ChainRow(Protocol):
    """What is read of a ``ChainResult``."""

    @property
    def chain_id(self) -> int:
        """Which chain."""
        ...

    @property
    def seed(self) -> int:
        """Training seed."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The subtasks, in order."""
        ...

    @property
    def solved(self) -> int:
        """Subtasks solved in a row."""
        ...


@dataclass(frozen=True)
class Rate:
    """How often something that was tried succeeded.

    Attributes:
        attempts: how often it was tried.
        successes: how often it succeeded.
    """

    attempts: int
    successes: int

    @property
    def rate(self) -> float:
        """Share of attempts that succeeded; NaN for none."""
        return self.successes / self.attempts if self.attempts else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate."""
        return wilson(self.successes, self.attempts)

    def to_json(self) -> dict[str, Any]:
        """Return the rate as plain JSON data."""
        return {
            "attempts": self.attempts,
            "successes": self.successes,
            "rate": self.rate if self.attempts else None,
            "interval": list(self.interval),
        }


@dataclass(frozen=True)
class ArmSummary:
    """One arm's row of the table.

    Attributes:
        average_length: mean number of subtasks solved in a row, 0..5.
        interval: 95 % of it, over chains and, with two seeds or more, over seeds too; shares of none and of all add
            their Wilson bounds.
        chain_success: share of chains with at least 1..5 subtasks solved.
        chain_success_intervals: 95 % each: Wilson's for one seed, bootstrapped like ``interval`` for more.
        tasks: by task, how often it came up and was solved.
        families: the same by family of tasks.
        chains: chains with a score, of the most complete seed.
        seeds: the seeds.
        missing: chains that were asked for and have no score, over all seeds.
        bounds: average length if the missing chains had all scored 0, and all scored 5.
    """

    average_length: float
    interval: tuple[float, float]
    chain_success: tuple[float, ...]
    chain_success_intervals: tuple[tuple[float, float], ...]
    tasks: Mapping[str, Rate]
    families: Mapping[str, Rate]
    chains: int
    seeds: tuple[int, ...]
    missing: int
    bounds: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON data."""
        plain = asdict(self)
        plain["tasks"] = {name: rate.to_json() for name, rate in self.tasks.items()}
        plain["families"] = {name: rate.to_json() for name, rate in self.families.items()}
        return {key: _listed(value) for key, value in plain.items()}


def summarise(
    rows: Sequence[ChainRow],
    *,
    families: Mapping[str, str] | None = None,
    expected: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ArmSummary:
    """Return one arm's numbers.

    Args:
        rows: the arm's finished chains, of one training seed or several.
        families: task to family; None for no families.
        expected: chains that should be there, all seeds together; None for as many as are.
        resamples: bootstrap resamples.
        seed: seeds the bootstrap.

    Raises:
        UserError: there is no row, one chain and seed have two rows, or more rows than expected.
    """
    _check(rows, expected)
    values = grid(table(rows))  # (S, C)
    missing = (expected if expected is not None else len(rows)) - len(rows)
    solved = np.array([row.solved for row in rows])
    thresholds = np.arange(1, CHAIN_LENGTH + 1)
    chain_success = [float((solved >= least).mean()) for least in thresholds]
    complete = values[:, np.isfinite(values).all(axis=0)]  # chains that every seed has
    quantities = np.concatenate([complete[None], complete[None] >= thresholds[:, None, None]])  # (6, S, C)
    sample = resampled_means(quantities, resamples=resamples, seed=seed) if complete.size else None
    if len(values) == 1:
        share_intervals = [wilson(int((solved >= least).sum()), len(solved)) for least in thresholds]
    elif sample is not None:
        share_intervals = [percentile_interval(sample[:, least]) for least in thresholds]
    else:
        share_intervals = [(0.0, 1.0)] * CHAIN_LENGTH
    total, score = len(rows) + missing, float(solved.sum())
    return ArmSummary(
        average_length=score / len(rows),
        interval=_length_interval(complete, sample),
        chain_success=tuple(chain_success),
        chain_success_intervals=tuple(share_intervals),
        tasks=task_rates(rows),
        families=task_rates(rows, families) if families is not None else {},
        chains=int(np.isfinite(values).sum(axis=1).max()),
        seeds=tuple(sorted({row.seed for row in rows})),
        missing=missing,
        bounds=(score / total, (score + CHAIN_LENGTH * missing) / total),
    )


def _length_interval(complete: np.ndarray, sample: np.ndarray | None) -> tuple[float, float]:
    """Return 95 % of the average length, the sum of the shares with at least 1, 2, … subtasks solved.

    A share of none or of all has nothing that resampling could vary, which would claim certainty from a dozen chains:
    to the bootstrap of the others its Wilson bounds are added, wide but true, and next to nothing for 1000 chains.
    """
    if sample is None:
        return (0.0, float(CHAIN_LENGTH))
    low, high = percentile_interval(sample[:, 0])
    for least in range(1, CHAIN_LENGTH + 1):
        reached = int((complete >= least).sum())
        if reached in (0, complete.size):
            bounds, share = wilson(reached, complete.size), reached / complete.size
            low, high = low + bounds[0] - share, high + bounds[1] - share
    return (max(0.0, low), min(float(CHAIN_LENGTH), high))


def task_rates(rows: Iterable[ChainRow], names: Mapping[str, str] | None = None) -> dict[str, Rate]:
    """Return attempts and successes by task, or by ``names[task]``; a task after the first failure was not tried."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        for position, task in enumerate(row.tasks[: row.solved + 1]):
            count = counts.setdefault(task if names is None else names[task], [0, 0])
            count[0] += 1
            count[1] += position < row.solved
    return {name: Rate(attempts, successes) for name, (attempts, successes) in sorted(counts.items())}


def average_length(chain_success: Sequence[float]) -> float:
    """Return the average length that shares with at least 1, 2, … subtasks solved add up to."""
    return float(sum(chain_success))


def wilson(successes: int, attempts: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927); (0, 1) where nothing was tried."""
    if attempts == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + confidence / 2))
    share, scale = successes / attempts, 1 + z * z / attempts
    centre = (share + z * z / (2 * attempts)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / attempts + z * z / (4 * attempts * attempts))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == attempts else centre + half
    return low, high


def _check(rows: Sequence[ChainRow], expected: int | None) -> None:
    if not rows:
        raise UserError("scores: no finished chain to score; roll out at least one")
    if len({(row.seed, row.chain_id) for row in rows}) < len(rows):
        raise UserError("scores: a chain and seed has two rows; give the rows of one arm")
    if expected is not None and expected < len(rows):
        raise UserError(f"scores: expected {expected} chains over all seeds, got {len(rows)}; give the rows of one arm")
    longest = max(len(row.tasks) for row in rows)
    if longest > CHAIN_LENGTH:
        raise UserError(f"scores: expected chains of at most {CHAIN_LENGTH} subtasks, got one of {longest}")


def _listed(value: Any) -> Any:
    """Return nested tuples as the lists that JSON gives back."""
    return [_listed(entry) for entry in value] if isinstance(value, (tuple, list)) else value
