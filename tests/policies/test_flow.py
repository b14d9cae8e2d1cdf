"""The flow policy at its boundary: views, absent views, padding, units, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.api import Observation, PolicyError
from policies.config import FlowPolicyConfig, TrainingConfig
from policies.flow import FlowPolicy, flow_spec, initial_network


@pytest.fixture
def policy_of(mini, awake):
    def make(arm: str = "real", **changes) -> FlowPolicy:
        return awake(FlowPolicy.initial(replace(mini, **changes), arm, ["push"]))

    return make


def _without_wrist(observation: Observation) -> Observation:
    return Observation({"anchor": observation.views["anchor"]}, observation.instruction, observation.proprio)


def _other_wrist(observation: Observation) -> Observation:
    views = {"anchor": observation.views["anchor"], "wrist": 255 - observation.views["wrist"]}
    return Observation(views, observation.instruction)


def test_real_arm_reads_its_wrist_view(policy_of, observations):
    policy = policy_of("real")
    changed = policy.act([_other_wrist(observations[0])], [0])
    assert np.abs(changed - policy.act(observations[:1], [0])).max() > 1e-4


def test_anchor_arm_never_reads_a_wrist_view_that_is_offered(policy_of, observations):
    policy = policy_of("anchor")
    with_wrist = policy.act(observations, range(5))
    np.testing.assert_array_equal(with_wrist, policy.act([_other_wrist(o) for o in observations], range(5)))
    np.testing.assert_array_equal(with_wrist, policy.act([_without_wrist(o) for o in observations], range(5)))


@pytest.mark.parametrize("arm", ["real", "paired", "generated"])
def test_other_arms_need_a_wrist_view(policy_of, observations, arm):
    with pytest.raises(PolicyError, match=rf"lacks view \['wrist'\].*arm '{arm}'"):
        policy_of(arm).act([_without_wrist(observations[0])], [0])


def test_an_optional_wrist_view_may_be_missing_for_part_of_a_batch(policy_of, mini, observations):
    policy = policy_of("mixed-50")
    policy._spec = flow_spec(mini, "mixed-50", wrist_optional=True)
    mixed = policy.act([observations[0], _without_wrist(observations[1])], [0, 1])
    np.testing.assert_allclose(mixed[0], policy.act(observations[:1], [0])[0], atol=1e-4)
    assert np.abs(mixed[1] - policy.act(observations[1:2], [1])[0]).max() > 1e-4


def test_all_arms_are_the_same_network(mini):
    anchor, real = FlowPolicy.initial(mini, "anchor"), FlowPolicy.initial(mini, "real")
    assert anchor.network.parameters_count() == real.network.parameters_count()
    for mine, theirs in zip(anchor.network.parameters(), real.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("head", ["flow", "regression"])
def test_padded_batches_are_equal_to_the_last_bit(policy_of, observations_of, head):
    policy = policy_of(head=head)
    policy.pad_to = 4
    observations = observations_of(6)
    together = policy.act(observations, range(6))
    for order in ([5, 2, 0], [4], [1, 3, 5, 0, 2, 4]):
        part = policy.act([observations[i] for i in order], order)
        np.testing.assert_array_equal(part, together[order])


def test_the_instruction_matters(policy_of, observations):
    policy = policy_of()
    other = Observation(observations[0].views, "open the drawer")
    assert np.abs(policy.act([other], [0]) - policy.act(observations[:1], [0])).max() > 1e-4


def test_an_image_of_another_shape_is_refused(policy_of):
    wide = {"anchor": np.zeros((100, 200, 3), np.uint8), "wrist": np.zeros((84, 84, 3), np.uint8)}
    with pytest.raises(PolicyError, match=r"'anchor'.*got 100x200"):
        policy_of().act([Observation(wide, "x")], [0])
    small = {"anchor": np.zeros((8, 8, 3), np.uint8), "wrist": np.zeros((84, 84, 3), np.uint8)}
    with pytest.raises(PolicyError, match="at least 16 px"):
        policy_of().act([Observation(small, "x")], [0])


def test_an_image_of_the_trained_shape_is_accepted_at_another_size(policy_of):
    policy = policy_of()
    policy.view_sizes = {"anchor": (180, 320)}
    views = {"anchor": np.zeros((90, 160, 3), np.uint8), "wrist": np.zeros((84, 84, 3), np.uint8)}
    assert np.isfinite(policy.act([Observation(views, "x")], [0])).all()


def test_cameras_of_several_sizes_may_share_a_batch(policy_of, observations):
    policy = policy_of()
    wide = {"anchor": np.full((128, 128, 3), 9, np.uint8), "wrist": observations[0].views["wrist"]}
    mixed = policy.act([Observation(wide, "push"), observations[1]], [0, 1])
    np.testing.assert_allclose(mixed[1], policy.act(observations[1:2], [1])[0], atol=1e-4)


def test_nan_weights_are_an_error_not_an_action(policy_of, observations):
    policy = policy_of()
    policy.network.transformer.out.bias.data[:] = float("nan")
    with pytest.raises(PolicyError, match="NaN or infinite action for observation 0"):
        policy.act(observations, range(5))


def test_proprio_is_needed_once_it_is_used(policy_of, observations_of):
    policy = policy_of(use_proprio=True)
    policy.normaliser = replace(policy.normaliser, proprio_mean=(0.0,) * 15, proprio_std=(1.0,) * 15)
    with pytest.raises(PolicyError, match="proprio"):
        policy.act(observations_of(1), [0])
    first, second = observations_of(1, proprio=True)[0], observations_of(1, proprio=True)[0]
    second = Observation(second.views, second.instruction, -second.proprio)
    assert np.abs(policy.act([first], [0]) - policy.act([second], [0])).max() > 1e-5


def test_actions_before_the_end_do_not_depend_on_what_is_padded(mini, awake):
    policy = awake(FlowPolicy.initial(mini, "real"))
    network, K = policy.network, mini.chunk
    tokens, mask = torch.randn(1, 5, mini.dim), torch.ones(1, 5, dtype=torch.bool)
    context, sentence = network.transformer.context(tokens), torch.randn(1, mini.dim)
    actions = torch.randn(1, K, 7)
    changed = actions.clone()
    changed[:, 4:] += 1
    first, second = (network.transformer(a, torch.full((1,), 0.3), sentence, context, mask) for a in (actions, changed))
    torch.testing.assert_close(first[:, :4], second[:, :4])
    assert (first[:, 4:] - second[:, 4:]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("preset", "low", "high"), [("tiny", 2.0e6, 2.8e6), ("small", 10e6, 15e6), ("base", 42e6, 54e6)]
)
def test_presets_have_the_promised_sizes_and_run(preset, low, high):
    config = FlowPolicyConfig.preset(preset)
    policy = FlowPolicy.initial(config, "real")
    assert low < policy.network.parameters_count() < high
    views = {"anchor": np.zeros((200, 200, 3), np.uint8), "wrist": np.zeros((84, 84, 3), np.uint8)}
    assert policy.act([Observation(views, "x")], [0]).shape == (1, 10, 7)


def test_building_a_network_leaves_the_global_generator_alone(mini):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    initial_network(mini, 0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "diffusion"}, "head"),
        ({"dim": 30}, "multiple of twice heads"),
        ({"execute": 11}, "execute 11"),
        ({"anchor_size": 8}, "at least a cell of"),
        ({"stem_stride": 3}, "stem_stride"),
        ({"layers": 0}, "layers"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(PolicyError, match=message):
        FlowPolicyConfig.tiny(**changes)


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"ema": 1.0}, {"shift": 0.5}, {"learning_rate": 0.0}, {"warmup": -1}]
)
def test_impossible_training_settings_are_refused(changes):
    with pytest.raises(PolicyError, match=rf"training\.{next(iter(changes))}"):
        TrainingConfig(**changes)


def test_unknown_presets_and_settings_are_named():
    with pytest.raises(PolicyError, match=r"'huge'.*tiny"):
        FlowPolicyConfig.preset("huge")
    with pytest.raises(PolicyError, match="depth"):
        FlowPolicyConfig.from_json({"depth": 3})


def test_configuration_survives_json():
    config = FlowPolicyConfig.base(head="regression")
    assert FlowPolicyConfig.from_json(config.to_json()) == config
