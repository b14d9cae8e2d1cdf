"""Checkpoint folders: what comes back, and what is refused with one line."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from policies import checkpoint
from policies.api import ActionConvention, PolicyError
from policies.flow import FlowPolicy
from policies.normalise import Normaliser
from policies.registry import load_policy


@pytest.fixture
def policy(mini, awake):
    made = awake(FlowPolicy.initial(mini, "paired", ["push", "pull"], seed=3))
    made.normaliser = Normaliser((-0.5,) * 6, (0.25,) * 6, (0.0,) * 15, (2.0,) * 15)
    made.data_hash, made.training, made.view_sizes = "abc", {"steps_done": 7}, {"anchor": (200, 200)}
    return made


@pytest.fixture
def folder(policy, tmp_path):
    policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def _edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_everything_comes_back(policy, folder, observations):
    loaded = FlowPolicy.from_pretrained(folder)
    np.testing.assert_array_equal(loaded.act(observations, range(5)), policy.act(observations, range(5)))
    assert loaded.spec == policy.spec
    assert loaded.config == policy.config
    assert loaded.normaliser == policy.normaliser
    assert loaded.sentences.sentences == ("push", "pull")
    assert (loaded.data_hash, loaded.training, loaded.view_sizes) == ("abc", {"steps_done": 7}, {"anchor": (200, 200)})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_saving_twice_gives_the_same_bytes(policy, folder, tmp_path):
    FlowPolicy.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_another_arm_is_refused_naming_both(folder):
    assert load_policy(folder, expect_arm="paired", views=["anchor", "wrist"]).spec.arm == "paired"
    with pytest.raises(PolicyError, match=r"trained for arm 'paired', but arm 'real'"):
        load_policy(folder, expect_arm="real")


def test_missing_views_and_other_conventions_are_refused(folder):
    with pytest.raises(PolicyError, match=r"offers \['anchor'\]; missing: \['wrist'\]"):
        load_policy(folder, views=["anchor"])
    with pytest.raises(PolicyError, match=r"gripper_open: 1.0 != -1.0"):
        load_policy(folder, actions=ActionConvention(gripper_open=-1.0))


def test_names_and_typos():
    assert load_policy("random").spec.name == "random"
    with pytest.raises(PolicyError, match=r"did you mean .*random"):
        load_policy("randon")
    with pytest.raises(PolicyError, match="known names"):
        load_policy("/nowhere/at/all")


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_truncated_weights_are_refused(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(PolicyError, match="truncated or changed"):
        load_policy(folder)


def test_one_changed_bit_is_noticed(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(PolicyError, match="truncated or changed"):
        load_policy(folder)


def test_missing_files_are_named(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(PolicyError, match=r"model\.safetensors: missing"):
        load_policy(folder)
    (folder / "config.json").unlink()
    with pytest.raises(PolicyError, match=r"no config\.json"):
        load_policy(folder)
    with pytest.raises(PolicyError, match=r"no config\.json"):
        checkpoint.load(tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', "\x00\xff"])
def test_a_config_that_is_not_ours_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(PolicyError, match=r"config\.json"):
        load_policy(folder)


def test_another_version_is_refused(folder):
    _edit(folder, version=99)
    with pytest.raises(PolicyError, match="expected version 2, got 99"):
        load_policy(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {}},
        {"spec": {"name": "x", "views": ["anchor"], "surprise": 1}},
        {"architecture": {"dim": "wide"}},
        {"normaliser": {"low": [1]}},
        {"sentences": {"encoder": "hash-384", "sentences": ["only one"]}},
        {"view_sizes": {"anchor": 3}},
    ],
)
def test_damaged_entries_are_one_line_errors(folder, changes):
    _edit(folder, **changes)
    with pytest.raises(PolicyError) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(folder, policy):
    _edit(folder, architecture=replace(policy.config, layers=3).to_json())
    with pytest.raises(PolicyError, match=r"weights do not fit config\.json"):
        load_policy(folder)


def test_a_write_that_fails_leaves_no_policy_and_no_debris(policy, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PolicyError, match="No space left on device"):
        policy.save_pretrained(tmp_path / "policy")
    assert list((tmp_path / "policy").iterdir()) == []


def test_of_two_trainings_only_the_settings_that_differ_are_named():
    there = {"seed": 0, "training": {"steps": 12, "batch": 32, "old": 1, "betas": {"a": 1}}}
    wanted = {"seed": 0, "training": {"steps": 14, "batch": 32, "betas": {"a": 2}, "new": True}}
    assert checkpoint.same_training(there, wanted) == [
        "training.steps: 12 != 14",
        "training.old: 1 != None",
        "training.betas.a: 1 != 2",
        "training.new: None != True",
    ]
    assert checkpoint.same_training(there, {"seed": 0}) == []
    assert checkpoint.same_training({}, {"training": {"steps": 1}}) == ["training: None != {'steps': 1}"]
