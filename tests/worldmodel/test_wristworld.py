"""The world model as one object: what it may see, what it returns, and the closed loop."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from stage2_doubles import Clips, FlippedAnchor, scene, small_config

from worldmodel.api import Clip, GeneratedClip, WorldModelError, WristGenerator, WristStream
from worldmodel.single_view import StillScene, TwoViewModel
from worldmodel.stage2 import train_stage2
from worldmodel.streaming import WindowStream
from worldmodel.wristworld import WristWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WristWorld:
    stage1 = FlippedAnchor()
    clips = Clips([scene(7, "a"), scene(5, "b")])
    folder = tmp_path_factory.mktemp("stage2")
    return WristWorld(stage1, train_stage2(clips, stage1, small_config(), folder, progress=False, data_hash="d"))


def test_it_is_a_wrist_generator(world: WristWorld) -> None:
    assert isinstance(world, WristGenerator)
    assert isinstance(world.stream(), WristStream)


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_a_clip_comes_back_with_a_wrist_view_of_the_true_size(world: WristWorld, length: int) -> None:
    clip = scene(length, wrist=False)
    made = world.generate(clip)
    assert isinstance(made, GeneratedClip)
    assert made.views["wrist"].shape == (length, 20, 20, 3)
    assert np.array_equal(made.views["anchor"], clip.views["anchor"])
    assert made.condition is not None
    assert made.condition.shape == (length, 16, 16, 3)
    assert made.wrist_from_anchor is not None
    assert made.wrist_from_anchor.shape == (length, 4, 4)
    assert (made.episode, made.start, made.stride) == (clip.episode, clip.start, clip.stride)


def test_the_true_wrist_view_changes_nothing(world: WristWorld) -> None:
    clip = scene(5)
    garbage = np.random.default_rng(9).integers(0, 256, clip.views["wrist"].shape, dtype=np.uint8)
    spoilt = dataclasses.replace(clip, views={**clip.views, "wrist": garbage})
    blind = clip.without("wrist")
    made = [world.generate(one, 2).views["wrist"] for one in (clip, spoilt, blind)]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


def test_the_order_of_clips_does_not_matter(world: WristWorld) -> None:
    one, two = scene(5, "x", wrist=False), scene(7, "y", wrist=False)
    first = [world.generate(one).views["wrist"], world.generate(two).views["wrist"]]
    second = [world.generate(two).views["wrist"], world.generate(one).views["wrist"]]
    assert np.array_equal(first[0], second[1])
    assert np.array_equal(first[1], second[0])


def test_another_output_size(world: WristWorld) -> None:
    larger = WristWorld(world.stage1, world.stage2, size=(30, 40))
    assert larger.generate(scene(2)).views["wrist"].shape == (2, 30, 40, 3)


def test_provenance_names_everything(world: WristWorld) -> None:
    told = json.loads(json.dumps(world.provenance(), allow_nan=False))
    assert told["name"] == "wristworld"
    assert told["stage1"] == {"name": "flipped"}
    assert told["stage2"]["scale"] == "test"
    assert told["stage2"]["data_hash"] == "d"
    assert told["stage2"]["sampler"]["steps"] == 3
    assert len(told["stage2"]["weights_sha256"]) == 64


# The closed loop


def test_a_stream_looks_back_and_never_ahead(world: WristWorld) -> None:
    frames = scene(6, wrist=False).views["anchor"]
    stream, other = world.stream(1), world.stream(1)
    first = [stream.push({"anchor": frame}) for frame in frames]
    second = [other.push({"anchor": frame}) for frame in frames[:4]]
    assert first[0].shape == (20, 20, 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=False))


def test_a_stream_is_the_end_of_its_window(world: WristWorld) -> None:
    frames = scene(6, wrist=False).views["anchor"]
    stream = world.stream(1)
    shown = [stream.push({"anchor": frame}) for frame in frames]
    window = world.generate(Clip({"anchor": frames[3:6]}), 1).views["wrist"]
    assert np.array_equal(shown[5], window[-1])


def test_a_stream_draws_each_condition_map_once(world: WristWorld) -> None:
    stage1 = FlippedAnchor()
    stream = WristWorld(stage1, world.stage2).stream()
    for frame in scene(6, wrist=False).views["anchor"]:
        stream.push({"anchor": frame})
    assert stage1.drawn == 6


def test_a_scene_at_rest_gives_a_view_at_rest(world: WristWorld) -> None:
    stream = world.stream()
    frame = scene(1, wrist=False).views["anchor"][0]
    shown = [stream.push({"anchor": frame}) for _ in range(6)]
    assert np.array_equal(shown[2], shown[5])


def test_streams_do_not_share_what_they_saw(world: WristWorld) -> None:
    frames = scene(4, wrist=False).views["anchor"]
    one, two = world.stream(), world.stream()
    for frame in frames:
        one.push({"anchor": frame})
    alone = world.stream()
    assert np.array_equal(two.push({"anchor": frames[0]}), alone.push({"anchor": frames[0]}))


def test_a_stream_refuses_a_view_that_comes_or_goes(world: WristWorld) -> None:
    stream = world.stream()
    frame = scene(1, wrist=False).views["anchor"][0]
    stream.push({"anchor": frame})
    with pytest.raises(WorldModelError, match="anchor2"):
        stream.push({"anchor": frame, "anchor2": frame})
    with pytest.raises(WorldModelError, match="at least one frame"):
        WindowStream(world, 0)


# Beside a single-view model


def test_a_single_view_model_is_given_a_wrist(world: WristWorld) -> None:
    history = scene(4, "h", start=10)
    made = TwoViewModel(StillScene(), world).imagine(history, 5)
    assert made.views["wrist"].shape == (5, 20, 20, 3)
    assert np.array_equal(made.views["anchor"], np.repeat(history.views["anchor"][-1:], 5, axis=0))
    assert made.start == 14


def test_a_single_view_model_of_another_shape_is_refused(world: WristWorld) -> None:
    class Narrow(StillScene):
        def imagine(self, history: Clip, frames: int, seed: int = 0) -> np.ndarray:
            return super().imagine(history, frames)[:, :, :-1]

    with pytest.raises(WorldModelError, match="single-view model"):
        TwoViewModel(Narrow(), world).imagine(scene(4), 5)
    with pytest.raises(WorldModelError, match="expected a view 'anchor'"):
        TwoViewModel(StillScene(), world).imagine(Clip({"wrist": np.zeros((1, 4, 4, 3), np.uint8)}), 2)


def test_a_folder_without_stages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldModelError, match="no checkpoint"):
        WristWorld.load(tmp_path)
