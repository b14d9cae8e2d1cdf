"""Boxes, cylinders and prisms as URDF text: what the built-in table and fingers are made of.

Every shape is convex, so that one description serves contact and picture.  Prisms and turned bodies need a mesh file;
its text is made here too, with a corner for every face so that edges stay sharp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import quoteattr

import numpy as np
from scipy.spatial import ConvexHull

Vector = tuple[float, float, float]
Colour = tuple[float, float, float]

WHITE: Colour = (1.0, 1.0, 1.0)
GREY: Colour = (0.4, 0.4, 0.4)
BLACK: Colour = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Box:
    """A box between two corners, turned about the link's origin by ``yaw`` (about z) afterwards."""

    low: Vector
    high: Vector
    colour: Colour = WHITE
    yaw: float = 0.0
    collides: bool = True
    drawn: bool = True

    def __post_init__(self) -> None:
        if any(high <= low for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"box: expected high > low on every axis, got {self.low} and {self.high}")


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


@dataclass(frozen=True)
class Hull:
    """The convex hull of some points, written to a mesh file called ``name``."""

    name: str
    points: tuple[Vector, ...]
    colour: Colour = WHITE
    collides: bool = True
    drawn: bool = True

    def obj(self) -> str:
        """Return the hull as Wavefront OBJ text with outward faces and one normal a face."""
        points = np.array(self.points)
        hull = ConvexHull(points)
        middle = points[hull.vertices].mean(axis=0)
        vertices: list[str] = []
        normals: list[str] = []
        faces: list[str] = []
        for corners, plane in zip(hull.simplices, hull.equations, strict=True):
            triangle = points[corners]
            normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
            if normal @ (triangle[0] - middle) < 0:
                triangle = triangle[::-1]
            start = len(vertices) + 1
            vertices += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in triangle]
            normals.append(f"vn {plane[0]:.6f} {plane[1]:.6f} {plane[2]:.6f}")
            faces.append("f " + " ".join(f"{start + i}//{len(normals)}" for i in range(3)))
        return "\n".join((*vertices, *normals, *faces, ""))


Shape = Box | Cylinder | Hull


def prism(name: str, outline: Sequence[tuple[float, float]], low: float, high: float, colour: Colour = WHITE) -> Hull:
    """Return the convex body that the outline (y, z) sweeps from x = ``low`` to x = ``high``."""
    return Hull(name, tuple((x, y, z) for x in (low, high) for y, z in outline), colour)


def ring(count: int, inner: float, outer: float, low: float, high: float, at: tuple[float, float]) -> list[Hull]:
    """Return an upright ring around (x, y) = ``at`` as ``count`` convex pieces, from z = ``low`` to ``high``."""
    corners = [2 * math.pi * i / count for i in range(count + 1)]
    pieces = []
    for index, (a, b) in enumerate(pairwise(corners)):
        points = tuple(
            (at[0] + radius * math.cos(angle), at[1] + radius * math.sin(angle), z)
            for radius in (inner, outer)
            for angle in (a, b)
            for z in (low, high)
        )
        pieces.append(Hull(f"ring{index}", points))
    return pieces


def _geometry(shape: Shape) -> tuple[str, Vector, Vector]:
    if isinstance(shape, Box):
        middle = [(a + b) / 2 for a, b in zip(shape.low, shape.high, strict=True)]
        size = " ".join(f"{b - a:.6f}" for a, b in zip(shape.low, shape.high, strict=True))
        cosine, sine = math.cos(shape.yaw), math.sin(shape.yaw)
        turned = (cosine * middle[0] - sine * middle[1], sine * middle[0] + cosine * middle[1], middle[2])
        return f'<box size="{size}"/>', turned, (0.0, 0.0, shape.yaw)
    if isinstance(shape, Cylinder):
        text = f'<cylinder radius="{shape.radius:.6f}" length="{shape.high - shape.low:.6f}"/>'
        return text, (shape.centre[0], (shape.low + shape.high) / 2, shape.centre[1]), (math.pi / 2, 0.0, 0.0)
    return f"<mesh filename={quoteattr(shape.name + '.obj')}/>", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)


def numbers(values: Sequence[float]) -> str:
    """Return numbers as URDF writes them."""
    return " ".join(f"{value:.9g}" for value in values)


def shape_elements(shape: Shape, material: str) -> str:
    """Return the ``visual`` and ``collision`` elements of a shape; ``material`` must be unique in its URDF."""
    geometry, xyz, rpy = _geometry(shape)
    origin = f'<origin xyz="{numbers(xyz)}" rpy="{numbers(rpy)}"/><geometry>{geometry}</geometry>'
    colour = f'<material name="{material}"><color rgba="{numbers((*shape.colour, 1.0))}"/></material>'
    text = ""
    if shape.drawn:
        text += f"<visual>{origin}{colour}</visual>"
    if shape.collides:
        text += f"<collision>{origin}</collision>"
    return text
