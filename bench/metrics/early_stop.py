"""When a paired comparison is decided: a confidence sequence that may be looked at after every chain.

Two policies are scored on the same N chains.  A sequence of intervals for their mean difference over all N holds the
truth at every moment at once with the stated confidence, so a rollout may stop as soon as 0 is outside; an ordinary
interval looked at again and again would be wrong far more often than it says.

The intervals are those of betting against each candidate mean with what an opponent who knows only the past would stake
(Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024: their hedged
capital process with aGRAPA stakes, in its form for draws without replacement).  The order of the chains must be drawn
at random beforehand, and pairs must be added in that order: chains that happen to finish first are no random draw,
because failures are short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.metrics.success import CHAIN_LENGTH

METHOD = "betting confidence sequence without replacement (Waudby-Smith & Ramdas 2024)"
CANDIDATES = 401
"""Candidate mean differences between -5 and +5; 0 is one of them."""
CAUTION = 0.5
"""Share of the largest stake that cannot ruin a bet (their c)."""


@dataclass(frozen=True)
class Verdict:
    """What a comparison says after some pairs.

    Attributes:
        decided: ``"better"`` or ``"worse"`` than the other policy, or None.
        pairs: chains looked at.
        scored: those of them that have both scores.
        of: chains that there are.
        mean_difference: over the scored pairs; None where there is none.
        interval: of the mean difference over all chains, valid whenever it is read.
        error_level: the chance of ever excluding the truth.
    """

    decided: str | None
    pairs: int
    scored: int
    of: int
    mean_difference: float | None
    interval: tuple[float, float]
    error_level: float

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON data."""
        return {**vars(self), "interval": list(self.interval), "method": METHOD}


class PairedSequence:
    """Takes paired differences one after the other, in an order drawn at random.

    Args:
        chains: N, how many chains the two policies would be compared on.
        error_level: the chance of a wrong decision, whenever the comparison is stopped.
        largest: a difference lies in ``-largest … largest``.

    Raises:
        UserError: a level outside of (0, 0.5], or no chain.
    """

    def __init__(self, chains: int, error_level: float = 0.05, largest: float = CHAIN_LENGTH) -> None:
        if not 0 < error_level <= 0.5:
            raise UserError(
                f"early stop: expected an error level above 0 and at most 0.5, got {error_level}; give 0.05"
            )
        if chains < 1:
            raise UserError(f"early stop: expected at least 1 chain to compare on, got {chains}")
        self._chains, self._level, self._largest = chains, error_level, largest
        self._means = np.linspace(0.0, 1.0, CANDIDATES)
        self._possible = np.ones(CANDIDATES, dtype=bool)
        self._above, self._below = _Bets(self._means, chains), _Bets(1 - self._means, chains)
        self._differences: list[float] = []
        self.pairs = 0

    def add(self, difference: float | None) -> Verdict:
        """Take the next pair's difference; None where one of the two chains could not be run.

        A pair without a score counts against every conclusion: as the worst that it can have been for each.
        """
        if self.pairs >= self._chains:
            raise UserError(
                f"early stop: expected at most {self._chains} pairs, got one more; give all chains at first"
            )
        self.pairs += 1
        if difference is None:
            self._above.take(0.0)
            self._below.take(0.0)
        else:
            self._differences.append(difference)
            share = 0.5 + difference / (2 * self._largest)
            self._above.take(share)
            self._below.take(1 - share)
        hedged = (self._above.capital + self._below.capital) / 2
        self._possible &= hedged < 1 / self._level
        return self.verdict()

    def verdict(self) -> Verdict:
        """Return what can be said now."""
        left = self._means[self._possible]
        low, high = (left.min(), left.max()) if left.size else (0.5, 0.5)
        interval = (float(2 * low - 1) * self._largest, float(2 * high - 1) * self._largest)
        decided = "better" if interval[0] > 0 else "worse" if interval[1] < 0 else None
        mean = float(np.mean(self._differences)) if self._differences else None
        return Verdict(decided, self.pairs, len(self._differences), self._chains, mean, interval, self._level)


class _Bets:
    """For each candidate mean the capital of someone who bets that the true mean is larger; values lie in 0..1."""

    def __init__(self, means: NDArray[np.float64], chains: int) -> None:
        self._means, self._chains = means, chains
        self.capital = np.ones_like(means)
        self._sum = self._squares = 0.0
        self._seen = 0

    def take(self, value: float) -> None:
        """Stake on the next value what the past suggests, and settle the bet."""
        # what the rest must average to if the candidate is the mean of all
        rest = (self._chains * self._means - self._sum) / (self._chains - self._seen)
        mean = (0.5 + self._sum) / (self._seen + 1)
        variance = (0.25 + max(0.0, self._squares - self._seen * mean**2)) / (self._seen + 1)
        edge = mean - rest
        stake = np.clip(edge / (variance + edge**2), 0.0, CAUTION / np.maximum(rest, 1e-12))
        self.capital = np.where(rest < 0, np.inf, self.capital * (1 + stake * (value - rest)))
        self._sum, self._squares, self._seen = self._sum + value, self._squares + value**2, self._seen + 1
