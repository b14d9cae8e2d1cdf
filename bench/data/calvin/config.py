"""The ``merged_config.yaml`` that lies in every CALVIN split: how the recording world was set up.

Numbers of calvin_env ``conf/`` (env, cameras, scene, robot), complete enough for its own ``get_env`` to build the world
from: everything that ``PlayTableSimEnv``, ``PlayTableScene``, ``Robot`` and the two cameras are constructed with, with
the same references between the parts.  What data collection alone needs (VR, recorder, tasks) is not in it.
Recordings of the built-in world name the same cameras and controller; the tables' meshes are the original's only where
its assets were used.
"""

from __future__ import annotations

from typing import Any

from bench.calvin.scene import ARM_REST, ROBOT_BASE, SCENES, SceneSpec

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


_ROBOT = {
    "_target_": "calvin_env.robot.robot.Robot",
    "filename": "franka_panda/panda_longer_finger.urdf",
    "base_position": "${scene.robot_base_position}",
    "base_orientation": "${scene.robot_base_orientation}",
    "initial_joint_positions": "${scene.robot_initial_joint_positions}",
    "max_joint_force": 200.0,
    "gripper_force": 200,
    "arm_joint_ids": [0, 1, 2, 3, 4, 5, 6],
    "lower_joint_limits": [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973],
    "upper_joint_limits": [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973],
    "gripper_joint_ids": [9, 11],
    "gripper_joint_limits": [0, 0.04],
    "tcp_link_id": 15,
    "end_effector_link_id": 7,
    "gripper_cam_link": 12,
    "use_nullspace": True,
    "max_velocity": 2,
    "use_ik_fast": False,
    "magic_scaling_factor_pos": 1,
    "magic_scaling_factor_orn": 1,
    "use_target_pose": True,
    "euler_obs": True,
}

_ENV = {
    "_target_": "calvin_env.envs.play_table_env.PlayTableSimEnv",
    "_recursive_": False,
    "cameras": "${cameras}",
    "seed": 0,
    "bullet_time_step": 240.0,
    "use_vr": "${use_vr}",
    "show_gui": "${show_gui}",
    "robot_cfg": "${robot}",
    "scene_cfg": "${scene}",
    "use_scene_info": False,
    "use_egl": True,
    "control_freq": 30,
}


def merged_config(scene: str) -> dict[str, Any]:
    """Return the configuration of a recording in ``scene`` (``"A"`` to ``"D"``) as plain data."""
    return {
        "cameras": _CAMERAS,
        "env": _ENV,
        "scene": _scene(SCENES[scene]),
        "robot": _ROBOT,
        "seed": 0,
        "use_vr": False,
        "show_gui": False,
        "data_path": "data",
    }


def _scene(spec: SceneSpec) -> dict[str, Any]:
    blocks = {
        block.name: {"file": f"blocks/{block.name}_{block.size}.urdf", "initial_pos": "any", "initial_orn": "any"}
        for block in spec.blocks
    }
    table = {
        "file": f"calvin_table_{spec.name}/urdf/calvin_table_{spec.name}.urdf",
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
        "_target_": "calvin_env.scene.play_table_scene.PlayTableScene",
        "_recursive_": False,
        "data_path": "${data_path}",
        "global_scaling": 0.8,
        "euler_obs": "${robot.euler_obs}",
        "robot_base_position": list(ROBOT_BASE),
        "robot_base_orientation": [0, 0, 0],
        "robot_initial_joint_positions": list(ARM_REST),
        "surfaces": {name: [list(surface.low), list(surface.high)] for name, surface in spec.surfaces.items()},
        "objects": {"fixed_objects": {"table": table}, "movable_objects": blocks},
    }
