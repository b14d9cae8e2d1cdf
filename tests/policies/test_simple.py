"""The policies without a network."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from policies.api import PolicyError, PolicySpec
from policies.simple import HoldStill, RandomPolicy, Scripted


def test_random_policy_depends_on_the_seed_alone(observations):
    policy = RandomPolicy(chunk=3, scale=0.5)
    np.testing.assert_array_equal(policy.act(observations[:2], [4, 4])[0], policy.act(observations[:2], [4, 4])[1])
    actions = policy.act(observations, range(5))
    assert actions.shape == (5, 3, 7)
    assert 0.3 < np.abs(actions[..., :6]).max() <= 0.5
    with pytest.raises(PolicyError, match="scale"):
        RandomPolicy(scale=2)


def test_hold_still_holds_still_with_an_open_gripper(observations):
    actions = HoldStill().act(observations, range(5))
    assert not actions[..., :6].any()
    assert (actions[..., 6] == 1).all()


def test_scripted_answers_with_its_function(observations):
    spec = PolicySpec("script", ("anchor",), chunk=2, execute=1)
    policy = Scripted(lambda observation, seed: np.full((2, 7), seed, np.float32), spec)
    assert policy.act(observations[:2], [3, 5])[:, 0, 0].tolist() == [3, 5]
    with pytest.raises(PolicyError, match=r"expected a chunk \(2, 7\), got \(3, 7\)"):
        Scripted(lambda observation, seed: np.zeros((3, 7)), spec).act(observations[:1], [0])


def test_registry_and_simple_policies_do_not_import_torch():
    code = "import sys; from policies.registry import load_policy; load_policy('random'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
