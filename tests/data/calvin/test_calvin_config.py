"""The configuration beside our recordings is what the original's ``get_env`` builds its world from."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.data.calvin import BLOCK_ORDER
from bench.data.calvin.config import merged_config

CONSTRUCTED = {
    "env": "cameras seed bullet_time_step use_vr show_gui robot_cfg scene_cfg use_scene_info use_egl control_freq",
    "scene": "objects data_path euler_obs global_scaling surfaces robot_base_position robot_base_orientation",
    "robot": "filename base_position base_orientation initial_joint_positions max_joint_force gripper_force "
    "arm_joint_ids gripper_joint_ids gripper_joint_limits tcp_link_id end_effector_link_id use_nullspace max_velocity "
    "use_ik_fast euler_obs lower_joint_limits upper_joint_limits use_target_pose",
}
"""What the original's classes are constructed with (calvin_env ``play_table_env.py``, ``play_table_scene.py``,
``robot.py``)."""


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with its references followed; where OmegaConf is installed, it must agree."""

    def follow(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: follow(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [follow(entry) for entry in value]
        if isinstance(value, str) and value.startswith("${"):
            found: Any = config
            for name in value[2:-1].split("."):
                found = found[name]
            return follow(found)
        return value

    result = follow(config)
    if find_spec("omegaconf"):
        from omegaconf import OmegaConf

        assert OmegaConf.to_container(OmegaConf.create(config), resolve=True) == result
    return result


@pytest.mark.parametrize("scene", sorted(BLOCK_ORDER))
def test_every_reference_is_followed_and_every_argument_is_there(scene: str) -> None:
    config = resolved(yaml.safe_load(yaml.safe_dump(merged_config(scene), sort_keys=False)))
    for part, names in CONSTRUCTED.items():
        assert set(names.split()) <= set(config[part])
        assert config[part]["_target_"].startswith("calvin_env.")
    assert config["env"]["cameras"] == config["cameras"]
    assert config["env"]["robot_cfg"]["base_position"] == [-0.34, -0.46, 0.24]
    assert config["env"]["scene_cfg"]["euler_obs"] is True
    assert tuple(config["scene"]["objects"]["movable_objects"]) == BLOCK_ORDER[scene]
    assert "${" not in str(config)


@pytest.mark.shared
def test_it_is_the_configuration_of_the_original(shared: Path) -> None:
    path = shared / "calvin" / "calvin_debug_D" / "training" / ".hydra" / "merged_config.yaml"
    original, own = resolved(yaml.safe_load(path.read_text())), resolved(merged_config("D"))
    for name in ("env", "cameras"):
        original[name].pop("tactile", None)
    original["env"]["cameras"].pop("tactile", None)
    for part in ("env", "scene", "robot", "cameras"):
        assert own[part] == original[part]
        assert list(own[part]) == list(original[part])
    assert list(own["scene"]["objects"]["movable_objects"]) == list(original["scene"]["objects"]["movable_objects"])
    assert {key: original[key] for key in ("seed", "use_vr", "show_gui", "data_path")} == {
        key: own[key] for key in ("seed", "use_vr", "show_gui", "data_path")
    }
