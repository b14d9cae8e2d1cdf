"""The denoiser: what reaches it, what it is blind to, and how a trained transformer is widened."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from stage2_doubles import small_config

from worldmodel.anchor_encoder import AnchorEncoder
from worldmodel.api import WorldModelError
from worldmodel.dit import WristDenoiser, load_transformer, make_transformer, widen_patch_embedding
from worldmodel.flow import linear_guess
from worldmodel.stage2_config import AnchorConfig, Stage2Config, TransformerConfig

C = 6


@pytest.fixture
def denoiser() -> WristDenoiser:
    """A denoiser whose output layer is not zero, so that its inputs can be seen to matter."""
    torch.manual_seed(0)
    made = WristDenoiser(small_config(), C)
    torch.nn.init.normal_(made.transformer.proj_out.weight, std=0.5)
    return made.eval()


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "noisy": torch.randn(2, C, 3, 4, 4),
        "condition": torch.randn(2, C, 3, 4, 4),
        "sigma": torch.tensor([0.3, 0.9]),
        "anchors": torch.rand(2, 3, 1, 3, 16, 16) * 2 - 1,
    }


def predict(denoiser: WristDenoiser, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return denoiser(inputs["noisy"], inputs["condition"], inputs["sigma"], denoiser.context(inputs["anchors"]))


@pytest.mark.parametrize("name", ["noisy", "condition", "sigma", "anchors"])
def test_every_input_matters(denoiser: WristDenoiser, inputs: dict[str, torch.Tensor], name: str) -> None:
    before = predict(denoiser, inputs)
    assert before.shape == (2, C, 3, 4, 4)
    after = predict(denoiser, {**inputs, name: inputs[name].flip(0)})
    assert not torch.allclose(before, after, atol=1e-4)


def test_clips_of_a_batch_do_not_mix(denoiser: WristDenoiser, inputs: dict[str, torch.Tensor]) -> None:
    both = predict(denoiser, inputs)
    alone = predict(denoiser, {name: value[1:] for name, value in inputs.items()})
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_the_order_of_frames_is_seen(denoiser: WristDenoiser, inputs: dict[str, torch.Tensor]) -> None:
    tokens = denoiser.anchor_encoder(inputs["anchors"])
    assert tokens.shape == (2, 3, 16)
    turned = denoiser.anchor_encoder(inputs["anchors"].flip(1)).flip(1)
    assert not torch.allclose(tokens, turned, atol=1e-4)


def test_patch_tokens_and_several_views() -> None:
    encoder = AnchorEncoder(dataclasses.replace(small_config().anchor, tokens="patches"), 16)
    assert encoder(torch.zeros(2, 3, 2, 3, 16, 16)).shape == (2, 3 * 2 * 4, 16)
    with pytest.raises(WorldModelError, match="got 3 of 3"):
        encoder(torch.zeros(1, 3, 3, 3, 16, 16))


def test_null_context_has_the_shape_of_the_other_and_no_anchor_in_it(denoiser: WristDenoiser) -> None:
    context = denoiser.context(torch.zeros(2, 3, 1, 3, 16, 16))
    null = denoiser.null_context(context)
    assert null.shape == context.shape == (2, 4, 16)
    assert torch.equal(null[0], null[1])


def test_anchor_tokens_replace_the_tail_of_a_long_text() -> None:
    config = small_config()
    config = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, text_tokens=10))
    denoiser = WristDenoiser(config, C).eval()
    context = denoiser.context(torch.zeros(1, 3, 1, 3, 16, 16))
    assert context.shape == (1, 10, 16)
    assert torch.equal(context[0, :7], denoiser.text[:7])
    assert torch.equal(denoiser.null_context(context)[0], denoiser.null)


def test_an_untrained_one_starts_at_the_best_linear_guess(inputs: dict[str, torch.Tensor]) -> None:
    denoiser = WristDenoiser(small_config(), C).eval()
    guess, _ = linear_guess(inputs["noisy"], inputs["sigma"], denoiser.spread)
    assert torch.allclose(predict(denoiser, inputs), guess)


def plain_transformer(channels: int = 4) -> object:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(2)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
    ).eval()


def test_widening_changes_nothing_where_the_new_channels_are_zero() -> None:
    transformer = plain_transformer()
    given = torch.randn(1, 4, 2, 4, 4)
    rest = {"timestep": torch.tensor([500.0]), "encoder_hidden_states": torch.randn(1, 3, 16), "return_dict": False}
    with torch.no_grad():
        before = transformer(hidden_states=given, **rest)[0]
        widen_patch_embedding(transformer, 8, torch.Generator().manual_seed(0))
        after = transformer(hidden_states=torch.cat([given, torch.zeros_like(given)], 1), **rest)[0]
        moved = transformer(hidden_states=torch.cat([given, torch.ones_like(given)], 1), **rest)[0]
    assert torch.allclose(before, after, atol=1e-5)
    assert not torch.allclose(before, moved, atol=1e-3)
    assert transformer.config.in_channels == 8
    new = transformer.patch_embedding.weight[:, 4:].detach()
    assert float(new.std()) == pytest.approx(0.02, rel=0.3)
    with pytest.raises(WorldModelError, match="narrow"):
        widen_patch_embedding(transformer, 4)


def test_a_trained_transformer_is_loaded_from_a_folder_and_widened(tmp_path: Path) -> None:
    saved = plain_transformer()
    saved.save_pretrained(tmp_path / "transformer")
    loaded = load_transformer(TransformerConfig(source=str(tmp_path), subfolder="transformer"), 4)
    assert loaded.config.in_channels == 8
    assert loaded.config.out_channels == 4
    assert torch.equal(loaded.patch_embedding.weight[:, :4], saved.patch_embedding.weight)
    with pytest.raises(WorldModelError, match="expected 6 latent channels"):
        load_transformer(TransformerConfig(source=str(tmp_path), subfolder="transformer"), 6)


def test_a_missing_transformer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(WorldModelError, match="WanTransformer3DModel") as error:
        load_transformer(TransformerConfig(source=str(tmp_path / "nowhere")), 4)
    assert "\n" not in str(error.value)


def test_a_trained_clip_stays_frozen(tmp_path: Path) -> None:
    from worldmodel.anchor_encoder import make_clip

    small = small_config().anchor
    two_layers = dataclasses.replace(small, layers=2)
    make_clip(two_layers).save_pretrained(tmp_path)
    encoder = AnchorEncoder(dataclasses.replace(two_layers, source=str(tmp_path)), 16).train()
    assert not encoder.clip.training
    encoder(torch.rand(1, 2, 1, 3, 16, 16)).sum().backward()
    assert all(p.grad is None for p in encoder.clip.parameters())
    assert encoder.temporal.grad is not None


def test_small_scales_share_the_transformers_class() -> None:
    from diffusers import WanTransformer3DModel

    made = make_transformer(small_config().transformer, C)
    assert isinstance(made, WanTransformer3DModel)
    assert (made.config.in_channels, made.config.out_channels) == (2 * C, C)


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_scales_survive_json(scale: str) -> None:
    import json

    config = Stage2Config.named(scale)
    assert Stage2Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.scale == scale


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(WorldModelError, match="tiny, small, paper"):
        Stage2Config.named("huge")
    with pytest.raises(WorldModelError, match="multiples of 14"):
        dataclasses.replace(Stage2Config(), size=(60, 64))
    with pytest.raises(WorldModelError, match="4n \\+ 1"):
        dataclasses.replace(Stage2Config.paper(), frames=80)
    with pytest.raises(WorldModelError, match="anchor_dropout"):
        dataclasses.replace(Stage2Config().flow, guidance=3.0)
    with pytest.raises(WorldModelError, match="not a stage-2 configuration"):
        Stage2Config.from_json({"scale": "tiny", "wings": 2})
    with pytest.raises(WorldModelError, match="head_dim"):
        TransformerConfig(head_dim=5)
    assert AnchorConfig().tokens == "cls"
