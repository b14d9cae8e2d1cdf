"""A served policy in the harness: named by its address, compared with the world, rolled out as if it were here."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import UserError
from bench.evaluate import RolloutOptions, roll_out_policy
from bench.rollout.sources import PolicySource, ask, check_fit
from policies.api import ActionConvention, Observation, PolicySpec
from policies.checkpoint import load, save
from policies.config import FlowPolicyConfig
from policies.flow import FlowPolicy
from policies.server import ServerOptions, serving
from policies.simple import RandomPolicy, Scripted


def test_a_served_policy_is_a_source_like_any_other():
    view = np.zeros((200, 200, 3), np.uint8)
    observation = Observation({"anchor": view, "wrist": view}, "x")
    with serving(RandomPolicy(), ServerOptions(port=0)) as server:
        source = PolicySource(f"openpi://127.0.0.1:{server.port}")
        remote = source.load()
        check_fit(remote.spec, "real", ("anchor", "wrist"))
        np.testing.assert_array_equal(ask(remote, observation, 3), RandomPolicy().act([observation], [3])[0])
        served = {"spec": RandomPolicy().spec.to_json(), "weights": ""}
        assert source.identity() == {"name": source.name, "options": {}, "served": served}
        remote.close()


@pytest.mark.parametrize("protocol", ["openpi", "vla-eval"])
def test_another_checkpoint_behind_the_same_address_is_another_policy(tmp_path, protocol):
    known = []
    port = 0
    for seed in (0, 1):
        save(FlowPolicy.initial(FlowPolicyConfig.tiny(), "real", seed=seed), tmp_path / str(seed))
        with serving(load(tmp_path / str(seed)), ServerOptions(protocol, port=port)) as server:
            port = server.port
            known.append(PolicySource(f"{protocol}://127.0.0.1:{port}").identity())
    assert known[0]["name"] == known[1]["name"]
    assert known[0]["served"]["spec"] == known[1]["served"]["spec"]
    assert known[0]["served"]["weights"] != known[1]["served"]["weights"]


def test_one_that_means_its_actions_otherwise_is_refused():
    spec = PolicySpec("inverse", actions=ActionConvention(gripper_open=-1.0))
    with serving(Scripted(lambda *_: np.zeros((10, 7), np.float32), spec), ServerOptions(port=0)) as server:
        remote = PolicySource(f"openpi://127.0.0.1:{server.port}").load()
        with pytest.raises(UserError, match="gripper_open"):
            check_fit(remote.spec, "real", ("anchor", "wrist"))
        remote.close()


def test_a_chain_is_the_same_with_the_policy_here_and_there(tmp_path):
    options = RolloutOptions(chains=1, workers=0, steps_per_subtask=12, renderer="bullet-tiny", progress=False)
    here = roll_out_policy("policies.simple:RandomPolicy", tmp_path / "here", options)
    with serving(RandomPolicy(), ServerOptions("vla-eval", port=0)) as server:
        there = roll_out_policy(f"vla-eval://127.0.0.1:{server.port}", tmp_path / "there", options)
        assert server.statistics()["answered"] == 2
    assert (here["arm"], there["arm"]) == ("random", "random")
    rows = [(tmp_path / place / "results.json").read_text() for place in ("here", "there")]
    assert rows[0] == rows[1]
