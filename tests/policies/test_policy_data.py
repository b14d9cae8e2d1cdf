"""The arrays that training reads: what a sample holds, which samples come when, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.api import PolicyError
from policies.data import DeviceArrays, SampleOrder, resize_frames
from policies.normalise import Normaliser

CPU = torch.device("cpu")


def _device(arrays, *, use_wrist=True, shift=0.0, jitter=0.0, chunk=4):
    vectors = np.eye(len(arrays.sentences), 8, dtype=np.float32)
    return DeviceArrays(
        arrays, arrays.fit_normaliser(), vectors, chunk, CPU, use_wrist=use_wrist, shift=shift, jitter=jitter
    )


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_sample_is_a_frame_and_the_actions_that_follow_it_in_its_window(arrays_of):
    arrays = replace(
        arrays_of(20, 2),
        windows=np.array([[0, 6], [3, 20]], np.int64),
        window_sentence=np.array([2, 0], np.int64),
    )
    data = _device(arrays)
    assert len(data) == arrays.samples == 6 + 17
    batch = data.batch(torch.tensor([4, 6]), _generator())
    assert batch.valid.tolist() == [[True, True, False, False], [True] * 4]
    scaled = arrays.fit_normaliser().scale_actions(arrays.actions)
    np.testing.assert_array_equal(batch.actions[0, :2], scaled[4:6])
    np.testing.assert_array_equal(batch.actions[1], scaled[3:7])
    np.testing.assert_array_equal(batch.inputs.anchor, arrays.anchor[[4, 3]])
    np.testing.assert_array_equal(batch.inputs.wrist, arrays.wrist[[4, 3]])
    assert batch.inputs.sentence.argmax(1).tolist() == [2, 0]
    assert batch.window.tolist() == [0, 1]


def test_arms_differ_in_the_wrist_view_only(arrays_of):
    whole, half = arrays_of(wrist="all"), arrays_of(wrist="half")
    samples = torch.arange(0, 40, 3)
    real, paired, anchor = (
        _device(part, use_wrist=use, shift=0.05, jitter=0.2).batch(samples, _generator(3))
        for part, use in ((whole, True), (half, True), (whole, False))
    )
    for other in (paired, anchor):
        for name in ("actions", "valid", "noise", "t"):
            assert torch.equal(getattr(real, name), getattr(other, name))
        assert torch.equal(real.inputs.anchor, other.inputs.anchor)
    assert anchor.inputs.wrist is None
    assert not anchor.inputs.wrist_present.any()
    assert paired.inputs.wrist_present.tolist() == (samples < 20).tolist()
    assert torch.equal(paired.inputs.wrist, real.inputs.wrist)


def test_random_shift_moves_whole_pixels_and_repeats_the_border(arrays_of):
    arrays = arrays_of(8, 1)
    data = _device(arrays, shift=0.045)
    batch = data.batch(torch.arange(8), _generator())
    largest, moved = round(0.045 * 64), 0
    for original, image in zip(arrays.anchor, batch.inputs.anchor.numpy(), strict=True):
        padded = np.pad(original, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
        offsets = range(2 * largest + 1)
        found = [(y, x) for y in offsets for x in offsets if np.array_equal(padded[y : y + 64, x : x + 64], image)]
        assert found
        moved += (largest, largest) not in found
    assert moved > 0
    assert not torch.equal(batch.inputs.anchor, batch.inputs.wrist)


def test_jitter_changes_colours_and_nothing_else(arrays_of):
    arrays = arrays_of(8, 1)
    batch = _device(arrays, jitter=0.1).batch(torch.arange(8), _generator())
    for original, image in zip(arrays.anchor, batch.inputs.anchor.numpy(), strict=True):
        for channel in range(3):
            before, after = original[..., channel].ravel().astype(float), image[..., channel].ravel().astype(float)
            inside = (after > 0) & (after < 255)
            gain, offset = np.polyfit(before[inside], after[inside], 1)
            assert 0.89 < gain < 1.11
            assert abs(offset) < 27
            np.testing.assert_allclose(after[inside], gain * before[inside] + offset, atol=1.1)
    assert batch.inputs.anchor.dtype == torch.uint8
    assert not torch.equal(batch.inputs.anchor, torch.from_numpy(arrays.anchor[:8]))


def test_without_shift_images_are_untouched(arrays):
    batch = _device(arrays).batch(torch.arange(5), _generator())
    np.testing.assert_array_equal(batch.inputs.anchor, arrays.anchor[:5])


def test_order_is_shuffled_passes_known_by_seed_and_step():
    order = SampleOrder(10, 4, seed=1)
    drawn = np.concatenate([order.indices(step) for step in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    np.testing.assert_array_equal(SampleOrder(10, 4, seed=1).indices(3), drawn[12:16])
    assert SampleOrder(10, 4, seed=2).indices(0).tolist() != drawn[:4].tolist()
    assert len(SampleOrder(3, 8, seed=0).indices(1)) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((40, 6), np.float32)}, "actions: expected shape"),
        ({"actions": np.zeros((40, 7), np.float32)}, "gripper"),
        ({"actions": np.full((40, 7), np.nan, np.float32)}, "NaN"),
        ({"windows": np.array([[0, 41]] * 4, np.int64)}, "inside the 40 frames"),
        ({"windows": np.array([[5, 5]] * 4, np.int64)}, "start < stop"),
        ({"windows": np.zeros((0, 2), np.int64)}, "0 windows"),
        ({"window_sentence": np.array([0, 1, 2, 3], np.int64)}, "outside the 3 sentences"),
        ({"wrist": None}, "no wrist array"),
        ({"wrist": np.zeros((3, 64, 64, 3), np.uint8)}, "3 wrist frames"),
        ({"anchor": np.zeros((40, 64, 64, 3), np.float32)}, "uint8"),
        ({"window_task": ("a",)}, "task names"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, change, message):
    with pytest.raises(PolicyError, match=message):
        replace(arrays, **change)


def test_fingerprint_sees_every_byte(arrays):
    changed = arrays.wrist.copy()
    changed[3, 2, 1, 0] ^= 1
    assert replace(arrays, wrist=changed).fingerprint() != arrays.fingerprint()
    assert replace(arrays).fingerprint() == arrays.fingerprint()


def test_frames_are_resized_evenly():
    frames = np.full((3, 200, 200, 3), 90, np.uint8)
    frames[:, :, 100:] = 200
    small = resize_frames(frames, 64)
    assert small.shape == (3, 64, 64, 3)
    assert (small[:, :, :31] == 90).all()
    assert (small[:, :, 33:] == 200).all()
    with pytest.raises(PolicyError, match="uint8"):
        resize_frames(frames.astype(np.float32), 64)


def test_normaliser_maps_quantiles_to_the_box_and_back():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.5, 0.3, (5000, 7)).astype(np.float32)
    actions[:, 6] = np.sign(actions[:, 6])
    actions[0, 0] = 1.0
    normaliser = Normaliser.fit(actions)
    scaled = normaliser.scale_actions(actions)
    assert np.abs(scaled).max() == 1
    inside = np.abs(scaled[:, :6]).max(1) < 1
    np.testing.assert_allclose(normaliser.unscale_actions(scaled)[inside], actions[inside], atol=1e-6)
    assert normaliser.high[0] < 0.31
    assert Normaliser.from_json(normaliser.to_json()) == normaliser


def test_normaliser_does_not_blow_up_a_dimension_that_stands_still():
    actions = np.zeros((100, 7), np.float32)
    actions[:, 6] = 1
    actions[:, 1] = 0.25 + 1e-5 * np.arange(100) / 100
    assert np.abs(Normaliser.fit(actions).scale_actions(actions)[:, :6]).max() < 0.01


def test_gripper_is_thresholded_once_at_zero():
    normaliser = Normaliser((-1.0,) * 6, (1.0,) * 6)
    scaled = np.zeros((3, 7), np.float32)
    scaled[:, 6] = [0.01, 0.0, -3.0]
    assert normaliser.unscale_actions(scaled)[:, 6].tolist() == [1, 1, -1]
    scaled[:, 0] = 7.0
    assert normaliser.unscale_actions(scaled)[:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("low", [(0.0,) * 5, (float("nan"),) * 6, (1.0,) * 6])
def test_normaliser_refuses_what_cannot_scale(low):
    with pytest.raises(PolicyError, match="normaliser"):
        Normaliser(low, (1.0,) * 6)
