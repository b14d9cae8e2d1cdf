"""Making Bullet forget: contacts, overlapping pairs and the search tree, without loading anything again.

PyBullet has no call for that.  ``setCollisionFilterGroupMask`` however takes a body's entry out of the broad phase and
makes a new one, and with it go the contact points that warm-start the solver.  So every body is sent far away with a
mask that touches nothing, the broad phase looks once around an empty world, and the bodies come back in the order in
which they were loaded.  What remains of the past is the shape of a tree; ``deterministicOverlappingPairs`` (Bullet
sorts pairs by entry number) keeps it from mattering, so use this only with that switched on.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.calvin.bullet import pybullet

Pose = tuple[tuple[float, float, float], tuple[float, float, float, float]]

_FAR: Pose = ((1e6, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
# Bullet's filters (btBroadphaseProxy.h): what does not move is seen by everything but its like.
_MOVING = (1, -1)
_STANDING = (2, -3)
_UNTOUCHABLE = (0, 0)


def rewind(client: int, homes: Mapping[int, Pose]) -> None:
    """Bring every body back to where it was loaded, all joints at 0 and at rest, with no contact remembered.

    Args:
        client: PyBullet client id; ``deterministicOverlappingPairs`` must be on.
        homes: body id -> base pose right after loading, in the order of loading.
    """
    for body in homes:
        _place(client, body, _FAR)
        for link in _links(client, body):
            pybullet.setCollisionFilterGroupMask(body, link, *_UNTOUCHABLE, physicsClientId=client)
    pybullet.performCollisionDetection(physicsClientId=client)
    for body, home in homes.items():
        _place(client, body, home)
        stands = pybullet.getDynamicsInfo(body, -1, physicsClientId=client)[0] == 0.0
        for link in _links(client, body):
            if link >= 0:
                pybullet.resetJointState(body, link, 0.0, physicsClientId=client)
        for link in _links(client, body):
            entry = _STANDING if link < 0 and stands else _MOVING
            pybullet.setCollisionFilterGroupMask(body, link, *entry, physicsClientId=client)


def _place(client: int, body: int, pose: Pose) -> None:
    pybullet.resetBasePositionAndOrientation(body, *pose, physicsClientId=client)


def _links(client: int, body: int) -> range:
    return range(-1, pybullet.getNumJoints(body, physicsClientId=client))
