"""Codecs: what they keep, what they refuse, and that they are what they say (affine, resumable, Wan's)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.api import WorldModelError
from worldmodel.vae import LinearCodec, WanCodec, frames_to_tensor, tensor_to_frames


def smooth(count: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Images of three random plane waves: what few components can hold."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.mgrid[:size, :size]).reshape(2, -1) / size
    waves = [np.cos(2 * np.pi * (random.normal(size=2) @ grid)) for _ in range(count * 3)]
    return torch.tensor(np.array(waves), dtype=torch.float32).view(count, 3, size, size) * 0.5


@pytest.fixture
def codec() -> LinearCodec:
    return LinearCodec((16, 16), patch=4, channels=12).fit(smooth(40))


def test_shapes_and_scale(codec: LinearCodec) -> None:
    latents = codec.encode(smooth(40)[:, None].repeat(1, 2, 1, 1, 1))
    assert latents.shape == (40, 12, 2, 4, 4)
    assert latents.pow(2).mean().sqrt() == pytest.approx(1.0, abs=1e-3)
    assert codec.decode(latents).shape == (40, 2, 3, 16, 16)


def test_all_components_lose_nothing() -> None:
    frames = smooth(10)[:, None]
    codec = LinearCodec((16, 16), patch=4, channels=48).fit(frames[:, 0])
    assert torch.allclose(codec.decode(codec.encode(frames)), frames, atol=1e-4)


def test_more_components_lose_less() -> None:
    frames = smooth(60)
    errors = []
    for channels in (2, 6, 24):
        codec = LinearCodec((16, 16), patch=4, channels=channels).fit(frames)
        held_out = smooth(20, seed=1)[:, None]
        errors.append(float((codec.decode(codec.encode(held_out)) - held_out).pow(2).mean()))
    assert errors[0] > errors[1] > errors[2]


def test_zero_latents_decode_to_the_mean_image(codec: LinearCodec) -> None:
    decoded = codec.decode(torch.zeros(1, 12, 1, 4, 4))[0, 0]
    assert torch.allclose(decoded, smooth(40).mean(0), atol=1e-5)


def test_it_is_affine(codec: LinearCodec) -> None:
    a, b = smooth(2, seed=3)[:, None].split(1)
    mixed = codec.encode(0.3 * a + 0.7 * b)
    assert torch.allclose(mixed, 0.3 * codec.encode(a) + 0.7 * codec.encode(b), atol=1e-5)


def test_weights_carry_the_fit(codec: LinearCodec) -> None:
    other = LinearCodec((16, 16), patch=4, channels=12)
    other.load_state_dict(codec.state_dict())
    frames = smooth(3, seed=4)[:, None]
    assert torch.equal(other.encode(frames), codec.encode(frames))


def test_condition_maps_enter_the_basis() -> None:
    wrist, condition = smooth(40).mul(0.2), smooth(40, seed=9).sign()
    blind = LinearCodec((16, 16), patch=4, channels=8).fit(wrist)
    seeing = LinearCodec((16, 16), patch=4, channels=8).fit(wrist, condition)

    def error(codec: LinearCodec) -> float:
        return float((codec.decode(codec.encode(condition[:, None])) - condition[:, None]).pow(2).mean())

    assert error(seeing) < error(blind)


@pytest.mark.parametrize(("size", "patch", "channels"), [((16, 18), 4, 4), ((16, 16), 4, 49), ((16, 16), 4, 0)])
def test_impossible_codecs_are_refused(size: tuple[int, int], patch: int, channels: int) -> None:
    with pytest.raises(WorldModelError, match="codec"):
        LinearCodec(size, patch, channels)


def test_frames_of_another_size_are_refused(codec: LinearCodec) -> None:
    with pytest.raises(WorldModelError, match=r"fitted for frames of \(16, 16\)"):
        codec.encode(torch.zeros(1, 1, 3, 8, 8))


def test_pixels_survive_the_way_there_and_back() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 10, 3), dtype=np.uint8)
    tensor = frames_to_tensor(frames, (8, 10))
    assert tensor.shape == (2, 3, 3, 8, 10)
    assert float(tensor.min()) >= -1
    assert float(tensor.max()) <= 1
    assert np.array_equal(tensor_to_frames(tensor, (8, 10)), frames)


def test_resizing_keeps_a_flat_colour_and_its_channel() -> None:
    frames = np.full((1, 8, 8, 3), (10, 100, 200), np.uint8)
    assert np.array_equal(tensor_to_frames(frames_to_tensor(frames, (4, 4)), (6, 6))[0, 0, 0], (10, 100, 200))


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan")
    AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.5] * 4, latents_std=[2.0] * 4
    ).save_pretrained(folder / "vae")
    return folder


def test_wan_codec_compresses_time_and_space(wan_folder: Path) -> None:
    codec = WanCodec(str(wan_folder), "vae")
    frames = smooth(5)[None]
    latents = codec.encode(frames)
    assert latents.shape == (1, 4, 2, 2, 2)
    assert codec.decode(latents).shape == frames.shape
    assert not any(p.requires_grad for p in codec.parameters())


def test_wan_latents_are_standardised(wan_folder: Path) -> None:
    codec = WanCodec(str(wan_folder), "vae")
    frames = smooth(5)[None]
    raw = codec.autoencoder.encode(frames.transpose(1, 2)).latent_dist.mode()
    assert torch.allclose(codec.encode(frames), (raw - 0.5) / 2, atol=1e-5)
    plain = codec.autoencoder.decode(raw).sample.transpose(1, 2)
    assert torch.allclose(codec.decode(codec.encode(frames)), plain, atol=1e-4)


def test_a_missing_autoencoder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(WorldModelError, match="AutoencoderKLWan") as error:
        WanCodec(str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)
