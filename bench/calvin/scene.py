"""The four play tables as numbers: where every part stands, how far it moves, what it is made of.

This file knows no simulator and no file on disk.  Lengths are metres in the world frame *after* CALVIN's global
scaling of 0.8; the table stands at the origin, +x right and +y away as seen by the robot.  The numbers come from
CALVIN's scene files (calvin_env ``conf/scene/calvin_scene_{A,B,C,D}.yaml`` and ``data/calvin_table_*/urdf``).

Materials: ``SceneSpec.materials`` maps a table link to a material *name* (``"dark_wood_d"``, …).  Names that begin
with a wood and differ in their last letter are the same kind of wood from different boards: CALVIN's A and C share one
set of textures, B and D another.  A renderer draws a procedural texture for a name; a link that is absent here has the
plain colour of its visual shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from bench.errors import UserError

Vector = tuple[float, float, float]

ROBOT_BASE: Vector = (-0.34, -0.46, 0.24)
ARM_REST = (-1.21779206, 1.03987646, 2.11978261, -2.34205014, -0.87015947, 1.64119353, 0.55344866)
"""Joint angles of the arm at a default reset, rad."""

TABLE_TOP = 0.44
DRAWER_RANGE = 0.22
BUTTON_RANGE = 0.02
SWITCH_RANGE = 0.088

BLOCK_SIZES: Mapping[str, Vector] = MappingProxyType(
    {"small": (0.04, 0.04, 0.04), "middle": (0.056, 0.04, 0.04), "big": (0.08, 0.04, 0.04)}
)
BLOCK_COLOURS: Mapping[str, Vector] = MappingProxyType(
    {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0), "pink": (1.0, 0.0, 1.0)}
)
LIGHT_COLOURS: Mapping[str, Vector] = MappingProxyType({"lightbulb": (1.0, 1.0, 0.0), "led": (0.0, 1.0, 0.0)})
"""Colour of a light that is on; off is white."""


@dataclass(frozen=True)
class Block:
    """A coloured block: ``colour`` is a key of BLOCK_COLOURS, ``size`` one of BLOCK_SIZES."""

    colour: str
    size: str

    @property
    def name(self) -> str:
        """Return the name that tasks and states use, ``block_red`` for instance."""
        return f"block_{self.colour}"

    @property
    def extents(self) -> Vector:
        """Return the edge lengths in metres."""
        return BLOCK_SIZES[self.size]


@dataclass(frozen=True)
class Surface:
    """A rectangle on which a default reset places blocks: corners of the block centre, metres."""

    low: Vector
    high: Vector


@dataclass(frozen=True)
class SceneSpec:
    """One play table.

    Attributes:
        name: ``A`` … ``D``.
        button: origin of the button joint; the button goes down by BUTTON_RANGE.
        switch: origin of the lever's joint; the lever moves along a slope by SWITCH_RANGE.
        slide: origin of the cabinet door's joint; it moves to -x.
        slide_range: how far the door moves, metres.
        drawer: origin of the drawer's joint; it opens to -y by DRAWER_RANGE.
        led: centre of the lower face of the green light's box.
        bulb: origin of the light bulb.
        plank: origin of the cabinet's floor.
        blocks: in the order of ``scene_obs`` and of PyBullet's body ids.
        surfaces: where a default reset places blocks.
        materials: link name -> material name.
    """

    name: str
    button: Vector
    switch: Vector
    slide: Vector
    slide_range: float
    drawer: Vector
    led: Vector
    bulb: Vector
    plank: Vector
    blocks: tuple[Block, Block, Block]
    surfaces: Mapping[str, Surface]
    materials: Mapping[str, str]

    def __post_init__(self) -> None:
        if len({block.colour for block in self.blocks}) != len(BLOCK_COLOURS):
            raise ValueError(f"scene {self.name}: expected one block of each colour, got {self.blocks}")
        if not 0.0 < self.slide_range < 0.4:
            raise ValueError(f"scene {self.name}: slide_range {self.slide_range} m does not fit on the table")

    def block_names(self) -> tuple[str, ...]:
        """Return the block names in ``scene_obs`` order."""
        return tuple(block.name for block in self.blocks)

    def sample_pose(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw where a block may stand: position (3,) in metres and xyz Euler angles (3,), yaw only.

        The order of the draws is CALVIN's (``movable_object.py: sample_initial_pose``), so that a generator in the
        same state gives the same pose.
        """
        surface = self.surfaces[str(rng.choice(list(self.surfaces)))]
        position = rng.uniform(np.array(surface.low), np.array(surface.high))
        return position, rng.uniform([0.0, 0.0, -np.pi], [0.0, 0.0, np.pi])


def _surfaces(**corners: tuple[float, float, float, float]) -> Mapping[str, Surface]:
    return MappingProxyType(
        {name: Surface((x0, y0, 0.46), (x1, y1, 0.46)) for name, (x0, x1, y0, y1) in corners.items()}
    )


def _materials(base: str, front: str) -> Mapping[str, str]:
    return MappingProxyType({"base_link": base, "plank_link": base, "drawer_link": front, "slide_link": front})


SCENES: Mapping[str, SceneSpec] = MappingProxyType(
    {
        "A": SceneSpec(
            name="A",
            button=(-0.28, -0.12, 0.46),
            switch=(0.30, 0.0609282, 0.4948897),
            slide=(-0.10, 0.075, 0.535264),
            slide_range=0.28,
            drawer=(0.10, 0.0, 0.32),
            led=(-0.28, 0.16, 0.6478461),
            bulb=(0.30, 0.132, 0.647848),
            plank=(-0.10, 0.09, 0.42),
            blocks=(Block("pink", "small"), Block("blue", "big"), Block("red", "middle")),
            surfaces=_surfaces(
                table=(-0.2, 0.35, -0.15, -0.03),
                slider_left=(-0.32, -0.16, 0.05, 0.12),
                slider_right=(-0.05, 0.13, 0.05, 0.12),
            ),
            materials=_materials("dark_wood_a", "dark_wood_a"),
        ),
        "B": SceneSpec(
            name="B",
            button=(0.28, -0.12, 0.46),
            switch=(-0.32, 0.0609282, 0.4948897),
            slide=(0.088, 0.075, 0.535264),
            slide_range=0.304,
            drawer=(0.18, 0.0, 0.32),
            led=(0.28, 0.16, 0.6478461),
            bulb=(-0.32, 0.136, 0.647848),
            plank=(0.08, 0.09, 0.42),
            blocks=(Block("red", "small"), Block("blue", "big"), Block("pink", "middle")),
            surfaces=_surfaces(
                table=(-0.35, 0.15, -0.15, -0.03),
                slider_left=(-0.12, 0.06, 0.05, 0.12),
                slider_right=(0.15, 0.33, 0.05, 0.12),
            ),
            materials=_materials("light_wood_b", "light_wood_b"),
        ),
        "C": SceneSpec(
            name="C",
            button=(-0.12, -0.12, 0.46),
            switch=(-0.32, 0.0609282, 0.4948897),
            slide=(0.06, 0.075, 0.535264),
            slide_range=0.24,
            drawer=(0.10, 0.0, 0.32),
            led=(-0.12, 0.16, 0.6478461),
            bulb=(-0.32, 0.132, 0.647848),
            plank=(0.08, 0.09, 0.42),
            blocks=(Block("blue", "small"), Block("red", "big"), Block("pink", "middle")),
            surfaces=_surfaces(
                table=(0.0, 0.35, -0.15, -0.03),
                slider_left=(-0.12, 0.06, 0.05, 0.12),
                slider_right=(0.15, 0.30, 0.05, 0.12),
            ),
            materials=_materials("wood_c", "dark_wood_a"),
        ),
        "D": SceneSpec(
            name="D",
            button=(-0.12, -0.12, 0.46),
            switch=(0.30, 0.0609282, 0.4948897),
            slide=(-0.10, 0.075, 0.535264),
            slide_range=0.28,
            drawer=(0.18, 0.0, 0.32),
            led=(-0.12, 0.16, 0.6478461),
            bulb=(0.30, 0.132, 0.647848),
            plank=(-0.10, 0.09, 0.42),
            blocks=(Block("red", "middle"), Block("blue", "small"), Block("pink", "big")),
            surfaces=_surfaces(
                table=(0.0, 0.35, -0.15, -0.03),
                slider_left=(-0.32, -0.16, 0.05, 0.12),
                slider_right=(-0.05, 0.13, 0.05, 0.12),
            ),
            materials=_materials("dark_wood_d", "dark_wood_d"),
        ),
    }
)


def scene_named(name: str) -> SceneSpec:
    """Return the scene ``A`` … ``D``; CALVIN's own name ``calvin_scene_D`` is understood too."""
    scene = SCENES.get(str(name).removeprefix("calvin_scene_").upper())
    if scene is None:
        raise UserError(f"scene: expected one of {', '.join(SCENES)}, got {name!r}; choose one of them")
    return scene
