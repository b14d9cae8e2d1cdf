"""The `paper` scale on a tiny sibling of its models: the same classes, saved to disk as a pipeline is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.api import PolicyError
from policies.config import TrainingConfig
from policies.flow import FlowPolicy
from policies.registry import load_policy
from policies.train import train_policy
from policies.vpp.config import VideoPolicyConfig

TEXT_DIM, TOKENS = 16, 20


def _unet(seed: int) -> torch.nn.Module:
    from diffusers import UNetSpatioTemporalConditionModel

    torch.manual_seed(seed)
    return UNetSpatioTemporalConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=96, layers_per_block=1,
        cross_attention_dim=2 * TEXT_DIM, num_attention_heads=(1, 2, 2), num_frames=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """UNet and autoencoder of Stable Video Diffusion's classes, in diffusers' layout."""
    from diffusers import AutoencoderKLTemporalDecoder

    root = tmp_path_factory.mktemp("svd")
    _unet(0).save_pretrained(root / "unet")
    torch.manual_seed(1)
    autoencoder = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        latent_channels=4, sample_size=16,
    )  # fmt: skip
    autoencoder.save_pretrained(root / "vae")
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A CLIP text model with a vocabulary of letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    root = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (root / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (root / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(root / "vocab.json"), str(root / "merges.txt")).save_pretrained(root)
    torch.manual_seed(2)
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=TEXT_DIM, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=TOKENS, bos_token_id=len(words) - 2,
            eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
        )
    ).save_pretrained(root)  # fmt: skip
    return root


@pytest.fixture
def config(pipeline, clip) -> VideoPolicyConfig:
    training = TrainingConfig(steps=2, batch=2, checkpoint_every=10, log_every=1)
    return VideoPolicyConfig.paper(
        weights=str(pipeline), text=f"clip:{clip}", text_dim=TOKENS * TEXT_DIM, anchor_size=32, wrist_size=32,
        stem_stride=2, cell=4, frames=2, dim=32, layers=1, heads=2, queries=2, former_layers=1, training=training,
    )  # fmt: skip


def test_a_released_model_is_trained_on_saved_by_name_and_read_again(config, arrays_of, observations, tmp_path):
    policy = train_policy(arrays_of(size=32), config, tmp_path, arm="real", progress=False)
    assert "before" not in policy.training, "a predictor that has weights is not trained"
    assert not (tmp_path / "predictor").exists()
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["beside"]["predictor"]["weights"] == config.weights
    again = load_policy(tmp_path, expect_arm="real")
    np.testing.assert_array_equal(again.act(observations, range(5)), policy.act(observations, range(5)))


def test_only_the_blocks_that_are_read_are_kept(config, pipeline):
    predictor = FlowPolicy.initial(config, "real", ["push"]).network.frozen.predictor
    assert len(predictor.unet.up_blocks) == 2
    image = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    given = (image, torch.randn(2, TOKENS * TEXT_DIM), torch.tensor([0, 1]))
    features = predictor.features(*given)
    assert features.shape == (2, 2, 64, 64 + 64)
    whole = FlowPolicy.initial(replace(config, up_blocks=None), "real", ["push"]).network.frozen.predictor
    torch.testing.assert_close(whole.features(*given)[..., : 64 + 64], features)


def test_half_the_precision_gives_nearly_the_same_features(config):
    predictor = FlowPolicy.initial(config, "real", ["push"]).network.frozen.predictor
    given = (torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8), torch.randn(2, TOKENS * TEXT_DIM))
    view = torch.tensor([0, 1])
    features = predictor.features(*given, view)
    predictor.halve()
    halved = predictor.features(*given, view)
    assert halved.dtype == torch.float32
    assert (halved - features).abs().mean() < 0.03 * features.abs().mean()


def test_other_weights_under_the_same_name_are_refused(config, tmp_path):
    import shutil

    copied = tmp_path / "svd"
    shutil.copytree(config.weights, copied)
    FlowPolicy.initial(replace(config, weights=str(copied)), "real", ["push"]).save_pretrained(tmp_path / "p")
    unet = _unet(5)
    unet.conv_in.bias.data += 1
    unet.save_pretrained(copied / "unet")
    with pytest.raises(PolicyError, match="trained on other weights"):
        load_policy(tmp_path / "p")


def test_missing_weights_are_one_line(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for changes, message in (
        ({"weights": "nobody/no-such-video-model"}, "neither a folder nor to be had.*--video-weights"),
        ({"weights": str(tmp_path)}, r"expected unet/ of a UNetSpatioTemporalConditionModel"),
        ({"stem_stride": 8, "cell": 8}, "expected latents of 8 px a side"),
        ({"text": "hash-384", "text_dim": 384, "text_tokens": 20}, "multiple of text_tokens"),
        ({"text": "hash-384", "text_dim": 384, "text_tokens": 1}, "attends to vectors of 32"),
        ({"text": f"clip:{tmp_path}"}, "neither a folder of a CLIP text model"),
    ):
        with pytest.raises(PolicyError, match=message) as caught:
            FlowPolicy.initial(replace(config, **changes), "real", ["push"])
        assert "\n" not in str(caught.value)
