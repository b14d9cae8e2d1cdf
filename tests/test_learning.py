"""The line from demonstrations to a robot that does the task, closed: what no unit test can show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.arms import plan_wrist, training_arrays
from bench.calvin.env import CalvinEnv
from bench.calvin.starts import draw_start
from bench.data.calvin import CalvinDataset
from bench.demonstrations import CollectOptions, collect
from bench.rollout.chain import Chain, run_chain
from bench.suite import parse_arm
from policies.config import FlowPolicyConfig
from policies.train import train_policy

TASK, TRIES = "close_drawer", 8


@pytest.mark.slow
def test_a_tiny_policy_learns_to_close_the_drawer_from_sixteen_demonstrations(tmp_path: Path) -> None:
    collect(
        tmp_path / "data", CollectOptions(tasks=(TASK,), episodes=16, validation_episodes=1), workers=0, progress=False
    )
    dataset, arm, config = CalvinDataset(tmp_path / "data"), parse_arm("real"), FlowPolicyConfig.tiny()
    plan = plan_wrist(arm, dataset.episodes, 0.3, seed=0)
    arrays = training_arrays(dataset, plan, None, (config.anchor_size, config.wrist_size))
    policy = train_policy(arrays, config, tmp_path / "policy", arm=arm.name, steps=300, progress=False)
    env, rng, solved = CalvinEnv("D"), np.random.default_rng(5), 0
    for number in range(TRIES):
        start = draw_start("D", TASK, rng)
        chain = Chain(number, (TASK,), tuple(start.robot_obs.tolist()), tuple(start.scene_obs.tolist()))
        solved += run_chain(env, policy, chain, seed=0, arm=arm.name, steps_per_subtask=150).solved
    env.close()
    assert solved >= TRIES // 2
