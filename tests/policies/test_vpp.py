"""The video policy: its sizes, its Video Former, what its features depend on, its checkpoints."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.api import PolicyError
from policies.flow import FlowPolicy, initial_network
from policies.registry import load_policy
from policies.vpp.config import VideoPolicyConfig
from policies.vpp.former import VideoFormer
from policies.vpp.predictor import new_predictor


@pytest.fixture
def video() -> VideoPolicyConfig:
    """A predictor that takes milliseconds: two frames of 32 px, one level."""
    return VideoPolicyConfig.tiny(
        name="vpp-mini", anchor_size=32, wrist_size=32, dim=32, layers=2, heads=2, frames=2, levels=1, queries=3
    )


@pytest.fixture
def policy_of(video, awake):
    def make(arm: str = "real", **changes) -> FlowPolicy:
        return awake(FlowPolicy.initial(replace(video, **changes), arm, ["push"], seed=1))

    return make


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wrist_size": 64}, "one predictor reads both"),
        ({"anchor_size": 36, "wrist_size": 36}, "multiple of stem_stride"),
        ({"cell": 5}, "multiple of cell"),
        ({"width": 48}, "width 48 must be a multiple of 32"),
        ({"frames": 0}, "frames: expected at least 1"),
        ({"head": "regression"}, "has 'flow' only"),
        ({"text_tokens": 5}, "text_dim 384 must be a multiple of text_tokens"),
        ({"noise_level": 1.0}, "noise_level"),
        ({"at_noise_level": 2.0}, "at_noise_level"),
        ({"up_blocks": 0}, "up_blocks"),
        ({"predictor": {"stepz": 1}}, "no setting"),
    ],
)
def test_impossible_sizes_are_refused(video, changes, message):
    with pytest.raises(PolicyError, match=message):
        replace(video, **changes)


def test_presets_are_named_and_survive_json():
    for name in ("tiny", "small", "paper"):
        config = VideoPolicyConfig.preset(name)
        assert config.label == f"vpp-{name}"
        assert VideoPolicyConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(PolicyError, match=r"unknown vpp policy preset 'base'.*paper"):
        VideoPolicyConfig.preset("base")


def test_the_predictor_s_training_does_not_depend_on_the_head(video):
    assert replace(video, layers=4, queries=5).predictor_json() == video.predictor_json()
    assert replace(video, stride=7).predictor_json() != video.predictor_json()


def test_a_query_sees_its_own_frame_and_through_time_the_others():
    former = VideoFormer(6, sentence_dim=5, grid=2, keypoints=2, frames=3, queries=2, dim=8, layers=1, heads=2)
    features = torch.randn(1, 3, 4, 6)
    always, told = torch.ones(1, dtype=torch.bool), torch.randn(1, 5)
    here = [always, ~always]

    def changed(frame: int) -> torch.Tensor:
        other = features.clone()
        other[:, frame] *= -1
        difference = former([other, None], here, told) - former([features, None], here, told)
        return difference.abs().view(3, 2, 8).amax((1, 2))

    assert (changed(1) > 1e-6).all(), "one layer: the temporal attention carries a frame to all"
    former.layers[0].temporal.out.weight.data.zero_()
    former.layers[0].temporal.out.bias.data.zero_()
    alone = changed(1)
    assert alone[1] > 1e-6
    assert alone[[0, 2]].max() == 0, "without it a frame's queries read that frame only"


def test_an_absent_view_s_features_do_not_matter():
    former = VideoFormer(6, sentence_dim=5, grid=2, keypoints=2, frames=3, queries=2, dim=8, layers=2, heads=2)
    anchor, wrist = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    always, told = torch.ones(2, dtype=torch.bool), torch.randn(2, 5)
    present = torch.tensor([True, False])
    first, second = (former([anchor, view], [always, present], told) for view in (wrist, -wrist))
    assert (first[0] - second[0]).abs().max() > 1e-6
    torch.testing.assert_close(first[1], second[1])
    torch.testing.assert_close(first[1], former([anchor, None], [always, ~always], told)[1], atol=1e-6, rtol=1e-5)


def test_features_depend_on_image_sentence_and_camera_and_not_on_their_neighbours(video):
    torch.manual_seed(0)
    predictor = new_predictor(video).eval()
    image = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    sentence, view = torch.randn(3, 384), torch.tensor([0, 1, 0])
    features = predictor.features(image, sentence, view)
    assert features.shape == (3, 2, 16, predictor.channels)
    torch.testing.assert_close(predictor.features(image[1:2], sentence[1:2], view[1:2])[0], features[1])
    torch.testing.assert_close(predictor.features(image, sentence, view), features, atol=0, rtol=0)
    for other in ((255 - image, sentence, view), (image, -sentence, view), (image, sentence, 1 - view)):
        assert (predictor.features(*other) - features).abs().amax((1, 2, 3)).min() > 1e-4


def test_an_untrained_predictor_repeats_the_frame(video):
    predictor = new_predictor(video)
    image = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    expected = predictor.expected(image, torch.randn(2, 384), torch.zeros(2, dtype=torch.long))
    assert expected.abs().max() < 0.01
    frame = predictor.latents(image)
    again = predictor.targets(frame, frame[:, None].expand(-1, 2, -1, -1, -1))
    assert again.abs().max() == 0


def test_the_loss_is_least_for_what_it_asks_for(video):
    """A network that knew the answer has no loss, at any noise level."""
    predictor = new_predictor(video)
    image = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    future = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    sigma = torch.tensor([0.3, 700.0])
    noise = torch.randn(2, *predictor.noise.shape)
    x = predictor.targets(predictor.latents(image), predictor.latents(future.flatten(0, 1)).unflatten(0, (2, 2)))
    level = sigma.view(-1, 1, 1, 1, 1)

    class Knowing(torch.nn.Module):
        dtype, config = torch.float32, predictor.unet.config

        def forward(self, given, *_args, **_kwargs):
            noisy = given[:, :, : x.shape[2]] * (level**2 + 1).sqrt()
            return (((noisy / (level**2 + 1)) - x) * (level**2 + 1).sqrt() / level,)

    predictor.unet = Knowing()
    loss = predictor.loss(image, future, torch.randn(2, 384), torch.zeros(2, dtype=torch.long), noise, sigma)
    assert loss < 1e-6


def test_the_predictor_is_neither_trained_nor_copied_nor_among_the_weights(video):
    network = initial_network(video, 0)
    assert copy.deepcopy(network).frozen is network.frozen
    assert not any("unet" in name for name in network.state_dict())
    assert not any(parameter.requires_grad for parameter in network.frozen.predictor.parameters())


def test_the_anchor_arm_is_the_same_network(policy_of, observations):
    anchor, real = policy_of("anchor"), policy_of("real")
    assert anchor.network.parameters_count() == real.network.parameters_count()
    with_wrist = anchor.act(observations, range(5))
    np.testing.assert_array_equal(with_wrist, anchor.act([replace(o, views={"anchor": o.views["anchor"]}) for o in
                                                          observations], range(5)))  # fmt: skip
    black = [replace(o, views=o.views | {"wrist": np.zeros_like(o.views["wrist"])}) for o in observations]
    assert np.abs(real.act(observations, range(5)) - real.act(black, range(5))).max() > 1e-4


def test_a_wrist_view_may_be_missing_from_some_where_it_is_optional(policy_of, observations):
    policy = policy_of("paired")
    policy._spec = replace(policy.spec, optional_views=("wrist",))
    mixed = [observations[0], replace(observations[1], views={"anchor": observations[1].views["anchor"]})]
    both = policy.act(mixed, [0, 1])
    for number in range(2):
        np.testing.assert_allclose(policy.act(mixed[number : number + 1], [number])[0], both[number], atol=1e-4)


def test_a_checkpoint_holds_the_predictor(policy_of, observations, tmp_path):
    policy = policy_of()
    policy.save_pretrained(tmp_path / "p")
    loaded = load_policy(tmp_path / "p", expect_arm="real", views=("anchor", "wrist"))
    assert loaded.spec.name == "vpp-mini"
    np.testing.assert_array_equal(loaded.act(observations, range(5)), policy.act(observations, range(5)))
    loaded.save_pretrained(tmp_path / "again")
    again = load_policy(tmp_path / "again")
    np.testing.assert_array_equal(again.act(observations, range(5)), policy.act(observations, range(5)))


def test_a_checkpoint_that_does_not_fit_is_refused(policy_of, tmp_path):
    policy_of().save_pretrained(tmp_path / "p")
    with pytest.raises(PolicyError, match="trained for arm 'real'"):
        load_policy(tmp_path / "p", expect_arm="anchor")
    with pytest.raises(PolicyError, match="missing: \\['wrist'\\]"):
        load_policy(tmp_path / "p", views=("anchor",))
    other = tmp_path / "other"
    policy_of(width=64).save_pretrained(other)
    shutil.copytree(other / "predictor", tmp_path / "p" / "predictor", dirs_exist_ok=True)
    with pytest.raises(PolicyError, match="hash differs"):
        load_policy(tmp_path / "p")
    shutil.rmtree(tmp_path / "p" / "predictor")
    with pytest.raises(PolicyError, match=r"predictor.model\.safetensors: missing"):
        load_policy(tmp_path / "p")


def test_flow_and_video_policies_do_not_take_each_other_s_folders(video, mini_arrays, mini, tmp_path):
    from policies.train import train_policy

    settings = mini.training
    train_policy(mini_arrays, mini, tmp_path / "p", arm="real", progress=False)
    same_name = replace(video, name=mini.name, training=settings, predictor=replace(settings, steps=1))
    with pytest.raises(PolicyError, match="holds another training"):
        train_policy(mini_arrays, same_name, tmp_path / "p", arm="real", progress=False)


def test_the_hub_s_patterns_take_the_predictor_along(policy_of, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    from policies.hub import PATTERNS

    policy_of().save_pretrained(tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert "predictor/model.safetensors" in files
    assert set(filter_repo_objects(files, allow_patterns=list(PATTERNS))) == files
