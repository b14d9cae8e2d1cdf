"""Policies without a network: the lower bound of every table, and doubles for the harness's tests.

NumPy only, so that a rollout worker can use them without importing torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from policies.api import ACTION_DIM, ANCHOR, CALVIN_ACTIONS, WRIST, Observation, PolicyError, PolicySpec

CHUNK = 10


def check_call(spec: PolicySpec, batch: Sequence[Observation], seeds: Sequence[int]) -> None:
    """Refuse a call whose seeds do not match its batch or whose observations lack a view that ``spec`` needs."""
    if len(batch) != len(seeds):
        raise PolicyError(f"{spec.name}: expected one seed per observation, got {len(batch)} and {len(seeds)}")
    for number, observation in enumerate(batch):
        missing = spec.missing_views(list(observation.views))
        if missing:
            raise PolicyError(
                f"{spec.name}: observation {number} lacks view {missing} (it has {sorted(observation.views)}); "
                f"a policy of arm {spec.arm!r} needs {list(spec.views)}"
            )


class RandomPolicy:
    """Uniform actions and a random gripper, drawn from the seed alone: the floor of a table."""

    def __init__(self, chunk: int = CHUNK, scale: float = 1.0) -> None:
        if not 0 <= scale <= 1:
            raise PolicyError(f"random policy: scale must lie in 0..1, got {scale}")
        self._scale = scale
        self._spec = PolicySpec("random", (ANCHOR, WRIST), (ANCHOR, WRIST), chunk, chunk, None, CALVIN_ACTIONS)

    @property
    def spec(self) -> PolicySpec:
        """What the policy needs (nothing) and gives."""
        return self._spec

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (B, K, 7)."""
        check_call(self._spec, batch, seeds)
        chunks = np.empty((len(batch), self._spec.chunk, ACTION_DIM), np.float32)
        for chunk, seed in zip(chunks, seeds, strict=True):
            rng = np.random.default_rng(seed)
            chunk[:] = rng.uniform(-self._scale, self._scale, chunk.shape)
            chunk[:, -1] = 1.0 if rng.random() < 0.5 else -1.0
        return chunks


class HoldStill:
    """Never moves, gripper open: what happens when nobody acts."""

    def __init__(self, chunk: int = CHUNK) -> None:
        self._spec = PolicySpec("hold-still", (ANCHOR, WRIST), (ANCHOR, WRIST), chunk, chunk, None, CALVIN_ACTIONS)

    @property
    def spec(self) -> PolicySpec:
        """What the policy needs (nothing) and gives."""
        return self._spec

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (B, K, 7), zeros with an open gripper."""
        check_call(self._spec, batch, seeds)
        chunks = np.zeros((len(batch), self._spec.chunk, ACTION_DIM), np.float32)
        chunks[..., -1] = self._spec.actions.gripper_open
        return chunks


class Scripted:
    """A function from (observation, seed) to a chunk (K, 7), as a policy: a double for tests of the harness."""

    def __init__(self, respond: Callable[[Observation, int], NDArray[np.float32]], spec: PolicySpec) -> None:
        self._respond = respond
        self._spec = spec

    @property
    def spec(self) -> PolicySpec:
        """The spec that was given."""
        return self._spec

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (B, K, 7); a chunk of another shape is refused."""
        check_call(self._spec, batch, seeds)
        chunks = np.zeros((len(batch), self._spec.chunk, ACTION_DIM), np.float32)
        for number, (observation, seed) in enumerate(zip(batch, seeds, strict=True)):
            chunk = np.asarray(self._respond(observation, seed), np.float32)
            if chunk.shape != chunks.shape[1:]:
                raise PolicyError(f"{self._spec.name}: expected a chunk {chunks.shape[1:]}, got {chunk.shape}")
            chunks[number] = chunk
        return chunks
