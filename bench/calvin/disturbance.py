"""What a hand does beside what it is told: disturbances that demonstrations recover from (DART, arXiv:1703.09327).

Two kinds.  *Noise* grows with the speed of the motion, as that of a human arm does (Harris and Wolpert, Nature 1998): a
hand that has slowed down beside a block is not shaken there.  White noise of one size at any speed kept the experts
waiting above their targets until chance had brought them close enough, and a policy that sees one frame learned to
wait there too.  *Kicks* are rare: a few steps in one direction, from which the expert has to come back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROTATION_SHARE = 0.5
"""Share of noise and kicks that the three rotation entries get."""
KICK_RATE = 1 / 40
"""Chance that a step begins a kick where there is none."""
KICK_STEPS = (2, 5)
"""Steps of a kick: at least, below."""
KICK_SIZE = 2.0
"""Standard deviation of a kick's actions, in that of the noise at full speed."""

_SHARES = np.array([1.0, 1.0, 1.0, ROTATION_SHARE, ROTATION_SHARE, ROTATION_SHARE])


class Disturbance:
    """The disturbances of one demonstration.

    Args:
        size: standard deviation of the noise at full speed, in action units; 0 for none.
        rng: the only source of variation.
    """

    def __init__(self, size: float, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._left, self._kick = 0, np.zeros(6)

    def __call__(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what is executed where ``action`` (7,) is meant: within -1..1, the gripper as it is meant."""
        if self._size == 0:
            return action
        speeds = np.array([np.linalg.norm(action[:3])] * 3 + [np.abs(action[3:6]).max()] * 3).clip(max=1.0)  # (6,)
        added = self._size * speeds * _SHARES * self._rng.standard_normal(6)
        if self._left == 0 and self._rng.random() < KICK_RATE:
            self._left = int(self._rng.integers(*KICK_STEPS))
            self._kick = KICK_SIZE * self._size * _SHARES * self._rng.standard_normal(6)
        if self._left:
            self._left -= 1
            added = added + self._kick
        return np.append(np.clip(action[:6] + added, -1.0, 1.0), action[6])
