"""All generators, by one interface: conformance, and that each baseline is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stage2_doubles import Clips, FlippedAnchor, scene, shaded, small_config

from worldmodel import baselines, wristworld
from worldmodel.api import WorldModelError, WristGenerator
from worldmodel.baselines import GENERATORS, generator_kind, load_generator

CLIPS = Clips([scene(7, "a"), scene(5, "b")])


class Kept(FlippedAnchor):
    """A stage 1 that can be written beside a generator."""

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "stage1.json").write_text("{}")


@pytest.fixture
def _stage1_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(directory: Any, device: str = "cpu") -> Kept:
        assert (Path(directory) / "stage1" / "stage1.json").is_file()
        return Kept()

    monkeypatch.setattr(baselines, "load_beside", load)
    monkeypatch.setattr(wristworld, "load_beside", load)


@pytest.mark.usefixtures("_stage1_on_disk")
@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_trains_generates_streams_and_comes_back(name: str, tmp_path: Path) -> None:
    made = generator_kind(name).train(CLIPS, Kept(), small_config(), tmp_path, seed=1, progress=False, data_hash="d")
    assert isinstance(made, WristGenerator)
    clip = scene(5, "v")
    before = made.generate(clip, 3)
    assert before.views["wrist"].shape == clip.views["wrist"].shape
    assert np.array_equal(before.views["anchor"], clip.views["anchor"])
    blind = made.generate(clip.without("wrist"), 3)
    assert np.array_equal(before.views["wrist"], blind.views["wrist"])

    stream = made.stream(3)
    for frame in clip.views["anchor"]:
        assert stream.push({"anchor": frame}).shape == (20, 20, 3)

    again = load_generator(tmp_path)
    assert np.array_equal(again.generate(clip, 3).views["wrist"], before.views["wrist"])
    assert json.loads(json.dumps(again.provenance())) == json.loads(json.dumps(made.provenance()))
    assert made.provenance()["name"] == name


def test_the_mean_image_is_the_mean(tmp_path: Path) -> None:
    made = generator_kind("mean").train(CLIPS, None, small_config(), tmp_path)
    every = np.concatenate([clip.views["wrist"] for clip in CLIPS])
    assert np.abs(made.generate(scene(2)).views["wrist"][0] - every.mean(axis=0)).max() <= 0.5


def test_the_projection_is_the_condition_map(tmp_path: Path) -> None:
    made = generator_kind("projection").train(CLIPS, FlippedAnchor(), small_config(), tmp_path)
    clip = scene(3)
    shown = made.generate(clip)
    assert np.array_equal(shown.condition, FlippedAnchor().condition(clip.without("wrist"), (16, 16))[0])


def test_pix2pix_learns_from_the_condition_map(tmp_path: Path) -> None:
    config = small_config(steps=40, batch_size=3, learning_rate=5e-3)
    clips = Clips([shaded(f"t{n}", n) for n in range(20)])
    made = generator_kind("pix2pix").train(clips, FlippedAnchor(), config, tmp_path, progress=False)
    held_out = shaded("v", 99)
    truth = held_out.views["wrist"].astype(float)
    mean = np.mean([clip.views["wrist"].mean(axis=0) for clip in clips], axis=0)
    assert np.abs(made.generate(held_out).views["wrist"] - truth).mean() < 0.7 * np.abs(mean - truth).mean()


def test_a_finished_pix2pix_is_not_trained_again(tmp_path: Path) -> None:
    train = generator_kind("pix2pix").train
    first = train(CLIPS, FlippedAnchor(), small_config(), tmp_path, progress=False)
    stage1 = FlippedAnchor()
    second = train(CLIPS, stage1, small_config(), tmp_path, progress=False)
    assert stage1.drawn == 0
    assert first.provenance() == second.provenance()
    with pytest.raises(WorldModelError, match="seed"):
        train(CLIPS, stage1, small_config(), tmp_path, progress=False, seed=4)


def test_an_unknown_generator_is_answered_with_the_names() -> None:
    with pytest.raises(WorldModelError, match="wristworld, projection, pix2pix, mean"):
        generator_kind("magic")


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    from worldmodel import checkpoint

    checkpoint.save(tmp_path, {}, {}, {})
    with pytest.raises(WorldModelError, match="no generator"):
        load_generator(tmp_path)
