"""Boxes, cylinders and prisms as URDF text: what the built-in table and fingers are made of.

Every shape is convex, so that one description serves contact and picture.  The mesh files are made here too, with a
corner for every face so that edges stay sharp.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.calvin.hulls import convex_hull, shrunk

Vector = tuple[float, float, float]
Colour = tuple[float, float, float]

WHITE: Colour = (1.0, 1.0, 1.0)
GREY: Colour = (0.4, 0.4, 0.4)
BLACK: Colour = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Box:
    """A box between two corners; seen as a box, touched as the convex hull of its corners."""

    low: Vector
    high: Vector
    colour: Colour = WHITE
    collides: bool = True
    drawn: bool = True

    def __post_init__(self) -> None:
        if any(high <= low for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"box: expected high > low on every axis, got {self.low} and {self.high}")

    @property
    def points(self) -> tuple[Vector, ...]:
        """Return the eight corners."""
        xs, ys, zs = zip(self.low, self.high, strict=True)
        return tuple((x, y, z) for x in xs for y in ys for z in zs)


@dataclass(frozen=True)
class Cylinder:
    """A cylinder along the link's y axis, from ``low`` to ``high``, around (x, z) = ``centre``."""

    radius: float
    low: float
    high: float
    centre: tuple[float, float] = (0.0, 0.0)
    colour: Colour = WHITE
    collides: bool = True
    drawn: bool = True

    @property
    def points(self) -> tuple[Vector, ...]:
        """Return the corners of a 24-sided prism."""
        angles = [2 * math.pi * i / 24 for i in range(24)]
        return tuple(
            (self.centre[0] + self.radius * math.cos(a), y, self.centre[1] + self.radius * math.sin(a))
            for a in angles
            for y in (self.low, self.high)
        )


@dataclass(frozen=True)
class Hull:
    """The convex hull of some points."""

    points: tuple[Vector, ...]
    colour: Colour = WHITE
    collides: bool = True
    drawn: bool = True


Shape = Box | Cylinder | Hull


@functools.lru_cache(maxsize=256)
def hull_obj(points: tuple[Vector, ...], inset: float = 0.0) -> str:
    """Return the convex hull of points as Wavefront OBJ text, outward faces with one normal each.

    Args:
        points: corners in metres.
        inset: move every face inwards by so much, metres: Bullet adds a margin around a hull.
    """
    corners = np.array(points)
    if inset:
        corners = shrunk(corners, inset)
    triangles, outward = convex_hull(corners)
    vertices: list[str] = []
    normals: list[str] = []
    faces: list[str] = []
    for triangle, normal in zip(corners[triangles].tolist(), outward.tolist(), strict=True):
        start = len(vertices) + 1
        vertices += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in triangle]
        normals.append("vn {:.6f} {:.6f} {:.6f}".format(*normal))
        faces.append("f " + " ".join(f"{start + i}//{len(normals)}" for i in range(3)))
    return "\n".join((*vertices, *normals, *faces, ""))


def prism(outline: Sequence[tuple[float, float]], low: float, high: float, colour: Colour = WHITE) -> Hull:
    """Return the convex body that the outline (y, z) sweeps from x = ``low`` to x = ``high``."""
    return Hull(tuple((x, y, z) for x in (low, high) for y, z in outline), colour)


def ring(count: int, inner: float, outer: float, low: float, high: float, at: tuple[float, float]) -> list[Hull]:
    """Return an upright ring around (x, y) = ``at`` as ``count`` convex pieces, from z = ``low`` to ``high``."""
    corners = [2 * math.pi * i / count for i in range(count + 1)]
    return [
        Hull(
            tuple(
                (at[0] + radius * math.cos(angle), at[1] + radius * math.sin(angle), z)
                for radius in (inner, outer)
                for angle in pair
                for z in (low, high)
            )
        )
        for pair in pairwise(corners)
    ]


def numbers(values: Sequence[float]) -> str:
    """Return numbers as URDF writes them."""
    return " ".join(f"{value:.9g}" for value in values)


def _mesh(name: str) -> str:
    return f'<geometry><mesh filename="{name}.obj"/></geometry>'


def _picture(shape: Shape, name: str) -> str:
    if isinstance(shape, Box):
        middle = [(a + b) / 2 for a, b in zip(shape.low, shape.high, strict=True)]
        size = numbers([b - a for a, b in zip(shape.low, shape.high, strict=True)])
        return f'<origin xyz="{numbers(middle)}"/><geometry><box size="{size}"/></geometry>'
    if isinstance(shape, Cylinder):
        middle = [shape.centre[0], (shape.low + shape.high) / 2, shape.centre[1]]
        form = f'<cylinder radius="{shape.radius:.9g}" length="{shape.high - shape.low:.9g}"/>'
        return f'<origin xyz="{numbers(middle)}" rpy="{math.pi / 2:.9g} 0 0"/><geometry>{form}</geometry>'
    return _mesh(name)


def shape_elements(shape: Shape, name: str, inset: float = 0.0) -> tuple[str, dict[str, str]]:
    """Return a shape's ``visual`` and ``collision`` elements, and the mesh files (name -> text) that they need.

    Contact is always with a hull, as with CALVIN's meshes: Bullet's box against box would report a block that lies on
    the table only from the second step on.

    Args:
        shape: what to describe.
        name: unique among the shapes of one folder.
        inset: see ``hull_obj``; for the contact only.
    """
    text, meshes = "", {}
    if shape.drawn:
        colour = f'<material name="{name}"><color rgba="{numbers((*shape.colour, 1.0))}"/></material>'
        text += f"<visual>{_picture(shape, name)}{colour}</visual>"
        if isinstance(shape, Hull):
            meshes[f"{name}.obj"] = hull_obj(shape.points)
    if shape.collides:
        text += f"<collision>{_mesh(f'{name}_contact')}</collision>"
        meshes[f"{name}_contact.obj"] = hull_obj(shape.points, inset)
    return text, meshes
