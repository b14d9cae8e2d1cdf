"""The training loop: it learns, it continues where it was killed, and the arms stay comparable."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.api import PolicyError
from policies.config import FlowPolicyConfig
from policies.progress import HISTORY_FILE, STATE_FILE
from policies.text import SentenceTable
from policies.train import train_policy
from policies.validate import validate_policy


class KilledError(Exception):
    """Stands for a kill -9: nothing in the training may catch it."""


def _kill_after(step):
    def on_step(done):
        if done == step:
            raise KilledError

    return on_step


def _weights(directory):
    return (directory / "model.safetensors").read_bytes()


def _train(arrays, config, directory, **options):
    return train_policy(arrays, config, directory, **({"arm": "real", "progress": False} | options))


@pytest.mark.parametrize("kill", [1, 2, 3, 5])
def test_a_killed_run_continues_to_the_same_bits(mini_arrays, mini, tmp_path, kill):
    _train(mini_arrays, mini, tmp_path / "whole")
    with pytest.raises(KilledError):
        _train(mini_arrays, mini, tmp_path / "killed", on_step=_kill_after(kill))
    assert not (tmp_path / "killed" / "config.json").exists()
    assert (tmp_path / "killed" / STATE_FILE).exists() == (kill >= 2)
    steps = []
    _train(mini_arrays, mini, tmp_path / "killed", on_step=steps.append)
    assert steps[0] == kill // 2 * 2 + 1
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "whole")
    assert not (tmp_path / "killed" / STATE_FILE).exists()
    for name in ("whole", "killed"):
        rows = [json.loads(line) for line in (tmp_path / name / HISTORY_FILE).read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_read_not_repeated(mini_arrays, mini, tmp_path, observations):
    first = _train(mini_arrays, mini, tmp_path)
    again = _train(mini_arrays, mini, tmp_path, on_step=_kill_after(1))
    np.testing.assert_array_equal(first.act(observations, range(5)), again.act(observations, range(5)))


@pytest.mark.parametrize("changes", [{"arm": "anchor"}, {"seed": 1}, {"steps": 5}, {"data_hash": "other"}])
@pytest.mark.parametrize("finished", [True, False])
def test_another_training_in_the_folder_is_refused_unless_replaced(mini_arrays, mini, tmp_path, changes, finished):
    if finished:
        _train(mini_arrays, mini, tmp_path)
    else:
        with pytest.raises(KilledError):
            _train(mini_arrays, mini, tmp_path, on_step=_kill_after(2))
    with pytest.raises(PolicyError, match=f"holds another training.*{next(iter(changes))}"):
        _train(mini_arrays, mini, tmp_path, **changes)
    replaced = _train(mini_arrays, mini, tmp_path, resume=False, **changes)
    assert replaced.training["steps_done"] == changes.get("steps", 6)


def test_a_damaged_state_is_named(mini_arrays, mini, tmp_path):
    with pytest.raises(KilledError):
        _train(mini_arrays, mini, tmp_path, on_step=_kill_after(2))
    state = tmp_path / STATE_FILE
    state.write_bytes(state.read_bytes()[:2000])
    with pytest.raises(PolicyError, match="delete it to start this training again"):
        _train(mini_arrays, mini, tmp_path)


def test_the_record_says_what_happened(mini_arrays, mini, tmp_path):
    policy = _train(mini_arrays, mini, tmp_path, validation=mini_arrays, seed=4)
    record = json.loads((tmp_path / "config.json").read_text())["training"]
    assert record == policy.training
    assert (record["arm"], record["seed"], record["steps_done"]) == ("real", 4, 6)
    assert record["data_hash"] == mini_arrays.fingerprint()
    assert set(record["validation"]["task_error"]) == {"task_0", "task_1"}
    assert 0 <= record["validation"]["gripper_accuracy"] <= 1
    assert policy.spec.arm == "real"
    assert policy.view_sizes == {"anchor": (200, 200), "wrist": (84, 84)}


def test_anchor_arm_does_not_depend_on_the_wrist_views(mini_arrays, mini, tmp_path):
    blind = replace(mini_arrays, wrist=None, wrist_present=np.zeros(40, bool))
    _train(mini_arrays, mini, tmp_path / "offered", arm="anchor", data_hash="x")
    _train(blind, mini, tmp_path / "absent", arm="anchor", data_hash="x")
    assert _weights(tmp_path / "offered") == _weights(tmp_path / "absent")


def test_partly_absent_wrist_views_train_both_the_encoder_and_the_absent_token(arrays_of, mini, tmp_path):
    policy = _train(arrays_of(size=32, wrist="half"), mini, tmp_path, arm="paired", wrist_optional=True)
    first = type(policy).initial(mini, "paired").network.wrist
    assert not torch.equal(first.absent, policy.network.wrist.absent)
    assert not torch.equal(first.stem.weight, policy.network.wrist.stem.weight)
    assert policy.spec.optional_views == ("wrist",)


def test_a_time_limit_ends_training_with_a_usable_policy(mini_arrays, mini, tmp_path, observations):
    policy = _train(mini_arrays, mini, tmp_path, steps=100_000, time_limit_s=0.5)
    assert 0 < policy.training["steps_done"] < 100_000
    assert np.isfinite(policy.act(observations, range(5))).all()


def test_a_diverging_run_stops_and_leaves_no_policy(mini_arrays, mini, tmp_path):
    wild = replace(mini, training=replace(mini.training, learning_rate=1e30, clip=1e30, steps=50, log_every=5))
    with pytest.raises(PolicyError, match="lower learning_rate"):
        _train(mini_arrays, wild, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_frames_of_another_size_are_refused(arrays, mini, tmp_path):
    with pytest.raises(PolicyError, match=r"wants 32x32, got 64x64.*resize_frames"):
        _train(arrays, mini, tmp_path)


def test_precomputed_sentences(mini_arrays, mini, tmp_path, observations):
    config = replace(mini, text="precomputed", text_dim=5)
    with pytest.raises(PolicyError, match="needs sentences"):
        _train(mini_arrays, config, tmp_path)
    table = SentenceTable("precomputed", mini_arrays.sentences, np.eye(3, 5, dtype=np.float32))
    policy = _train(mini_arrays, config, tmp_path, sentences=table)
    assert policy.act(observations, range(5)).shape == (5, 10, 7)
    unknown = replace(observations[0], instruction="dance")
    with pytest.raises(PolicyError, match="'dance' is not among"):
        policy.act([unknown], [0])


def test_proprio_is_trained_when_asked_for(mini_arrays, mini, tmp_path, observations_of):
    policy = _train(mini_arrays, replace(mini, use_proprio=True), tmp_path)
    assert policy.spec.uses_proprio
    assert policy.normaliser.proprio_mean is not None
    assert np.isfinite(policy.act(observations_of(2, proprio=True), [0, 1])).all()
    with pytest.raises(PolicyError, match="no proprio"):
        _train(replace(mini_arrays, proprio=None), replace(mini, use_proprio=True), tmp_path / "none")


@pytest.mark.parametrize(("head", "steps"), [("flow", 110), ("regression", 60)])
def test_tiny_policy_overfits_a_few_samples(arrays_of, tmp_path, head, steps):
    arrays = arrays_of(6, 2)
    held = arrays.actions.copy()
    held[:3], held[3:] = held[0], held[3]
    arrays = replace(arrays, actions=held)
    config = FlowPolicyConfig.tiny(head=head)
    settings = replace(config.training, steps=steps, batch=6, learning_rate=2e-3, warmup=10, ema=0.95)
    policy = _train(arrays, replace(config, training=settings), tmp_path)
    rows = [json.loads(line)["loss"] for line in (tmp_path / HISTORY_FILE).read_text().splitlines()]
    assert rows[-1] < 0.5 * rows[0]
    score = validate_policy(policy, arrays)
    assert score.action_error < 0.12
    assert score.gripper_accuracy == 1
    shuffled = validate_policy(policy, arrays, shuffle_wrist=True)
    assert shuffled.samples == 6


def test_the_exchanged_wrist_view_is_another_episodes(arrays_of, mini, tmp_path):
    arrays = arrays_of(12, 2, size=32)
    shown = np.zeros_like(arrays.wrist)
    shown[6:] = 255
    policy = _train(replace(arrays, wrist=shown), mini, tmp_path)
    seen: list[float] = []
    encoder = policy.network.wrist

    def look(module, inputs):
        seen.extend(inputs[0].float().mean((1, 2, 3)).tolist())

    handle = encoder.register_forward_pre_hook(look)
    validate_policy(policy, replace(arrays, wrist=shown))
    plain, seen[:] = list(seen), []
    validate_policy(policy, replace(arrays, wrist=shown), shuffle_wrist=True)
    handle.remove()
    assert [round(255 - value) for value in seen] == [round(value) for value in plain]
