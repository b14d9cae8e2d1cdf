"""The table's moving parts: slider, drawer, button, switch lever and the two lights they turn on.

Order of calls, forces and thresholds follow calvin_env ``calvin_env/scene/objects/{door,button,switch,light}.py``.
What a *press* does to the green light differs between two versions of the original (see ``LED_BUTTONS``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.calvin.bullet import pybullet
from bench.calvin.scene import LIGHT_COLOURS

LED_BUTTONS = ("main", "pinned")
"""``main``: calvin_env's main branch, where a press always toggles the light.  ``pinned``: the commit that mees/calvin
pins (1431a46), where after a reset with the light on the first press leaves it on."""

Joints = tuple[float, float, float, float]
"""Positions of slider, drawer, button and switch in metres."""

_FORCE = 4
_WHITE = (1.0, 1.0, 1.0, 1.0)


class Table:
    """The play table in one PyBullet client.

    Attributes:
        body: PyBullet's body id.
        links: link name -> link index; ``base_link`` is -1.
        bulb: 0 or 1.
        led: 0 or 1.
    """

    def __init__(self, client: int, urdf: Path, scaling: float, led_button: str) -> None:
        self.client = client
        self.urdf = urdf
        self.scaling = scaling
        self.led_button = led_button
        self.body = -1
        self.links: dict[str, int] = {}
        self.bulb = 0
        self.led = 0
        self._joints: tuple[int, int, int, int] = (-1, -1, -1, -1)
        self._thresholds = (0.0, 0.0)
        self._button_on = False
        self._button_was_pressed = False
        self._switch_on = False

    def load(self) -> None:
        """Load the table at the origin and put its brakes and the button's spring on."""
        self.body = pybullet.loadURDF(
            str(self.urdf), [0, 0, 0], [0, 0, 0, 1], globalScaling=self.scaling, physicsClientId=self.client
        )
        self.links = {"base_link": -1}
        joints = {}
        ranges = {}
        for index in range(pybullet.getNumJoints(self.body, physicsClientId=self.client)):
            info = pybullet.getJointInfo(self.body, index, physicsClientId=self.client)
            joints[info[1].decode()] = index
            ranges[info[1].decode()] = info[8:10]
            self.links[info[12].decode()] = index
        slide, drawer, button, switch = (joints[f"base__{part}"] for part in ("slide", "drawer", "button", "switch"))
        self._joints = (slide, drawer, button, switch)
        self._thresholds = (sum(ranges["base__button"]) / 2, sum(ranges["base__switch"]) / 2)
        for joint in (slide, drawer):
            self._brake(joint)
        pybullet.setJointMotorControl2(
            self.body,
            button,
            controlMode=pybullet.POSITION_CONTROL,
            targetPosition=0,
            force=_FORCE,
            physicsClientId=self.client,
        )
        self._brake(switch)
        self.led = self.bulb = 0
        self._button_was_pressed = False

    def _brake(self, joint: int) -> None:
        pybullet.setJointMotorControl2(
            self.body, joint, controlMode=pybullet.VELOCITY_CONTROL, force=_FORCE, physicsClientId=self.client
        )

    def reset(self, state: np.ndarray) -> None:
        """Set slider, drawer, button, switch, bulb and LED from the first six values of ``scene_obs``."""
        for joint, value in zip(self._joints, state[:4], strict=True):
            pybullet.resetJointState(self.body, joint, value, physicsClientId=self.client)
        self._light("lightbulb", bool(state[4]))
        self._light("led", bool(state[5]))
        self._button_on = bool(state[5]) and self.led_button == "main"
        self._button_was_pressed = False
        self._switch_on = False

    def step(self) -> None:
        """Let the button and the switch act on their lights; called once after each control step."""
        _, _, button, switch = self.joints()
        pressed = button > self._thresholds[0]
        if pressed and not self._button_was_pressed:
            self._button_on = not self._button_on
            self._light("led", self._button_on)
        self._button_was_pressed = pressed
        switched = switch > self._thresholds[1]
        if switched != self._switch_on:
            self._light("lightbulb", switched)
        self._switch_on = switched

    def _light(self, name: str, on: bool) -> None:
        if name == "led":
            self.led, link = int(on), self.links["led_link"]
        else:
            self.bulb, link = int(on), self.links["light_link"]
        colour = (*LIGHT_COLOURS[name], 1.0) if on else _WHITE
        pybullet.changeVisualShape(self.body, link, rgbaColor=colour, physicsClientId=self.client)

    def joints(self) -> Joints:
        """Return the positions of slider, drawer, button and switch in metres."""
        states = pybullet.getJointStates(self.body, self._joints, physicsClientId=self.client)
        return states[0][0], states[1][0], states[2][0], states[3][0]

    def observation(self, joints: Joints | None = None) -> tuple[float, ...]:
        """Return the first six values of ``scene_obs``."""
        return (*(joints or self.joints()), float(self.bulb), float(self.led))

    def contacts(self) -> tuple[Any, ...]:
        """Return PyBullet's contact points of the table."""
        return pybullet.getContactPoints(bodyA=self.body, physicsClientId=self.client)

    def info(self, joints: Joints | None = None) -> dict[str, Any]:
        """Return the table's part of CALVIN's ``scene_info``."""
        slide, drawer, button, switch = joints or self.joints()
        return {
            "fixed_objects": {"table": {"uid": self.body, "links": dict(self.links), "contacts": self.contacts()}},
            "doors": {"base__slide": {"current_state": slide}, "base__drawer": {"current_state": drawer}},
            "buttons": {"base__button": {"joint_state": button, "logical_state": int(self._button_on)}},
            "switches": {"base__switch": {"joint_state": switch, "logical_state": int(self._switch_on)}},
            "lights": {"lightbulb": {"logical_state": self.bulb}, "led": {"logical_state": self.led}},
        }
