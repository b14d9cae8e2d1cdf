"""The GL renderer beside the original's pictures."""

from __future__ import annotations

import numpy as np
import pytest

from bench.calvin import gl
from bench.calvin.env import CalvinEnv

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not gl.gl_available()[0], reason=gl.gl_available()[1]),
]


def _psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - two.astype(float)) ** 2)))


@pytest.mark.parametrize("scene", list("ABCD"))
def test_pictures_match_the_originals(shared, scene):
    with np.load(shared / "calvin" / "renders" / "states.npz") as data:
        rows = np.flatnonzero(data["scene"] == scene)
        states = {
            name: data[name][rows] for name in ("reset_robot_obs", "reset_scene_obs", "rgb_static", "rgb_gripper")
        }
    env = CalvinEnv(scene, assets=shared / "calvin" / "env_data", renderer="gl")
    scores = []
    for robot_obs, scene_obs, static, gripper in zip(*states.values(), strict=True):
        observation, _ = env.reset(options={"robot_obs": robot_obs, "scene_obs": scene_obs})
        views = observation["rgb_obs"]
        scores.append((_psnr(views["rgb_static"], static), _psnr(views["rgb_gripper"], gripper)))
    env.close()
    static_mean, gripper_mean = np.mean(scores, axis=0)
    assert static_mean >= 26
    assert gripper_mean >= 22
