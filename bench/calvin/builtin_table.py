"""The play table from numbers: base, cabinet, drawer, door, lever, button, lights and plank as convex pieces.

Nothing of CALVIN's is read.  Where the parts stand is in ``bench.calvin.scene``; how thick the boards are and where
the handles sit is here, measured on calvin_env ``data/calvin_table_*`` so that the same motion solves the same task.
Every link has CALVIN's name, joint, axis and range.  Curved handles are straight here, and the slots of the lever are
drawn but not cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.calvin.scene import BUTTON_RANGE, DRAWER_RANGE, SWITCH_RANGE, SceneSpec
from bench.calvin.shapes import BLACK, GREY, Box, Cylinder, Hull, Shape, Vector, numbers, prism, ring, shape_elements
from bench.calvin.textures import shade

_FRONT, _EDGE, _RIDGE, _BACK = -0.18, 0.02, 0.14, 0.18
_TOP, _ROOF = 0.44, 0.648
_SLOPE = math.radians(60.0)
# PyBullet's margin around a hull (gUrdfDefaultCollisionMargin).  CALVIN's base is a triangle mesh, which is touched at
# its surface; its moving parts are hulls, which are touched a margin further out.
_BASE_INSET = 0.001
_SLOT_LIGHT = 0.7
"""Share of the wood's light that a slot shows, and how wide it is: what CALVIN's cut slots look like from afar."""
_SLOT_HALF = 0.003


@dataclass(frozen=True)
class Link:
    """One link of the table and the joint that carries it; ``travel`` 0 means fixed.

    Attributes:
        name: link name; the joint is ``base__`` and the part's name.
        shapes: convex pieces in the link's frame.
        origin: where the joint stands in the table's frame, metres.
        roll: rotation of the joint frame about x, rad.
        axis: direction of the motion in the joint frame.
        travel: range of the motion, metres.
        mass: kg.
    """

    name: str
    shapes: tuple[Shape, ...]
    origin: Vector
    roll: float
    axis: Vector
    travel: float
    mass: float


def _base(scene: SceneSpec) -> tuple[Shape, ...]:
    left, right = scene.plank[0] - 0.26, scene.plank[0] + 0.26
    cavity_left, cavity_right = scene.drawer[0] - 0.2, scene.drawer[0] + 0.2
    side = ((_EDGE, 0.40), (_BACK, 0.40), (_BACK, _ROOF), (_RIDGE, _ROOF), (_EDGE, _TOP))
    under_roof = _EDGE + (0.628 - _TOP) / math.tan(_SLOPE)
    roof = ((under_roof, 0.628), (0.16, 0.628), (0.16, _ROOF), (_RIDGE, _ROOF))
    legs = [
        Box((x - 0.02, y - 0.016, 0.0), (x + 0.02, y + 0.016, 0.40)) for x in (-0.42, 0.42) for y in (-0.164, 0.164)
    ]
    boards = [
        Box((-0.44, _FRONT, 0.40), (0.44, _EDGE, _TOP)),
        Box((left, _EDGE, 0.40), (right, _BACK, 0.42)),
        Box((left, 0.16, 0.42), (right, _BACK, _ROOF)),
        Box((-0.42, -0.16, 0.30), (0.42, 0.16, 0.32)),
        Box((-0.42, -0.16, 0.32), (cavity_left, 0.16, 0.40)),
        Box((cavity_right, -0.16, 0.32), (0.42, 0.16, 0.40)),
        Box((cavity_left, 0.06, 0.32), (cavity_right, 0.16, 0.40)),
    ]
    wedges = [
        prism(side, -0.44, left),
        prism(side, right, 0.44),
        prism(roof, left, right),
    ]
    button_ring = ring(12, 0.03, 0.04, _TOP, 0.46, scene.button[:2])
    return (*boards, *legs, *wedges, *button_ring, *_lever_slots(scene))


def _lever_slots(scene: SceneSpec) -> list[Hull]:
    """Two strips on the slope, darker than its wood, along which the lever's posts run."""
    along = (math.cos(_SLOPE), math.sin(_SLOPE))
    outward = (-math.sin(_SLOPE) * 0.0006, math.cos(_SLOPE) * 0.0006)
    strips = []
    for x in (scene.switch[0] - 0.05, scene.switch[0] + 0.05):
        corners = [
            (_EDGE + along[0] * at + outward[0] * lift, _TOP + along[1] * at + outward[1] * lift)
            for at in (0.056, 0.18)
            for lift in (0.0, 1.0)
        ]
        points = tuple((x + dx, y, z) for dx in (-_SLOT_HALF, _SLOT_HALF) for y, z in corners)
        strips.append(Hull(points, shade(scene.materials["base_link"], _SLOT_LIGHT), collides=False))
    return strips


def _drawer_shapes() -> tuple[Shape, ...]:
    # y is up, z towards the robot
    return (
        Box((-0.22, -0.02, 0.158), (0.22, 0.08, 0.18)),
        Box((-0.20, 0.0, -0.06), (0.20, 0.02, 0.158)),
        Box((-0.20, 0.02, -0.06), (0.20, 0.08, -0.04)),
        Box((-0.20, 0.02, -0.04), (-0.178, 0.08, 0.158)),
        Box((0.178, 0.02, -0.04), (0.20, 0.08, 0.158)),
        Box((-0.12, 0.02, 0.18), (-0.096, 0.06, 0.26), GREY),
        Box((0.096, 0.02, 0.18), (0.12, 0.06, 0.26), GREY),
        Box((-0.096, 0.02, 0.239), (0.096, 0.06, 0.26), GREY),
    )


def _slide_shapes() -> tuple[Shape, ...]:
    # y is up the slope, z out of it
    return (
        Box((0.0, -0.12, 0.0), (0.28, 0.12, 0.021)),
        Box((0.12, -0.08, 0.021), (0.16, -0.058, 0.08), GREY),
        Box((0.12, 0.058, 0.021), (0.16, 0.08, 0.08), GREY),
        Box((0.12, -0.058, 0.0575), (0.16, 0.058, 0.08), GREY),
    )


def _switch_shapes() -> tuple[Shape, ...]:
    # y is out of the slope, z down it
    return (
        Box((-0.06, 0.0, -0.024), (-0.04, 0.064, 0.008), GREY),
        Box((0.04, 0.0, -0.024), (0.06, 0.064, 0.008), GREY),
        Box((-0.04, 0.0436, -0.024), (0.04, 0.064, 0.008), GREY),
    )


def _bulb_shapes() -> tuple[Shape, ...]:
    profile = (
        (0.0, 0.012),
        (0.012, 0.013),
        (0.018, 0.022),
        (0.026, 0.027),
        (0.034, 0.025),
        (0.043, 0.017),
        (0.05, 0.0),
    )
    points = tuple(
        (radius * math.cos(angle), height, radius * math.sin(angle) - 0.028)
        for height, radius in profile
        for angle in (2 * math.pi * i / 16 for i in range(16 if radius else 1))
    )
    return (Hull(points),)


def table_links(scene: SceneSpec) -> tuple[Link, ...]:
    """Return the moving and fixed links of ``scene``'s table in CALVIN's order; the base comes apart."""
    half = math.pi / 2
    return (
        Link(
            "button", (Cylinder(0.032, 0.0, 0.024, colour=BLACK),), scene.button, half, (0, -1, 0), BUTTON_RANGE, 0.154
        ),
        Link("switch", _switch_shapes(), scene.switch, math.radians(150), (0, 0, -1), SWITCH_RANGE, 0.239),
        Link("slide", _slide_shapes(), scene.slide, _SLOPE, (-1, 0, 0), scene.slide_range, 1.543),
        Link("drawer", _drawer_shapes(), scene.drawer, half, (0, 0, 1), DRAWER_RANGE, 4.231),
        Link("led", (Box((-0.08, 0.0, -0.02), (0.08, 0.016, 0.02)),), scene.led, half, (0, 0, 0), 0.0, 0.204),
        Link("light", _bulb_shapes(), scene.bulb, half, (0, 0, 0), 0.0, 0.174),
        Link("plank", (Box((-0.26, 0.0, -0.07), (0.26, 0.02, 0.07)),), scene.plank, half, (0, 0, 0), 0.0, 2.844),
    )


def _link_element(name: str, shapes: tuple[Shape, ...], mass: float, inset: float) -> tuple[str, dict[str, str]]:
    inertia = '<inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.01"/>'
    text = f'<link name="{name}"><inertial><mass value="{mass}"/>{inertia}</inertial>'
    meshes: dict[str, str] = {}
    for index, shape in enumerate(shapes):
        elements, files = shape_elements(shape, f"{name}_{index}", inset)
        text += elements
        meshes |= files
    return f"{text}</link>", meshes


def _joint_element(link: Link) -> str:
    kind = "prismatic" if link.travel else "fixed"
    return (
        f'<joint name="base__{link.name}" type="{kind}">'
        f'<origin xyz="{numbers(link.origin)}" rpy="{numbers((link.roll, 0, 0))}"/>'
        f'<parent link="base_link"/><child link="{link.name}_link"/><axis xyz="{numbers(link.axis)}"/>'
        f'<limit lower="0" upper="{link.travel:.9g}" effort="0" velocity="0"/></joint>'
    )


def table_urdf(scene: SceneSpec) -> tuple[str, dict[str, str]]:
    """Return the table's URDF text and the mesh files (name -> OBJ text) that it names."""
    text, meshes = _link_element("base_link", _base(scene), 0.0, _BASE_INSET)
    parts = [text]
    for link in table_links(scene):
        text, files = _link_element(f"{link.name}_link", link.shapes, link.mass, 0.0)
        parts += [text, _joint_element(link)]
        meshes |= files
    body = "\n".join(parts)
    return f'<?xml version="1.0"?>\n<robot name="play_table_{scene.name}">\n{body}\n</robot>\n', meshes
