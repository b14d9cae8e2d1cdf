"""Overlays: exact, resumable, tied to one data set, and never a change to it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from bench.data.calvin import CalvinDataset, dataset_hash
from bench.data.overlay import GENERATED_WRIST, Overlay
from bench.errors import UserError


def noise(frames: int, seed: int = 0, side: int = 84) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


@pytest.fixture
def overlay(tmp_path):
    return Overlay.create(tmp_path / "overlay", "hash-of-data", {"name": "tiny", "steps": (1, 2)})


def test_frames_return_exactly_in_any_stretch(overlay):
    frames = noise(150)
    overlay.add("0000070", frames)
    again = Overlay.open(overlay.directory, "hash-of-data")
    assert again.episodes == ("0000070",)
    for start, stop in [(0, None), (0, 1), (63, 65), (64, 128), (149, 150), (10, 140)]:
        np.testing.assert_array_equal(again.load("0000070", start, stop), frames[start:stop])


def test_condition_maps_go_along(overlay):
    overlay.add("a", noise(3), condition=noise(3, 1, side=64))
    overlay.add("b", noise(3))
    np.testing.assert_array_equal(overlay.load_condition("a", 1), noise(3, 1, side=64)[1:])
    assert overlay.load_condition("b") is None


def test_files_are_named_by_content(overlay):
    overlay.add("a", noise(3))
    overlay.add("b", noise(3))
    files = list((overlay.directory / "views").iterdir())
    assert len(files) == 1
    assert files[0].stem == hashlib.sha256(files[0].read_bytes()).hexdigest()


def test_an_interrupted_run_goes_on(overlay):
    overlay.add("a", noise(3))
    again = Overlay.create(overlay.directory, "hash-of-data", {"name": "tiny", "steps": [1, 2]})
    assert "a" in again
    assert "b" not in again


def test_another_data_set_or_generator_is_refused(overlay):
    with pytest.raises(UserError, match="of data set other"):
        Overlay.create(overlay.directory, "other", {"name": "tiny", "steps": [1, 2]})
    with pytest.raises(UserError, match="of data set other"):
        Overlay.open(overlay.directory, "other")
    with pytest.raises(UserError, match="generator"):
        Overlay.create(overlay.directory, "hash-of-data", {"name": "tiny", "steps": [1, 3]})
    assert Overlay.open(overlay.directory).provenance["steps"] == [1, 2]


def _view(overlay):
    return next((overlay.directory / "views").iterdir())


def test_damaged_views_are_refused(overlay):
    overlay.add("a", noise(3))
    whole = _view(overlay).read_bytes()
    for spoiled in (whole[:-100], b"", whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]):
        _view(overlay).write_bytes(spoiled)
        with pytest.raises(UserError, match="damaged"):
            Overlay.open(overlay.directory).load("a")
    _view(overlay).unlink()
    with pytest.raises(UserError, match="generate them again"):
        Overlay.open(overlay.directory).load("a")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"dataset": "x", "provenance": {}, "episodes": {"a": 3}}'])
def test_a_damaged_index_is_refused(overlay, text):
    (overlay.directory / "index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json"):
        Overlay.open(overlay.directory)


def test_an_index_cannot_point_outside(overlay):
    overlay.add("a", noise(3))
    path = overlay.directory / "index.json"
    index = json.loads(path.read_text())
    index["episodes"]["a"]["sha256"] = "../../secret"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json"):
        Overlay.open(overlay.directory)


@pytest.mark.parametrize(
    "frames",
    [noise(3).astype(np.float32), noise(3)[..., :2], noise(3)[0], noise(0)],
    ids=["float", "two", "flat", "none"],
)
def test_what_is_no_view_is_refused(overlay, frames):
    with pytest.raises(UserError, match="expected"):
        overlay.add("a", frames)
    assert "a" not in overlay


def test_ranges_and_unknown_episodes_are_refused(overlay):
    overlay.add("a", noise(3))
    with pytest.raises(UserError, match="<= 3"):
        overlay.load("a", 1, 4)
    with pytest.raises(UserError, match="episode b"):
        overlay.load("b")


def test_an_episode_reads_its_generated_view_beside_its_own(overlay, tiny_root):
    dataset = CalvinDataset(tiny_root)
    episode, frames = dataset.episodes[1], noise(12)
    before = dataset_hash(dataset)
    overlay.add(episode.id, frames)
    attached = overlay.attach(episode)
    arrays = attached.load(["robot_obs", GENERATED_WRIST], 3, 11, 2)
    np.testing.assert_array_equal(arrays[GENERATED_WRIST], frames[3:11:2])
    np.testing.assert_array_equal(arrays["robot_obs"], episode.load(["robot_obs"], 3, 11, 2)["robot_obs"])
    assert attached.keys == (*episode.keys, GENERATED_WRIST)
    assert overlay.attach(dataset.episodes[0]) is dataset.episodes[0]
    assert dataset_hash(CalvinDataset(tiny_root)) == before


def test_views_of_another_length_are_not_attached(overlay, tiny_root):
    episode = CalvinDataset(tiny_root).episodes[1]
    overlay.add(episode.id, noise(11))
    with pytest.raises(UserError, match="expected 12 frames"):
        overlay.attach(episode)


def test_the_hash_of_a_data_set(tiny_root, spoiled):
    original = dataset_hash(CalvinDataset(tiny_root))
    assert dataset_hash(CalvinDataset(spoiled)) == original
    path = spoiled / "training" / "episode_0000080.npz"
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    assert dataset_hash(CalvinDataset(spoiled)) != original
    path.unlink()
    with pytest.raises(UserError, match="episode_0000080"):
        dataset_hash(CalvinDataset(spoiled))
