"""The one bootstrap of this project: over chains and training seeds at once, the same draw for every arm.

Chains are shared by all seeds and arms, seeds by all arms, so both are drawn once per resample and every arm is
averaged over the same draw: differences between arms are paired.  Chains differ in difficulty and seeds in luck;
drawing chains alone would call a lucky training run a better method (the crossed "pigeonhole" bootstrap, Owen 2007).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
BLOCK = 500
"""Resamples at a time: bounds the memory of the draw, not its result."""

Table = Mapping[tuple[int, int], int]
"""(seed, chain_id) to the number of subtasks solved."""


class Row(Protocol):
    """The part of a ``ChainResult`` that a score is made of."""

    @property
    def chain_id(self) -> int:
        """Which chain."""
        ...

    @property
    def seed(self) -> int:
        """Training seed of the arm's policy."""
        ...

    @property
    def solved(self) -> int:
        """Subtasks solved in a row."""
        ...


def table(rows: Sequence[Row]) -> dict[tuple[int, int], int]:
    """Return the scores of one arm's rows by (seed, chain_id)."""
    return {(row.seed, row.chain_id): row.solved for row in rows}


def grid(scores: Table) -> NDArray[np.float64]:
    """Return (S, C) scores, seeds and chains ascending; NaN where a chain is missing."""
    seeds = sorted({seed for seed, _ in scores})
    chains = sorted({chain for _, chain in scores})
    return np.array([[scores.get((seed, chain), np.nan) for chain in chains] for seed in seeds], dtype=np.float64)


def resampled_means(values: NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Return the means of ``values`` over resampled seeds and chains.

    Args:
        values: (Q, S, C) finite: Q quantities (arms, thresholds) over the same S seeds and C chains.
        resamples: R.
        seed: seeds the draw, nothing else does.

    Returns:
        (R, Q); row r is one draw of S seeds and C chains, the same for all quantities.
    """
    quantities, seeds, chains = values.shape
    rng = np.random.default_rng(seed)
    flat = values.reshape(quantities * seeds, chains).T  # (C, Q*S)
    means = np.empty((resamples, quantities))
    for first in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - first)
        of_chains = _draw(rng, size, chains) @ flat / chains  # (r, Q*S)
        of_seeds = _draw(rng, size, seeds) / seeds  # (r, S)
        means[first : first + size] = np.einsum("rqs,rs->rq", of_chains.reshape(size, quantities, seeds), of_seeds)
    return means


def percentile_interval(sample: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the central interval that holds ``confidence`` of a bootstrap sample."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(sample, [tail, 100 - tail])
    return float(low), float(high)


def _draw(rng: np.random.Generator, size: int, count: int) -> NDArray[np.float64]:
    """Return (size, count): how often each of ``count`` items is in each draw of ``count`` with replacement."""
    drawn = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
