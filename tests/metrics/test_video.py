"""PSNR and SSIM against scikit-image, and what they say where there is nothing to say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bench.errors import UserError
from bench.metrics.video import PSNR_CAP, evaluate_clips, psnr, ssim


@pytest.fixture
def clips() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-6, 7, (3, 40, 52, 3)), axis=2) + 128
    true = np.clip(smooth, 0, 255).astype(np.uint8)
    generated = np.clip(true + rng.normal(0, [[[[3]]], [[[12]]], [[[40]]]], true.shape), 0, 255).astype(np.uint8)
    return true, generated


def test_psnr_is_that_of_scikit_image(clips):
    true, generated = clips
    expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(true, generated, strict=True)]
    assert psnr(true, generated) == pytest.approx(expected, abs=1e-9)


def test_ssim_is_that_of_scikit_image_with_wangs_window(clips):
    true, generated = clips
    expected = [
        structural_similarity(
            a, b, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(true, generated, strict=True)
    ]
    assert ssim(true, generated) == pytest.approx(expected, abs=1e-9)


def test_identical_frames_have_the_stated_cap(clips):
    true, _ = clips
    assert psnr(true, true).tolist() == [PSNR_CAP] * 3
    assert ssim(true, true) == pytest.approx([1.0] * 3)


def test_psnr_does_not_wrap_around_in_uint8():
    black, white = np.zeros((1, 12, 12, 3), np.uint8), np.full((1, 12, 12, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx([0.0])
    assert psnr(white, black) == pytest.approx([0.0])


def test_the_mean_is_over_frames_not_of_the_pooled_error(clips):
    true, generated = clips
    result = evaluate_clips([true[:1], true[1:]], [generated[:1], generated[1:]])
    assert result["psnr"] == pytest.approx(psnr(true, generated).mean())
    assert result["ssim"] == pytest.approx(ssim(true, generated).mean())
    assert [len(clip) for clip in result["psnr_per_frame"]] == [1, 2]
    assert (result["clips"], result["frames"], result["missing"]) == (2, 3, 0)
    json.dumps(result, allow_nan=False)


def test_a_missing_clip_is_none_and_never_zero(clips):
    true, generated = clips
    result = evaluate_clips([true, true], [generated, None])
    assert result["psnr"] == pytest.approx(psnr(true, generated).mean())
    assert result["psnr_per_frame"][1] is None
    assert result["missing"] == 1
    nothing = evaluate_clips([true], [None])
    assert nothing["psnr"] is None
    assert nothing["ssim"] is None
    assert evaluate_clips([], [])["psnr"] is None


@pytest.mark.parametrize(
    ("true", "generated", "says"),
    [
        (np.zeros((1, 12, 12, 3), np.float32), np.zeros((1, 12, 12, 3), np.uint8), "expected uint8"),
        (np.zeros((1, 12, 12, 3), np.uint8), np.zeros((1, 14, 12, 3), np.uint8), "one shape"),
        (np.zeros((1, 8, 12, 3), np.uint8), np.zeros((1, 8, 12, 3), np.uint8), "at least 11"),
    ],
)
def test_wrong_input_is_named(true, generated, says):
    with pytest.raises(UserError, match=says):
        ssim(true, generated)


def test_unequal_numbers_of_clips_are_refused(clips):
    with pytest.raises(UserError, match="1 for 2"):
        evaluate_clips([clips[0], clips[0]], [clips[1]])
