"""A training's curves in TensorBoard, Weights & Biases and Trackio: the numbers of its history; none is required."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from policies import tracking
from policies.api import PolicyError
from policies.progress import HISTORY_FILE
from policies.tracking import TRACKERS, check_tracker, open_tracker, scalars
from policies.train import train_policy


class KilledError(Exception):
    """Stands for a kill -9."""


def _train(arrays, config, directory, **options):
    return train_policy(arrays, config, directory, arm="real", progress=False, validation=arrays, **options)


def _told(directory) -> dict[str, dict[int, float]]:
    """What the history says: name to step to value."""
    told: dict[str, dict[int, float]] = {}
    for line in (directory / HISTORY_FILE).read_text().splitlines():
        row = json.loads(line)
        for name, value in scalars({key: value for key, value in row.items() if key != "step"}).items():
            told.setdefault(name, {})[row["step"]] = value
    return told


def _events(directory) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(directory / "tensorboard")).Reload()
    return {name: {one.step: one.value for one in reader.Scalars(name)} for name in reader.Tags()["scalars"]}


def test_tensorboard_shows_what_the_history_says(mini_arrays, mini, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    _train(mini_arrays, mini, tmp_path, log="tensorboard")
    events, told = _events(tmp_path), _told(tmp_path)
    assert events.keys() == told.keys() >= {"loss", "learning_rate", "validation/task_error/task_0"}
    for name, values in told.items():
        assert events[name] == pytest.approx(values, rel=1e-6), name


def test_a_killed_training_s_events_go_on_where_it_does(mini_arrays, mini, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")

    def kill(step):
        if step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        _train(mini_arrays, mini, tmp_path, log="tensorboard", on_step=kill)
    _train(mini_arrays, mini, tmp_path, log="tensorboard")
    assert _events(tmp_path)["loss"] == pytest.approx(_told(tmp_path)["loss"], rel=1e-6)


class Recorder(ModuleType):
    """Stands for wandb or trackio, which are not installed here: takes the calls that both document."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.started: dict = {}
        self.logged: list = []
        self.ended = 0

    def init(self, *, project, name, config, resume, **more):
        self.started = {"project": project, "name": name, "config": config, "resume": resume, **more}

    def log(self, metrics, step=None):
        self.logged.append((step, metrics))

    def finish(self):
        self.ended += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_hosted_trackers_are_told_each_step_once_and_then_that_it_ended(monkeypatch, mini_arrays, mini, tmp_path, name):
    package = Recorder()
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(tracking, "find_spec", lambda _: True)
    _train(mini_arrays, mini, tmp_path, log=name)
    assert package.started["name"] == "flow-mini real seed 0"
    assert package.started["config"]["config"]["dim"] == 32
    assert package.started["resume"] == "allow"
    assert ("id" in package.started) == (name == "wandb")
    logged: dict[str, dict[int, float]] = {}
    for step, metrics in package.logged:
        for key, value in metrics.items():
            logged.setdefault(key, {})[step] = value
    assert logged == _told(tmp_path)
    assert package.ended == 1
    _train(mini_arrays, mini, tmp_path, log=name)
    assert package.ended == 1, "a finished training tells nothing again"


def test_where_it_is_logged_is_no_other_training(mini_arrays, mini, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    _train(mini_arrays, mini, tmp_path / "a", log="tensorboard")
    _train(mini_arrays, mini, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    _train(mini_arrays, mini, tmp_path / "a")


@pytest.mark.parametrize("name", TRACKERS[1:])
def test_what_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch, tmp_path, name):
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(PolicyError, match=rf"pip install {name}, or"):
        check_tracker(name)
    with pytest.raises(PolicyError, match="not installed"):
        open_tracker(name, tmp_path, 0, "run", {})


def test_an_unknown_tracker_is_refused():
    with pytest.raises(PolicyError, match="expected one of none, tensorboard, wandb, trackio, got 'mlflow'"):
        check_tracker("mlflow")


def test_only_fractions_are_curves():
    assert scalars({"a": 1.5, "b": {"c": 0.25, "n": 3, "t": True}, "s": "x"}) == {"a": 1.5, "b/c": 0.25}
