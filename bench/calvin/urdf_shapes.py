"""The visual shapes of a URDF file, as PyBullet would tell them.

PyBullet keeps every visual mesh in memory for its own renderers (90 MB for a Panda) and reads it again at each load.
A world loaded with ``URDF_IGNORE_VISUAL_SHAPES`` does without, and the GL renderer asks this file instead.  Only what
robots and tables need is read: boxes, cylinders, spheres and meshes, colours by material.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.calvin.bullet import pybullet
from bench.errors import UserError

Colour = tuple[float, float, float, float]


class VisualShape(NamedTuple):
    """One visual shape, in the order of ``pybullet.getVisualShapeData``.

    Attributes:
        link: link name.
        kind: ``pybullet.GEOM_BOX``, ``GEOM_CYLINDER``, ``GEOM_SPHERE`` or ``GEOM_MESH``.
        dimensions: edge lengths; length, radius, 0; radius, 0, 0; or the mesh's scale.
        filename: the mesh file, or "".
        position: of the shape in the link's frame, metres.
        quaternion: x, y, z, w.
        rgba: colour, 0..1.
    """

    link: str
    kind: int
    dimensions: tuple[float, float, float]
    filename: str
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    rgba: Colour


def _numbers(element: ElementTree.Element | None, name: str, default: str) -> list[float]:
    return [float(value) for value in (default if element is None else element.get(name, default)).split()]


def _geometry(element: ElementTree.Element, folder: Path, scaling: float) -> tuple[int, Any, str]:
    shape = element[0]
    if shape.tag == "box":
        return pybullet.GEOM_BOX, tuple(value * scaling for value in _numbers(shape, "size", "")), ""
    if shape.tag == "sphere":
        return pybullet.GEOM_SPHERE, (float(shape.get("radius", "0")) * scaling, 0.0, 0.0), ""
    if shape.tag == "cylinder":
        length, radius = (float(shape.get(name, "0")) * scaling for name in ("length", "radius"))
        return pybullet.GEOM_CYLINDER, (length, radius, 0.0), ""
    if shape.tag == "mesh":
        scale = tuple(value * scaling for value in _numbers(shape, "scale", "1 1 1"))
        return pybullet.GEOM_MESH, scale, str(folder / shape.get("filename", "").removeprefix("package://"))
    raise UserError(f"URDF: expected a box, cylinder, sphere or mesh, got <{shape.tag}>; draw it as one of them")


def visual_shapes(urdf: Path, scaling: float = 1.0) -> list[VisualShape]:
    """Return what every link of a URDF shows, in the file's order.

    Args:
        urdf: the file.
        scaling: PyBullet's ``globalScaling``.

    Raises:
        UserError: the file is no URDF or has a shape that cannot be drawn.
    """
    try:
        root = ElementTree.parse(urdf).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{urdf}: expected a URDF file, got {error}; check the folder of assets") from None
    colours: dict[str, Colour] = {}
    for material in root.iter("material"):
        if material.find("color") is not None:
            r, g, b, a = _numbers(material.find("color"), "rgba", "1 1 1 1")
            colours.setdefault(material.get("name", ""), (r, g, b, a))
    shapes = []
    for link in root.iter("link"):
        for visual in link.iter("visual"):
            origin, geometry, material_element = (visual.find(tag) for tag in ("origin", "geometry", "material"))
            if geometry is None or len(geometry) == 0:
                continue
            kind, dimensions, filename = _geometry(geometry, urdf.parent, scaling)
            position = np.array(_numbers(origin, "xyz", "0 0 0")) * scaling
            quaternion = pybullet.getQuaternionFromEuler(_numbers(origin, "rpy", "0 0 0"))
            name = "" if material_element is None else material_element.get("name", "")
            rgba = colours.get(name, (1.0, 1.0, 1.0, 1.0))
            x, y, z = position.tolist()
            shapes.append(VisualShape(link.get("name", ""), kind, dimensions, filename, (x, y, z), quaternion, rgba))
    return shapes
