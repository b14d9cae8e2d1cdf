"""What every registered policy, with or without a network, here or behind a websocket, must do."""

from __future__ import annotations

import numpy as np
import pytest

from policies.api import ANCHOR, Observation, Policy, PolicyError
from policies.flow import FlowPolicy
from policies.registry import POLICIES, load_policy
from policies.server import ServerOptions, serving

BATCH_TOLERANCE = 1e-4


REMOTE = ("openpi://random", "vla-eval://random", "openpi://flow-untrained")


@pytest.fixture(params=[*sorted(POLICIES), *REMOTE])
def entry(request, awake):
    protocol, _, served = request.param.rpartition("://")
    policy = load_policy(served)
    policy = awake(policy) if isinstance(policy, FlowPolicy) else policy
    if not protocol:
        yield POLICIES[served], policy
        return
    with serving(policy, ServerOptions(protocol, port=0, pad=True)) as server:
        remote = load_policy(f"{protocol}://127.0.0.1:{server.port}")
        yield POLICIES[served], remote
        remote.close()


def test_is_a_policy_that_names_itself(entry):
    policy = entry[1]
    assert isinstance(policy, Policy)
    assert policy.spec.name
    assert ANCHOR in policy.spec.views


def test_gives_finite_float32_chunks_in_range_with_a_binary_gripper(entry, observations):
    policy = entry[1]
    actions = policy.act(observations, range(5))
    assert actions.shape == (5, policy.spec.chunk, 7)
    assert actions.dtype == np.float32
    assert np.isfinite(actions).all()
    assert np.abs(actions).max() <= 1
    assert set(np.unique(actions[..., 6])) <= {-1.0, 1.0}


def test_the_same_question_has_the_same_answer(entry, observations):
    policy = entry[1]
    first = policy.act(observations, range(5))
    policy.act(observations[::-1], range(7, 12))
    np.testing.assert_array_equal(policy.act(observations, range(5)), first)


def test_a_batch_is_its_singles_in_any_order(entry, observations):
    policy = entry[1]
    together = policy.act(observations, range(5))
    order = [3, 0, 4, 1, 2]
    shuffled = policy.act([observations[i] for i in order], order)
    np.testing.assert_allclose(shuffled, together[order], atol=BATCH_TOLERANCE)
    for number, observation in enumerate(observations):
        single = policy.act([observation], [number])
        np.testing.assert_allclose(single[0], together[number], atol=BATCH_TOLERANCE)


def test_seeds_matter_as_declared(entry, observations):
    registered, policy = entry
    same = np.array_equal(policy.act(observations[:1], [1]), policy.act(observations[:1], [2]))
    assert same != registered.stochastic


def test_accepts_seeds_of_64_bits(entry, observations):
    assert np.isfinite(entry[1].act(observations[:1], [2**64 - 1])).all()


def test_reads_frozen_inputs_and_changes_none(entry, observations):
    for observation in observations:
        for view in observation.views.values():
            view.flags.writeable = False
    before = [{name: view.copy() for name, view in observation.views.items()} for observation in observations]
    entry[1].act(observations, range(5))
    for observation, views in zip(observations, before, strict=True):
        for name, view in views.items():
            np.testing.assert_array_equal(observation.views[name], view)


def test_an_empty_batch_gives_an_empty_answer(entry):
    assert entry[1].act([], []).shape == (0, entry[1].spec.chunk, 7)


def test_seeds_must_match_the_batch(entry, observations):
    with pytest.raises(PolicyError, match="one seed per observation"):
        entry[1].act(observations, [1])


def test_a_required_view_that_is_missing_is_named(entry, observations):
    policy = entry[1]
    required = [view for view in policy.spec.views if view not in policy.spec.optional_views]
    for view in required:
        views = {name: image for name, image in observations[0].views.items() if name != view}
        with pytest.raises(PolicyError, match=view):
            policy.act([Observation(views, "x")], [0])
