"""Many episodes in one call: each picture is, to the bit, the one that its episode would have got alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stage2_doubles import Clips, FlippedAnchor, scene, small_config

from worldmodel import together
from worldmodel.api import Clip, WorldModelError
from worldmodel.baselines import MeanImage
from worldmodel.stage2 import train_stage2
from worldmodel.together import Together
from worldmodel.wristworld import WristWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WristWorld:
    folder = tmp_path_factory.mktemp("stage2")
    clips = Clips([scene(7, "a"), scene(5, "b")])
    return WristWorld(FlippedAnchor(), train_stage2(clips, FlippedAnchor(), small_config(), folder, progress=False))


def anchors(length: int, seed: int) -> np.ndarray:
    return scene(length, wrist=False, seed=seed).views["anchor"]


def windows(episode: np.ndarray, frames: int = 3) -> list[Clip]:
    """What a stream of an episode would be asked, moment after moment."""
    return [Clip({"anchor": episode[max(0, t + 1 - frames) : t + 1]}) for t in range(len(episode))]


def test_company_and_order_change_no_bit(world: WristWorld) -> None:
    episodes = [anchors(5, seed) for seed in range(4)]
    alone = [Together(world, 4).stream(seed) for seed in range(4)]
    expected = [[stream.push({"anchor": f}) for f in frames] for stream, frames in zip(alone, episodes, strict=True)]
    assert not np.array_equal(expected[0][4], expected[1][4])
    dice, crowd = np.random.default_rng(0), Together(world, 4)
    waiting = [(seed, t, window) for seed, frames in enumerate(episodes) for t, window in enumerate(windows(frames))]
    dice.shuffle(waiting)  # type: ignore[arg-type]
    while waiting:
        count = int(dice.integers(1, 5))
        batch, waiting = waiting[:count], waiting[count:]
        shown = crowd.latest([window for _, _, window in batch], [seed for seed, _, _ in batch])
        for (seed, t, _), picture in zip(batch, shown, strict=True):
            np.testing.assert_array_equal(picture, expected[seed][t])


def test_it_shows_what_the_generators_own_stream_shows(world: WristWorld) -> None:
    """In another batch the last bits may differ; a grey level is what that may come to."""
    frames = anchors(6, 1)
    own, crowd = world.stream(7), Together(world, 4)
    for frame, window in zip(frames, windows(frames), strict=True):
        one, other = own.push({"anchor": frame}), crowd.latest([window], [7])[0]
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_map_is_drawn_once_and_again_after_it_was_forgotten(world: WristWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    stage1 = FlippedAnchor()
    crowd, frames = Together(WristWorld(stage1, world.stage2), 2), anchors(6, 2)
    first = [crowd.latest([window], [0])[0] for window in windows(frames)]
    different = 2 * len(np.unique(frames, axis=0))  # every call is filled up to two
    assert stage1.drawn == different
    crowd.latest([windows(frames)[3]], [0])
    assert stage1.drawn == different
    monkeypatch.setattr(together, "MAPS", 2)
    again = [crowd.latest([window], [0])[0] for window in windows(frames)]
    assert stage1.drawn > different
    np.testing.assert_array_equal(first, again)


def test_generator_without_stages_is_asked_window_by_window() -> None:
    image = np.full((4, 4, 3), 9, np.uint8)
    crowd = Together(MeanImage(image, {}), 4)
    assert crowd.frames == 1
    np.testing.assert_array_equal(
        crowd.latest([Clip({"anchor": anchors(1, s)}) for s in range(3)], [0] * 3), [image] * 3
    )


def test_generator_that_remembers_everything_is_refused(tmp_path: Path) -> None:
    class Elephant:
        def generate(self, anchor: Clip, seed: int = 0) -> None: ...

        def stream(self, seed: int = 0) -> object:
            return object()

        def provenance(self) -> dict[str, str]:
            return {}

    with pytest.raises(WorldModelError, match="Elephant: its streams remember more"):
        Together(Elephant(), 2)  # type: ignore[arg-type]
