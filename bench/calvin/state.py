"""The part of the world that a task is judged by, as plain data: no simulator behind it.

``CalvinEnv.state()`` fills it, ``bench.calvin.tasks`` judges two of them (start of the subtask, now), and a recorded
state judges the same as a live one.  Names stand where CALVIN's ``info`` has PyBullet's body ids, so that a state can
be compared between backends (calvin_env ``envs/play_table_env.py: get_info``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BLOCKS = ("block_red", "block_blue", "block_pink")
ROBOT = "robot"
TABLE = "table"
PLANE = "plane"

Contact = tuple[str, str | int]
"""The other body's name and its link: a link name for the table, PyBullet's link index for any other body."""


@dataclass(frozen=True)
class BlockState:
    """One block in the world frame.

    Attributes:
        position: x, y, z in metres.
        quaternion: x, y, z, w.
        linear_velocity: m/s.
        angular_velocity: rad/s.
        contacts: every (body, link) that ``getContactPoints`` reports; distance is not filtered.
    """

    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    linear_velocity: tuple[float, float, float]
    angular_velocity: tuple[float, float, float]
    contacts: frozenset[Contact]


@dataclass(frozen=True)
class WorldState:
    """What CALVIN's task oracle looks at.

    Attributes:
        blocks: ``block_red``, ``block_blue``, ``block_pink``.
        robot_contacts: every (body, link) that the robot touches.
        slider: joint position in metres, + is left.
        drawer: joint position in metres, + is open.
        lightbulb: 0 or 1.
        led: 0 or 1.
    """

    blocks: Mapping[str, BlockState]
    robot_contacts: frozenset[Contact]
    slider: float
    drawer: float
    lightbulb: int
    led: int
