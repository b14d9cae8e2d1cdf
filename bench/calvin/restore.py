"""Making Bullet forget where its broad phase keeps no tree: the built-in world's way back to its beginning.

``btSimpleBroadphase`` compares every box with every other, in the order in which they were loaded (thirty boxes: that
costs no more than a tree), so that nothing of the past is left but the pairs that it found and who sleeps.  Both are
taken back here, and the poses with them.  CALVIN's own files need the tree, whose order trajectories depend on:
``bench.calvin.rewind``.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.calvin.bullet import pybullet


class Restorer:
    """Brings a PyBullet client back to what it was when everything had just been loaded.

    Args:
        client: PyBullet client id without a search tree; everything is loaded and no physics step has passed.
        bodies: all body ids.
        sleepers: those that are not simulated while they rest.
    """

    def __init__(self, client: int, bodies: Sequence[int], sleepers: Sequence[int]) -> None:
        self._client = client
        self._bodies = bodies
        self._sleepers = sleepers
        self._home = pybullet.saveState(physicsClientId=client)
        for body in sleepers:
            self._activate(body, pybullet.ACTIVATION_STATE_ENABLE_SLEEPING)

    def _activate(self, body: int, state: int) -> None:
        pybullet.changeDynamics(body, -1, activationState=state, physicsClientId=self._client)

    def _wake(self) -> None:
        """Wake all that may sleep; how long each has rested counts from now on."""
        for body in self._sleepers:
            self._activate(body, pybullet.ACTIVATION_STATE_WAKE_UP)

    def __call__(self) -> None:
        """Bring everything back."""
        self._wake()
        pybullet.stepSimulation(physicsClientId=self._client)  # links notice at the end of a step that they are awake
        self._wake()
        for body in self._bodies:
            # Telling a body to meet itself as before makes new entries of all its links: their pairs go.
            pybullet.setCollisionFilterPair(body, body, -1, -1, 0, physicsClientId=self._client)
        pybullet.restoreState(self._home, physicsClientId=self._client)

    def count(self, searches: int) -> None:
        """Nothing here depends on how many physics steps have passed."""
