"""Scaling of actions (and robot state) between their own units and what the network sees.

Translation and rotation are scaled so that the training arm's 1 % and 99 % quantiles become −1 and 1, and clipped:
minimum and maximum would be decided by the few moments when a scripted expert sits at its limits.  The gripper is
±1 already; its sign is taken here, once, when actions leave the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import ACTION_DIM, PROPRIO_DIM, PolicyError

LOW_QUANTILE, HIGH_QUANTILE = 0.01, 0.99
SMALLEST_RANGE = 1e-2
GRIPPER = ACTION_DIM - 1


@dataclass(frozen=True)
class Normaliser:
    """Quantiles of the actions, mean and deviation of the robot state.

    Attributes:
        low, high: (6,) quantiles of translation and rotation, in action units.
        proprio_mean, proprio_std: (15,), or None where the data had no robot state.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    proprio_mean: tuple[float, ...] | None = None
    proprio_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse wrong lengths, non-finite numbers and empty ranges."""
        lengths = {"low": GRIPPER, "high": GRIPPER, "proprio_mean": PROPRIO_DIM, "proprio_std": PROPRIO_DIM}
        for name, length in lengths.items():
            values = getattr(self, name)
            if values is None and name.startswith("proprio"):
                continue
            values = tuple(float(value) for value in values)
            if len(values) != length or not np.isfinite(values).all():
                raise PolicyError(f"normaliser.{name}: expected {length} finite numbers, got {values}")
            object.__setattr__(self, name, values)
        if any(high <= low for low, high in zip(self.low, self.high, strict=True)):
            raise PolicyError(f"normaliser: each high must exceed its low, got low {self.low} and high {self.high}")

    @classmethod
    def fit(cls, actions: NDArray[np.float32], proprio: NDArray[np.float32] | None = None) -> Normaliser:
        """Measure the actions (N, 7), and the robot states (N, 15) if there are any.

        A dimension that hardly moves gets a range of at least 0.01 around its middle: its noise is not blown up.
        """
        low, high = np.quantile(actions[:, :GRIPPER].astype(np.float64), [LOW_QUANTILE, HIGH_QUANTILE], axis=0)
        middle, half = (low + high) / 2, np.maximum((high - low) / 2, SMALLEST_RANGE / 2)
        mean = std = None
        if proprio is not None:
            mean = tuple(proprio.mean(0, dtype=np.float64).tolist())
            std = tuple(np.maximum(proprio.std(0, dtype=np.float64), 1e-3).tolist())
        return cls(tuple((middle - half).tolist()), tuple((middle + half).tolist()), mean, std)

    def scale_actions(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """(…, 7) in action units to (…, 7) in −1..1; the gripper becomes its sign."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        scaled = np.empty(actions.shape, np.float32)
        scaled[..., :GRIPPER] = np.clip(2 * (actions[..., :GRIPPER] - low) / (high - low) - 1, -1, 1)
        scaled[..., GRIPPER] = np.where(actions[..., GRIPPER] >= 0, 1, -1)
        return scaled

    def unscale_actions(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """(…, 7) from the network to action units, clipped to the box −1..1, the gripper to exactly ±1."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        actions = np.empty(scaled.shape, np.float32)
        actions[..., :GRIPPER] = np.clip((scaled[..., :GRIPPER].astype(np.float64) + 1) / 2 * (high - low) + low, -1, 1)
        actions[..., GRIPPER] = np.where(scaled[..., GRIPPER] >= 0, 1, -1)
        return actions

    def scale_proprio(self, proprio: NDArray[np.float32]) -> NDArray[np.float32]:
        """(…, 15) to zero mean and unit deviation."""
        if self.proprio_mean is None or self.proprio_std is None:
            raise PolicyError("use_proprio is on, but the training data had no robot state; record it or switch it off")
        return ((proprio - np.asarray(self.proprio_mean)) / np.asarray(self.proprio_std)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the normaliser as plain JSON data."""
        return {name: None if value is None else list(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Normaliser:
        """Build a normaliser from :meth:`to_json`'s data."""
        return cls(**data)
