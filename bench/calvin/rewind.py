"""Making Bullet forget: contacts, overlapping pairs and the search tree, without loading anything again.

PyBullet has no call for that, and loading anew costs what the meshes cost.  What of the past can reach a trajectory is
the order in which Bullet finds pairs of bodies, and that follows from the search tree of its broad phase
(``btDbvtBroadphase``).  So the tree is built again, entry by entry, exactly as loading built it:

* ``setCollisionFilterGroupMask`` takes a body's entry out of the tree and makes a new one from where the body stands;
  with the old one go its pairs and their contact points.
* ``restoreState`` moves bodies without telling the tree, if the state was saved before there was any contact.  (Every
  other call that moves a body also moves its entry.)
* Far away all bodies fall onto one point in double precision, so entries there are all alike, and new ones near the
  origin grow a tree of their own beside them, the one that they would grow alone.
* When a file is loaded, each entry is made with the link's frame where its centre of mass belongs, all joints at 0.
  The saved states put each link there in its turn.
* At every search Bullet puts back one leaf, which the bits of a counter choose.  Nothing resets that counter, but only
  as many bits count as the tree has levels: searching an empty world brings it to a multiple of ``PERIOD``.

The tree then equals that of a new process in every later step; ``tests/calvin/test_physics.py`` compares rollouts.
Read from Bullet 3.27 (``btDbvt.cpp``, ``btDbvtBroadphase.cpp``, ``URDF2Bullet.cpp``), which PyBullet 3.2.7 is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.calvin.bullet import pybullet

Pose = tuple[tuple[float, float, float], tuple[float, float, float, float]]

PERIOD = 1024
"""Searches after which the tree's tidying repeats itself: 2 to the number of levels that may be deeper than any seen.
With 1024 no tree differed from a new process's in 485 physics steps; with 64 most did."""

_DISTANCE = 1e20
_FAR: Pose = ((_DISTANCE, _DISTANCE, _DISTANCE), (0.0, 0.0, 0.0, 1.0))
_ELSEWHERE: Pose = ((-_DISTANCE, -_DISTANCE, -_DISTANCE), (0.0, 0.0, 0.0, 1.0))
# Bullet's filters (btBroadphaseProxy.h): what does not move is seen by everything but its like.
_MOVING = (1, -1)
_STANDING = (2, -3)
_UNTOUCHABLE = (0, 0)


@dataclass(frozen=True)
class _Body:
    """A body as it was loaded: its links, its base's home and filter, and where the base must be for each link."""

    body: int
    links: range
    home: Pose
    base_filter: tuple[int, int]
    frames: tuple[Pose, ...]


class Rewinder:
    """Brings a PyBullet client back to what it was when everything had just been loaded.

    Args:
        client: PyBullet client id; everything is loaded and no physics step has passed.
        bodies: all body ids in the order of loading.
        settled: how many of them had been loaded when ``settle`` was called.
        settle: what moved the first bodies while the others were still to be loaded.
        colliding: two bodies of one link each that may touch.
    """

    def __init__(
        self,
        client: int,
        bodies: Sequence[int],
        settled: int,
        settle: Callable[[], None],
        colliding: tuple[int, int],
    ) -> None:
        self._client = client
        self._settle = settle
        self._settled = settled
        self._colliding = colliding
        self._searches = 0
        for body in bodies:
            for joint in range(pybullet.getNumJoints(body, physicsClientId=client)):
                pybullet.resetJointState(body, joint, 0.0, physicsClientId=client)
        self._bodies = [self._survey(body) for body in bodies]
        self._made = [self._saved(turn) for turn in range(max(len(body.frames) for body in self._bodies))]
        self._unsettled = self._saved(None)
        settle()
        self._home = pybullet.saveState(physicsClientId=client)
        for body in bodies:
            self._place(body, _FAR)
        self._far = pybullet.saveState(physicsClientId=client)

    def _survey(self, body: int) -> _Body:
        home = pybullet.getBasePositionAndOrientation(body, physicsClientId=self._client)
        dynamics = pybullet.getDynamicsInfo(body, -1, physicsClientId=self._client)
        frames = [pybullet.multiplyTransforms(*home, *pybullet.invertTransform(*dynamics[3:5]))]
        links = range(-1, pybullet.getNumJoints(body, physicsClientId=self._client))
        for link in links[1:]:
            state = pybullet.getLinkState(body, link, computeForwardKinematics=1, physicsClientId=self._client)
            base_from_centre = pybullet.multiplyTransforms(*pybullet.invertTransform(*state[:2]), *home)
            frames.append(pybullet.multiplyTransforms(*state[4:6], *base_from_centre))
        base_filter = _STANDING if dynamics[0] == 0.0 else _MOVING
        return _Body(body, links, home, base_filter, tuple(frames))

    def _saved(self, turn: int | None) -> int:
        """Save the state in which each body's link number ``turn`` is as it was made, or all bodies are at home."""
        for body in self._bodies:
            self._place(body.body, body.home if turn is None else body.frames[min(turn, len(body.frames) - 1)])
        state: int = pybullet.saveState(physicsClientId=self._client)
        return state

    def _place(self, body: int, pose: Pose) -> None:
        pybullet.resetBasePositionAndOrientation(body, *pose, physicsClientId=self._client)

    def _move(self, state: int) -> None:
        pybullet.restoreState(state, physicsClientId=self._client)

    def _enter(self, body: int, link: int, entry: tuple[int, int]) -> None:
        pybullet.setCollisionFilterGroupMask(body, link, *entry, physicsClientId=self._client)

    def _search(self, times: int = 1) -> None:
        search, client = pybullet.performCollisionDetection, self._client
        for _ in range(times):  # most of what a reset costs
            search(client)
        self._searches += times

    def count(self, searches: int) -> None:
        """Say that so many physics steps have passed; each searches once."""
        self._searches += searches

    def __call__(self) -> None:
        """Bring everything back."""
        self._clear()
        self._search(-self._searches % PERIOD)
        for body in self._bodies[: self._settled]:
            self._make(body)
        self._move(self._unsettled)
        self._settle()
        for body in self._bodies[self._settled :]:
            self._make(body)
        self._move(self._home)

    def _clear(self) -> None:
        """Send all bodies far away, where nothing touches."""
        self._move(self._far)
        for body in self._bodies:
            for link in body.links:
                self._enter(body.body, link, _UNTOUCHABLE)
        # Bullet remembers which pair it was going to check next; it forgets when the last pair is found to be none.
        for one in self._colliding:
            self._enter(one, -1, _MOVING)
        self._place(self._colliding[0], _ELSEWHERE)
        self._search()
        for one in self._colliding:
            self._enter(one, -1, _UNTOUCHABLE)
        self._place(self._colliding[0], _FAR)
        self._search()

    def _make(self, body: _Body) -> None:
        """Make the entries of a body as loading made them."""
        for link, state in zip(body.links, self._made, strict=False):
            self._move(state)
            self._enter(body.body, link, body.base_filter if link < 0 else _MOVING)
