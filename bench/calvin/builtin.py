"""The built-in backend: URDF files made from numbers, written once a process to a temporary folder.

The Panda is ``pybullet_data``'s with longer fingers, gel tips, a camera mount and a tool centre point; links and joint
ids are those of CALVIN's ``panda_longer_finger.urdf``, whose numbers are cited below.  Nothing is downloaded and
nothing of CALVIN's is copied.
"""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pybullet_data

from bench.calvin.assets import WorldFiles
from bench.calvin.bare import scratch_folder
from bench.calvin.builtin_table import table_urdf
from bench.calvin.scene import BLOCK_COLOURS, Block, SceneSpec, scene_named
from bench.calvin.shapes import Box, Hull, numbers, shape_elements

# In the finger's frame: y away from the other finger, z towards the tip; calvin_env longer_finger_v2.obj, measured.
_FINGER_PROFILE = ((0.0045, 0.0), (0.027, 0.0), (0.0212, 0.036), (0.0066, 0.094), (0.0042, 0.096))
# In the tip's frame: x towards the other finger from -0.021; calvin_env digit_gel_only.STL, measured.
_GEL_BACK, _GEL_FRONT = 0.0161, 0.0201
_TIP_ORIGIN = (0.0009, 0.021, 0.066)


def builtin_files(scene: SceneSpec) -> WorldFiles:
    """Return the files of the built-in ``scene``; made at the first call."""
    return _scene_files(scene.name)


@functools.cache
def _scene_files(name: str) -> WorldFiles:
    scene = scene_named(name)
    folder = scratch_folder() / name
    folder.mkdir(parents=True)
    urdf, meshes = table_urdf(scene)
    table = _write(folder / "table.urdf", urdf)
    for filename, text in meshes.items():
        _write(folder / filename, text)
    blocks = {block.name: _write(folder / f"{block.name}.urdf", _block_urdf(block)) for block in scene.blocks}
    plane = Path(pybullet_data.getDataPath()) / "plane.urdf"
    return WorldFiles(robot=_robot(), blocks=blocks, table=table, plane=plane, scaling=1.0, original=False)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _block_urdf(block: Block) -> str:
    contact = '<contact><lateral_friction value="0.7"/><spinning_friction value="0.001"/></contact>'
    inertial = '<inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>'
    box = f'<geometry><box size="{numbers(block.extents)}"/></geometry>'
    rgba = numbers((*BLOCK_COLOURS[block.colour], 1.0))
    visual = f'<visual>{box}<material name="{block.colour}"><color rgba="{rgba}"/></material></visual>'
    link = f'<link name="base_link">{contact}{inertial}{visual}<collision>{box}</collision></link>'
    return f'<?xml version="1.0"?>\n<robot name="{block.name}">{link}</robot>\n'


@functools.cache
def _robot() -> Path:
    source = Path(pybullet_data.getDataPath()) / "franka_panda"
    folder = scratch_folder() / "robot"
    folder.mkdir(parents=True)
    tree = ElementTree.parse(source / "panda.urdf")
    root = tree.getroot()
    meshes: dict[str, str] = {}
    for mesh in root.iter("mesh"):
        mesh.set("filename", mesh.get("filename", "").replace("package://", f"{source}/"))
    for side, sign in (("left", 1), ("right", -1)):
        meshes |= _lengthen_finger(root, side, sign)
    additions, files = _additions()
    root.extend(additions)
    for filename, text in (meshes | files).items():
        _write(folder / filename, text)
    tree.write(folder / "panda_longer_finger.urdf")
    return folder / "panda_longer_finger.urdf"


def _gel_hull() -> Hull:
    back = tuple((x, y, z) for x in (_GEL_BACK, 0.0181) for y in (-0.0092, 0.0092) for z in (0.0047, 0.0297))
    front = tuple((_GEL_FRONT, y, z) for y in (-0.0055, 0.0055) for z in (0.0095, 0.025))
    return Hull((*back, *front))


def _lengthen_finger(root: ElementTree.Element, side: str, sign: int) -> dict[str, str]:
    link = next(link for link in root.iter("link") if link.get("name") == f"panda_{side}finger")
    for tag in ("visual", "collision"):
        for element in link.findall(tag):
            link.remove(element)
    finger = Hull(tuple((x, sign * y, z) for x in (-0.0105, 0.0105) for y, z in _FINGER_PROFILE))
    text, meshes = shape_elements(finger, f"finger_{side}")
    link.extend(ElementTree.fromstring(f"<parts>{text}</parts>"))
    return meshes


def _additions() -> tuple[list[ElementTree.Element], dict[str, str]]:
    """Return camera mount, tool centre point and tips, in the order that gives CALVIN's joint ids, and their meshes."""
    mount, meshes = shape_elements(Box((-0.04, -0.0125, -0.005), (0.04, 0.0125, 0.005), collides=False), "mount")
    text = _joint("camera_joint", "panda_hand", "gripper_cam", (-0.1, 0, 0), (1.3, 0, -1.57))
    text += _link("gripper_cam", 0.2, 0.1, mount)
    text += _joint("tcp_joint", "panda_hand", "tcp", (0, 0, 0.14), (0, 0, 0)) + _link("tcp", 0.00001, 0.1, "")
    contact = '<contact><lateral_friction value="1"/><spinning_friction value="0.001"/></contact>'
    for side, sign in (("left", 1), ("right", -1)):
        origin = (sign * _TIP_ORIGIN[0], sign * _TIP_ORIGIN[1], _TIP_ORIGIN[2])
        name = f"finger_{side}_tip"
        gel, files = shape_elements(_gel_hull(), f"gel_{side}")
        text += _joint(f"joint_finger_tip_{side}", f"panda_{side}finger", name, origin, (0, 0, -sign * 1.57))
        text += _link(name, 0.0001, 1.0, contact + gel)
        meshes |= files
    return list(ElementTree.fromstring(f"<parts>{text}</parts>")), meshes


def _joint(name: str, parent: str, child: str, xyz: tuple[float, ...], rpy: tuple[float, ...]) -> str:
    origin = f'<origin xyz="{numbers(xyz)}" rpy="{numbers(rpy)}"/>'
    return f'<joint name="{name}" type="fixed"><parent link="{parent}"/><child link="{child}"/>{origin}</joint>'


def _link(name: str, mass: float, inertia: float, parts: str) -> str:
    diagonal = f'<inertia ixx="{inertia}" ixy="0" ixz="0" iyy="{inertia}" iyz="0" izz="{inertia}"/>'
    return f'<link name="{name}"><inertial><mass value="{mass}"/>{diagonal}</inertial>{parts}</link>'
