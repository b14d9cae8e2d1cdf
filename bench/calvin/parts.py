"""What there is to draw: PyBullet's visual shapes as meshes with a place, a colour and an image.

Not here: OpenGL.  A part is what one link shows in one colour and with one image; ``PoseReader`` says where the links
are now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import meshes, textures
from bench.calvin.bullet import pybullet
from bench.calvin.mesh_files import load_mesh
from bench.calvin.meshes import Mesh
from bench.calvin.thinning import LEVELS
from bench.calvin.urdf_shapes import visual_shapes
from bench.errors import UserError

Image = str | Path | None
"""A procedural material's name, an image file, or None for plain colour."""

_WHITE = (1.0, 1.0, 1.0, 1.0)
_FLOOR = "plane"
_ROBOT_LINK = "gripper_cam"
LIGHTS = ("led_link", "light_link")
_NOWHERE = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Part:
    """What a link shows in one colour and with one image.

    Attributes:
        body: PyBullet's body id.
        link: link index, -1 for the base.
        levels: triangles in metres, in the frame of the link: for a camera that is near, for one that is far, for the
            shadow.
        rgba: colour, 0..1.
        image: what is laid over the mesh.
        still: it moves never or seldom: a fixed body's link, unless a motor drives it.
        fixed: no joint carries it and it is no light: neither its place nor its colour changes.
    """

    body: int
    link: int
    levels: tuple[Mesh, ...]
    rgba: tuple[float, float, float, float]
    image: Image = None
    still: bool = False
    fixed: bool = False


# q v and v q* are linear in v = (x, y, z, w), and so a rotation q v q* is the product of two matrices.
_WHICH = np.array([[3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 3, 2], [0, 1, 2, 3]])
_LEFT = np.array([[1, -1, 1, 1], [1, 1, -1, 1], [-1, 1, 1, 1], [-1, -1, -1, 1]], np.float64)
_RIGHT = np.array([[1, -1, 1, -1], [1, 1, -1, -1], [-1, 1, 1, -1], [1, 1, 1, 1]], np.float64)


def matrices(positions: NDArray[np.float64], quaternions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N, 4, 4) rigid transforms from (N, 3) positions and (N, 4) unit quaternions x, y, z, w."""
    numbers = quaternions[:, _WHICH]
    out: NDArray[np.float64] = (numbers * _LEFT) @ (numbers * _RIGHT)
    out[:, :3, 3] = positions
    out[:, 3, 3] = 1.0
    return out


def _matrix(position: Any, quaternion: Any) -> NDArray[np.float64]:
    return matrices(np.array([position], np.float64), np.array([quaternion], np.float64))[0]


def _shape_levels(
    kind: int, dimensions: tuple[float, float, float], filename: str, *, radial: bool
) -> tuple[Mesh, ...]:
    if kind == pybullet.GEOM_BOX:
        return (meshes.box(dimensions, radial=radial),) * len(LEVELS)
    if kind == pybullet.GEOM_CYLINDER:
        return (meshes.cylinder(dimensions[1], dimensions[0], radial=radial),) * len(LEVELS)
    if kind == pybullet.GEOM_SPHERE:
        return (meshes.sphere(dimensions[0]),) * len(LEVELS)
    if kind == pybullet.GEOM_MESH:
        path = Path(filename).resolve()
        return tuple(meshes.scaled(load_mesh(path, target), dimensions) for target in LEVELS)
    raise UserError(f"visual shape: expected a box, cylinder, sphere or mesh file, got PyBullet's kind {kind}")


def _names(client: int, body: int) -> tuple[str, dict[int, str]]:
    """Return a body's name and its links' names by index."""
    base, name = pybullet.getBodyInfo(body, physicsClientId=client)
    links = {-1: base.decode()}
    for joint in range(pybullet.getNumJoints(body, physicsClientId=client)):
        links[joint] = pybullet.getJointInfo(body, joint, physicsClientId=client)[12].decode()
    return name.decode(), links


def _still_links(client: int, body: int, links: Mapping[int, str]) -> set[int]:
    """Return the links of a body that stand still for most of the time: not a robot's beyond its base, no blocks."""
    if pybullet.getDynamicsInfo(body, -1, physicsClientId=client)[0] > 0:
        return set()
    return {-1} if _ROBOT_LINK in links.values() else set(links)


def _fixed_links(client: int, body: int, links: Mapping[int, str], still: set[int]) -> set[int]:
    """Return the still links of a body that no joint carries and that are no lights."""
    joints = {link: pybullet.getJointInfo(body, link, physicsClientId=client)[2] for link in still if link >= 0}
    return {link for link in still if joints.get(link) in (None, pybullet.JOINT_FIXED) and links[link] not in LIGHTS}


def _shapes(client: int, body: int, urdf: tuple[Path, float] | None, links: Mapping[int, str]) -> Iterator[Any]:
    """Yield link index and the rest of a ``VisualShape``, from PyBullet or, where it has none, from the URDF."""
    if urdf is None:
        for shape in pybullet.getVisualShapeData(body, physicsClientId=client):
            _, link, kind, dimensions, filename, position, quaternion, rgba = shape[:8]
            yield link, kind, dimensions, filename.decode(), position, quaternion, rgba
    else:
        index = {name: link for link, name in links.items()}
        for shape in visual_shapes(*urdf):
            yield index[shape.link], *shape[1:]


def _parts_of_body(client: int, body: int, materials: Mapping[str, str], urdf: tuple[Path, float] | None) -> list[Part]:
    name, links = _names(client, body)
    still = _still_links(client, body, links)
    fixed = _fixed_links(client, body, links, still)
    # A body that brings no images of its own is drawn with edges; PyBullet rounds the corners of lone blocks.
    built = any(link in materials for link in links.values())
    parts = []
    for link, kind, dimensions, filename, position, quaternion, rgba in _shapes(client, body, urdf, links):
        levels = _shape_levels(kind, dimensions, filename, radial=not built)
        image: Image = levels[0].texture
        if image is None and rgba == _WHITE and links[link] in materials:
            image = materials[links[link]]
        frame = _matrix(position, quaternion)
        levels = tuple(meshes.moved(mesh, frame) for mesh in levels)
        if isinstance(image, str):
            levels = tuple(meshes.wrapped(mesh, textures.TILE) for mesh in levels)
        parts.append(Part(body, link, levels, rgba, image, link in still, link in fixed))
    if name == _FLOOR:
        parts = [
            replace(part, image="checker") if isinstance(part.image, Path) and materials else part for part in parts
        ]
    return parts


def collect_parts(
    client: int, materials: Mapping[str, str], urdfs: Mapping[int, tuple[Path, float]] | None = None
) -> list[Part]:
    """Return what every body of a PyBullet client shows.

    Args:
        client: PyBullet's physics client id.
        materials: link name to the name of a procedural material, for white shapes whose mesh brings no image.
        urdfs: body id to URDF and ``globalScaling`` for bodies loaded with ``URDF_IGNORE_VISUAL_SHAPES``.
    """
    found: dict[tuple[int, int, Image, tuple[float, ...]], list[Part]] = {}
    for index in range(pybullet.getNumBodies(physicsClientId=client)):
        body = pybullet.getBodyUniqueId(index, physicsClientId=client)
        for part in _parts_of_body(client, body, materials, (urdfs or {}).get(body)):
            found.setdefault((part.body, part.link, part.image, part.rgba), []).append(part)
    return [
        replace(
            parts[0], levels=tuple(meshes.joined(level) for level in zip(*(part.levels for part in parts), strict=True))
        )
        for parts in found.values()
    ]


class PoseReader:
    """Reads where links are: two PyBullet calls a body, whatever the number of links."""

    def __init__(self, client: int, places: list[tuple[int, int]]) -> None:
        """Prepare to read the poses of ``places``, pairs of body and link."""
        self._client = client
        self._links: dict[int, list[int]] = {}
        for body, link in places:
            links = self._links.setdefault(body, [])
            if link not in links:
                links.append(link)
        rows: list[tuple[int, int]] = []
        bases, inertial = [], []
        for body, links in self._links.items():
            links.sort()
            rows += [(body, link) for link in links]
            if links[0] == -1:
                pose = pybullet.getDynamicsInfo(body, -1, physicsClientId=client)[3:5]
                if pose != _NOWHERE:
                    bases.append(rows.index((body, -1)))
                    inertial.append(_matrix(*pose))
        # PyBullet gives a base by its centre of mass.
        self._bases = np.array(bases, np.intp)
        self._inertial_from_base = np.linalg.inv(np.array(inertial).reshape(-1, 4, 4))
        self._order = np.array([rows.index(place) for place in places])

    def read(self) -> NDArray[np.float64]:
        """Return (N, 4, 4) ``world_from_link`` of the places, in their order."""
        numbers: list[float] = []
        for body, links in self._links.items():
            moving = links
            if links[0] == -1:
                position, quaternion = pybullet.getBasePositionAndOrientation(body, physicsClientId=self._client)
                numbers += position
                numbers += quaternion
                moving = links[1:]
            for state in pybullet.getLinkStates(body, moving, physicsClientId=self._client) if moving else ():
                numbers += state[4]
                numbers += state[5]
        poses = np.array(numbers).reshape(-1, 7)  # (7N,) -> (N, 7)
        world = matrices(poses[:, :3], poses[:, 3:])
        if len(self._bases):
            world[self._bases] = world[self._bases] @ self._inertial_from_base
        return world[self._order]
