"""The gap itself: what the real wrist view is worth to a policy, overall and in each kind of subtask.

L_real − L_anchor and, by task and by family, the difference of the shares of attempts that succeeded, each with its
interval over chains and training seeds (``bench/metrics/resampling.py``: the same draw for both arms).  An arm attempts
a subtask only where it solved those before it, so the two arms' attempts differ in number; the draw takes that along.
The share of this gap that another arm closes is in ``bench/metrics/closure.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.closure import MIN_CHAINS, paired_difference
from bench.metrics.resampling import RESAMPLES, percentile_interval, resampled_means
from bench.metrics.success import ChainRow

MIN_ATTEMPTS = 10
"""Attempts of each arm below which no interval is given: a bootstrap of a few is far too narrow."""


def gap(
    anchor: Sequence[ChainRow],
    real: Sequence[ChainRow],
    families: Mapping[str, str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Return the gap over the chains and seeds that both arms have; None where there are none.

    Args:
        anchor: finished chains of the arm without a wrist view.
        real: those of the arm with the real one.
        families: task to its family.
        resamples: bootstrap resamples.
        seed: seeds the bootstrap.

    Returns:
        ``value`` and ``interval`` in subtasks, ``chains`` and ``seeds`` that they rest on, and ``families`` and
        ``tasks``: name to ``value`` and ``interval`` of the difference of success shares.  None is what too few chains
        or attempts, or no draw that differs, say nothing of.
    """
    both = _paired(anchor, real)
    if not both[0]:
        return None
    overall = paired_difference(*both, resamples=resamples, seed=seed)
    seeds, chains = {row.seed for row in both[0]}, {row.chain_id for row in both[0]}
    says = len(chains) >= MIN_CHAINS and overall.interval[0] < overall.interval[1]
    return {
        "value": overall.value,
        "interval": list(overall.interval) if says else None,
        "chains": len(chains),
        "seeds": len(seeds),
        "families": _by_name(both, lambda task: families[task], resamples, seed),
        "tasks": _by_name(both, lambda task: task, resamples, seed),
    }


def _paired(anchor: Sequence[ChainRow], real: Sequence[ChainRow]) -> tuple[list[ChainRow], list[ChainRow]]:
    """Return the rows of the seeds that both arms have, on the chains that both have under all of these."""
    seeds = {row.seed for row in anchor} & {row.seed for row in real}
    chains = [
        {row.chain_id for row in rows if row.seed == number} for rows in (anchor, real) for number in sorted(seeds)
    ]
    common = set.intersection(*chains) if chains else set()
    first, second = ([row for row in rows if row.seed in seeds and row.chain_id in common] for rows in (anchor, real))
    return first, second


def _by_name(
    both: tuple[Sequence[ChainRow], Sequence[ChainRow]], name_of: Callable[[str], str], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    names = sorted({name_of(task) for rows in both for row in rows for task in row.tasks[: row.solved + 1]})
    counts = np.stack([_counts(rows, names, name_of) for rows in both])  # (2 arms, 2 counts, N, S, C)
    shape = counts.shape
    sample = resampled_means(counts.reshape(-1, *shape[-2:]), resamples=resamples, seed=seed)  # (R, 2 × 2 × N)
    drawn = _difference(sample.reshape(-1, *shape[:3]))  # (R, N)
    value = _difference(counts.mean(axis=(-2, -1))[None])[0]  # (N,)
    attempts = counts[:, 0].sum(axis=(-2, -1)).min(axis=0)  # (N,), of the arm with fewer
    return {
        name: {
            "value": float(value[i]) if np.isfinite(value[i]) else None,
            "interval": _interval(drawn[:, i]) if attempts[i] >= MIN_ATTEMPTS else None,
        }
        for i, name in enumerate(names)
    }


def _interval(drawn: NDArray[np.float64]) -> list[float] | None:
    known = drawn[np.isfinite(drawn)]
    return list(percentile_interval(known)) if known.size and known.min() < known.max() else None


def _counts(rows: Sequence[ChainRow], names: Sequence[str], name_of: Callable[[str], str]) -> NDArray[np.float64]:
    """Return (2, N, S, C): how often each name was attempted, and how often it succeeded."""
    place = {name: i for i, name in enumerate(names)}
    seeds = {number: i for i, number in enumerate(sorted({row.seed for row in rows}))}
    chains = {number: i for i, number in enumerate(sorted({row.chain_id for row in rows}))}
    counts = np.zeros((2, len(names), len(seeds), len(chains)))
    for row in rows:
        for position, task in enumerate(row.tasks[: row.solved + 1]):
            cell = place[name_of(task)], seeds[row.seed], chains[row.chain_id]
            counts[(0, *cell)] += 1
            counts[(1, *cell)] += position < row.solved
    return counts


def _difference(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return real − anchor of the shares (R, N) from counts (R, 2 arms, 2 counts, N); NaN where one attempted none."""
    attempts, successes = counts[:, :, 0], counts[:, :, 1]
    share = np.divide(successes, attempts, out=np.full_like(attempts, np.nan), where=attempts > 0)  # (R, 2, N)
    difference: NDArray[np.float64] = share[:, 1] - share[:, 0]
    return difference
