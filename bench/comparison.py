"""One rollout beside an earlier one on the same chains: paired, and stopped when it is decided if that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.metrics.closure import MIN_CHAINS, chains_needed, paired_difference
from bench.metrics.early_stop import PairedSequence, Verdict
from bench.rollout.chain import Chain, ChainResult
from bench.rollout.ledger import LEDGER_FILE, Ledger, read_ledger

DEFAULT_LEVEL = 0.05
ORDER_SEED = 20251007
"""Draws the order in which chains are compared; drawn once and for all, so that nobody can choose it."""


class Comparison:
    """Our policy's chains against those of an earlier rollout.

    Args:
        against: folder of the earlier rollout, of one policy.
        chains: the chains that ours is scored on.
        arm: our arm.
        seed: our seed.
        error_level: the chance of a wrong decision.

    Raises:
        UserError: there is no such rollout, it has several policies, or none of these chains.
    """

    def __init__(self, against: Path, chains: Sequence[Chain], arm: str, seed: int, error_level: float) -> None:
        contents, _ = read_ledger(against / LEDGER_FILE)
        theirs = {key[:2] for key in contents.rows}
        if len(theirs) != 1:
            named = ", ".join(f"{name}/{number}" for name, number in sorted(theirs)) or "none"
            raise UserError(f"{against}: expected the chains of one policy, got {named}; give a rollout of one policy")
        self.against, self._fingerprint = against, contents.fingerprint
        self.their_arm, self.their_seed = next(iter(theirs))
        self._theirs = {chain_id: row for (_, _, chain_id), row in contents.rows.items()}
        if not any(chain.chain_id in self._theirs for chain in chains):
            raise UserError(
                f"{against}: none of the chains asked for is there; compare with a rollout of the same chains"
            )
        self._arm, self._seed = arm, seed
        self.order = [chains[i] for i in np.random.default_rng(ORDER_SEED).permutation(len(chains))]
        self._sequence = PairedSequence(len(chains), error_level)
        self._used = 0

    def decided(self, ledger: Ledger) -> bool:
        """Take in what was finished since, as far as the order goes without a gap; say whether that decides.

        Raises:
            UserError: the two rollouts differ in more than their policies.
        """
        self.refuse_other_protocol(ledger.fingerprint)
        ours = {row.chain_id: row.solved for row in ledger.completed(self._arm, self._seed)}
        missing = {chain_id for _, _, chain_id in ledger.missing(self._arm, self._seed)}
        while self.verdict.decided is None and self._used < len(self.order):
            chain_id = self.order[self._used].chain_id
            if chain_id not in ours and chain_id not in missing:
                break
            self._used += 1
            pair = chain_id in ours and chain_id in self._theirs
            self._sequence.add(float(ours[chain_id] - self._theirs[chain_id].solved) if pair else None)
        return self.verdict.decided is not None

    @property
    def verdict(self) -> Verdict:
        """What the comparison says now."""
        return self._sequence.verdict()

    def looked_at(self, rows: Sequence[ChainResult]) -> list[ChainResult]:
        """Return the rows that the verdict rests on; others that were finished by then are no fair sample."""
        used = {chain.chain_id for chain in self.order[: self._used]}
        return [row for row in rows if row.chain_id in used]

    def over_all(self, rows: Sequence[ChainResult]) -> dict[str, Any] | None:
        """Return the paired difference of two whole rollouts, ours less theirs; None where no chain has both scores.

        Its interval is narrower than the verdict's, which may be read after every chain, and holds only where nobody
        stopped because of what was seen.

        Returns:
            ``value``, ``interval`` (95 %, bootstrap over chains; None of chains that are too few or all differ
            alike), ``chains``, and ``chains_needed``: how many would show a difference of this size, or None.
        """
        mine = {row.chain_id: row for row in rows}
        shared = sorted(mine.keys() & self._theirs.keys())
        if not shared:
            return None
        theirs = [replace(self._theirs[chain_id], seed=self._seed) for chain_id in shared]
        found = paired_difference(theirs, [mine[chain_id] for chain_id in shared])
        low, high = found.interval
        says, needed = len(shared) >= MIN_CHAINS and low < high, None
        if says and low <= 0 <= high and found.value != 0:
            spread = np.std([mine[chain_id].solved - self._theirs[chain_id].solved for chain_id in shared], ddof=1)
            needed = chains_needed(found.value, float(spread))
        interval = list(found.interval) if says else None
        return {"value": found.value, "interval": interval, "chains": len(shared), "chains_needed": needed}

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON data."""
        other = {"against": str(self.against), "their_arm": self.their_arm, "their_seed": self.their_seed}
        return {**self.verdict.to_json(), **other}

    def refuse_other_protocol(self, fingerprint: Mapping[str, Any]) -> None:
        """Compare what is known of our protocol, before a chain is rolled out or after, with theirs.

        Raises:
            UserError: the two rollouts differ in more than their policies.
        """
        differing = [
            f"{name} (there {self._fingerprint[name]!r}, here {value!r})"
            for name, value in fingerprint.items()
            if not name.startswith("policy ") and name in self._fingerprint and self._fingerprint[name] != value
        ]
        if differing:
            raise UserError(
                f"{self.against}: another protocol; differing: {'; '.join(differing)}; use the same settings"
            )
