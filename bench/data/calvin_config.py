"""The ``merged_config.yaml`` that lies in every CALVIN split: how the recording world was set up.

Numbers of calvin_env ``conf/`` (cameras, scene, robot), enough for a reader to find cameras, scene and block order.
Recordings of the built-in world name the same cameras and controller; the tables' meshes are the original's only where
its assets were used.
"""

from __future__ import annotations

from typing import Any

from bench.data.calvin import BLOCK_ORDER

_BLOCK_SIZES = {
    "A": ("small", "big", "middle"),
    "B": ("small", "big", "middle"),
    "C": ("small", "big", "middle"),
    "D": ("middle", "small", "big"),
}
"""Sizes in the order of ``BLOCK_ORDER``."""

_CAMERAS = {
    "static": {
        "_target_": "calvin_env.camera.static_camera.StaticCamera",
        "name": "static",
        "fov": 10,
        "aspect": 1,
        "nearval": 0.01,
        "farval": 10,
        "width": 200,
        "height": 200,
        "look_at": [-0.026242351159453392, -0.0302329882979393, 0.3920000493526459],
        "look_from": [2.871459009488717, -2.166602199425597, 2.555159848480571],
        "up_vector": [0.4041403970338857, 0.22629790978217404, 0.8862616969685161],
    },
    "gripper": {
        "_target_": "calvin_env.camera.gripper_camera.GripperCamera",
        "name": "gripper",
        "fov": 75,
        "aspect": 1,
        "nearval": 0.01,
        "farval": 2,
        "width": 84,
        "height": 84,
    },
}


def merged_config(scene: str) -> dict[str, Any]:
    """Return the configuration of a recording in ``scene`` (``"A"`` to ``"D"``) as plain data."""
    blocks = {
        block: {"file": f"blocks/{block}_{size}.urdf", "initial_pos": "any", "initial_orn": "any"}
        for block, size in zip(BLOCK_ORDER[scene], _BLOCK_SIZES[scene], strict=True)
    }
    table = {
        "file": f"calvin_table_{scene}/urdf/calvin_table_{scene}.urdf",
        "initial_pos": [0, 0, 0],
        "initial_orn": [0, 0, 0],
        "joints": {"base__slide": {"initial_state": 0}, "base__drawer": {"initial_state": 0}},
        "buttons": {"base__button": {"initial_state": 0, "effect": "led"}},
        "switches": {"base__switch": {"initial_state": 0, "effect": "lightbulb"}},
        "lights": {
            "lightbulb": {"link": "light_link", "color": [1, 1, 0, 1]},
            "led": {"link": "led_link", "color": [0, 1, 0, 1]},
        },
    }
    return {
        "cameras": _CAMERAS,
        "scene": {
            "_target_": "calvin_env.scene.play_table_scene.PlayTableScene",
            "global_scaling": 0.8,
            "robot_base_position": [-0.34, -0.46, 0.24],
            "robot_base_orientation": [0, 0, 0],
            "objects": {"fixed_objects": {"table": table}, "movable_objects": blocks},
        },
        "robot": {
            "_target_": "calvin_env.robot.robot.Robot",
            "filename": "franka_panda/panda_longer_finger.urdf",
            "use_target_pose": True,
            "euler_obs": True,
        },
        "env": {
            "_target_": "calvin_env.envs.play_table_env.PlayTableSimEnv",
            "bullet_time_step": 240.0,
            "control_freq": 30,
            "seed": 0,
        },
    }
