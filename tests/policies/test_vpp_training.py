"""Training the video policy: the predictor learns what moves, the policy what to do; killed runs end the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.api import PolicyError
from policies.config import TrainingConfig
from policies.data import DeviceArrays, PolicyArrays
from policies.train import train_policy
from policies.vpp.clips import Clips
from policies.vpp.config import VideoPolicyConfig

LENGTH, SIDE, SQUARE = 10, 32, 8
SPEED = 0.8


def moving_squares(windows: int, seed: int) -> PolicyArrays:
    """A square at some height moves as the sentence says; the action is that movement, and the height."""
    rng = np.random.default_rng(seed)
    frames, actions, sentences = [], [], []
    for _ in range(windows):
        right, top, left = rng.random() < 0.5, rng.integers(0, SIDE - SQUARE), rng.integers(8, SIDE - 16)
        sentences.append(int(right))
        for step in range(LENGTH):
            image = np.full((SIDE, SIDE, 3), 40, np.uint8)
            column = int(np.clip(left + (step if right else -step), 0, SIDE - SQUARE))
            image[top : top + SQUARE, column : column + SQUARE] = (220, 60, 60)
            frames.append(image)
            actions.append([SPEED if right else -SPEED, 2 * top / (SIDE - SQUARE) - 1, 0, 0, 0, 0, 1])
    edges = np.arange(0, windows * LENGTH + 1, LENGTH)
    return PolicyArrays(
        anchor=np.stack(frames),
        wrist=None,
        wrist_present=np.zeros(len(frames), bool),
        actions=np.array(actions, np.float32),
        windows=np.stack([edges[:-1], edges[1:]], axis=1),
        window_sentence=np.array(sentences),
        sentences=("move to the left", "move to the right"),
    )


@pytest.fixture
def video(mini) -> VideoPolicyConfig:
    return VideoPolicyConfig.tiny(
        name="vpp-mini", anchor_size=32, wrist_size=32, dim=32, layers=2, heads=2, frames=2, levels=1, queries=3,
        stride=3, training=mini.training, predictor=mini.training,
    )  # fmt: skip


def _train(arrays, config, directory, **options):
    return train_policy(arrays, config, directory, **({"arm": "real", "progress": False} | options))


def test_it_learns_what_will_be_seen_and_what_to_do(video, tmp_path):
    settings = TrainingConfig(steps=40, batch=16, learning_rate=2e-3, warmup=6, ema=0.9, jitter=0.0, log_every=20)
    head = replace(settings, steps=90, learning_rate=4e-3, shift=0.0)
    config = replace(video, dim=64, queries=4, former_layers=1, training=head, predictor=settings)
    train, held_out = moving_squares(60, 0), moving_squares(20, 1)
    policy = _train(train, config, tmp_path, arm="anchor", validation=held_out)
    predictor = policy.training["before"]
    assert predictor["validated_on"] == "validation"
    assert predictor["validation"]["error"] < 0.87 * predictor["validation"]["copy_error"]
    mean_error = np.abs(held_out.actions[:, :6] - train.actions[:, :6].mean(0)).mean()
    assert policy.training["validation"]["action_error"] < 0.65 * mean_error


def test_a_killed_training_ends_in_the_same_weights_in_either_stage(mini_arrays, video, tmp_path):
    whole = _train(mini_arrays, video, tmp_path / "whole")

    def killed(when: str, stage) -> None:
        with pytest.raises(KeyboardInterrupt, match=when):
            stage()

    folder, saves = tmp_path / "killed", []

    def kill_in_head(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt("head")

    import policies.loop as stage_one

    save_state = stage_one.save_state

    def save_and_die(*args) -> None:
        save_state(*args)
        saves.append(args[2])
        raise KeyboardInterrupt("predictor")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_one, "save_state", save_and_die)
        killed("predictor", lambda: _train(mini_arrays, video, folder))
    assert saves == [2]
    assert not (folder / "predictor" / "config.json").exists()
    killed("head", lambda: _train(mini_arrays, video, folder, on_step=kill_in_head))
    made = (folder / "predictor" / "model.safetensors").stat().st_mtime_ns
    again = _train(mini_arrays, video, folder)
    assert (folder / "predictor" / "model.safetensors").stat().st_mtime_ns == made, "its second stage alone goes on"
    for mine, theirs in (
        (whole.network, again.network),
        (whole.network.frozen.predictor, again.network.frozen.predictor),
    ):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_a_predictor_of_another_training_is_refused_and_can_be_replaced(mini_arrays, video, tmp_path):
    _train(mini_arrays, video, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(PolicyError, match=r"predictor holds another training \(seed: 0 != 1"):
        _train(mini_arrays, video, tmp_path, seed=1)
    policy = _train(mini_arrays, video, tmp_path, seed=1, resume=False)
    assert policy.training["seed"] == 1


def test_a_damaged_predictor_is_named(mini_arrays, video, tmp_path):
    _train(mini_arrays, video, tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "predictor" / "config.json").write_text("{")
    with pytest.raises(PolicyError, match="delete it to train the video predictor again"):
        _train(mini_arrays, video, tmp_path)


def test_a_diverging_predictor_stops_and_leaves_no_policy(mini_arrays, video, tmp_path):
    wild = replace(video.predictor, learning_rate=1e30, clip=1e30, steps=20, log_every=5)
    with pytest.raises(PolicyError, match="predictor real seed 0: loss became"):
        _train(mini_arrays, replace(video, predictor=wild), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_time_limit_is_shared_by_both_stages(mini_arrays, video, tmp_path):
    long = replace(video.predictor, steps=100_000, checkpoint_every=100_000)
    policy = _train(mini_arrays, replace(video, predictor=long, training=long), tmp_path, time_limit_s=2.0)
    assert 0 < policy.training["before"]["steps_done"] < 100_000
    assert 0 < policy.training["steps_done"] < 100_000


def test_history_and_record_name_both_stages(mini_arrays, video, tmp_path, arrays_of):
    policy = _train(mini_arrays, video, tmp_path, validation=arrays_of(size=32, seed=3))
    rows = [json.loads(line) for line in (tmp_path / "predictor" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["validation"] == policy.training["before"]["validation"]
    assert policy.training["before"]["steps_done"] == 6


@pytest.fixture
def on_device(mini_arrays):
    def make(arrays: PolicyArrays = mini_arrays, *, use_wrist: bool = True) -> DeviceArrays:
        vectors = np.zeros((len(arrays.sentences), 384), np.float32)
        return DeviceArrays(
            arrays, arrays.fit_normaliser(), vectors, 10, torch.device("cpu"), use_wrist=use_wrist
        )  # fmt: skip

    return make


def test_clips_are_the_window_s_later_frames_and_its_last_one_again(mini_arrays, video, on_device):
    data = on_device(use_wrist=False)
    clips = Clips(data, video, changed=False)
    batch = clips.batch(torch.tensor([0, 6, 9]), torch.Generator().manual_seed(0))
    assert torch.equal(batch.image, torch.from_numpy(mini_arrays.anchor[[0, 6, 9]]))
    wanted = torch.from_numpy(mini_arrays.anchor[[[3, 6], [9, 9], [9, 9]]])
    assert torch.equal(batch.future, wanted), "a window has ten frames"
    assert set(batch.view.tolist()) == {0}


def test_clips_show_the_wrist_view_where_there_is_one(arrays_of, video, on_device):
    arrays = arrays_of(size=32, wrist="half")
    batch = Clips(on_device(arrays), video, changed=False).batch(torch.arange(40), torch.Generator().manual_seed(0))
    assert batch.view[20:].sum() == 0
    assert 0 < batch.view[:20].sum() < 20
    for number, view in enumerate(batch.view.tolist()):
        assert torch.equal(batch.image[number], torch.from_numpy((arrays.anchor, arrays.wrist)[view][number]))


def test_a_clip_is_shifted_and_tinted_as_a_whole(arrays_of, video, on_device):
    arrays = arrays_of(size=32, wrist="none")
    strong = replace(video.predictor, shift=0.2, jitter=0.3, recolour=0.5)
    still = replace(arrays, anchor=np.broadcast_to(arrays.anchor[:1], arrays.anchor.shape).copy())
    batch = Clips(on_device(still), replace(video, predictor=strong), changed=True).batch(
        torch.arange(16), torch.Generator().manual_seed(0)
    )
    assert torch.equal(batch.future, batch.image[:, None].expand_as(batch.future))
    assert len({bytes(image.numpy().tobytes()) for image in batch.image}) == 16


def test_arms_read_the_same_clips(arrays_of, video, on_device):
    arrays = arrays_of(size=32)
    real, anchor = (
        Clips(on_device(arrays, use_wrist=use), video, changed=True).batch(
            torch.arange(20), torch.Generator().manual_seed(5)
        )
        for use in (True, False)
    )
    same = real.view == 0
    assert torch.equal(real.image[same], anchor.image[same])
    assert torch.equal(real.noise, anchor.noise)
    assert torch.equal(real.sigma, anchor.sigma)
