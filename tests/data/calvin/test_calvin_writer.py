"""The writer: exact round trips, the original's files and types, and runs that were cut short."""

from __future__ import annotations

import errno
import json
import os
import pickle

import numpy as np
import pytest
import yaml

from bench.data.calvin import CalvinDataset, CalvinWriter, relative_actions
from bench.data.episode import Window
from bench.errors import UserError


def test_frames_return_exactly(tmp_path, recording):
    frames = recording(6, depth=True)
    writer = CalvinWriter(tmp_path, first_frame=11)
    assert writer.add_episode(frames, [Window(0, 6, "open_drawer", "pull")], "D") == "0000011"
    episode = writer.finish().episodes[0]
    back = episode.load(episode.keys)
    for key, array in frames.items():
        np.testing.assert_array_equal(back[key], array[:-1])
        assert back[key].dtype == array.dtype
    np.testing.assert_array_equal(back["actions"][:, :6], frames["robot_obs"][1:, :6])
    np.testing.assert_array_equal(back["rel_actions"], relative_actions(back["actions"], back["robot_obs"]))


def test_given_actions_are_kept_and_no_frame_is_dropped(tmp_path, recording):
    frames = recording(4)
    frames["actions"] = np.random.default_rng(0).normal(size=(5, 7))
    frames["rel_actions"] = np.clip(np.random.default_rng(1).normal(size=(5, 7)), -1, 1)
    writer = CalvinWriter(tmp_path)
    writer.add_episode(frames)
    back = writer.finish().episodes[0].load(["actions", "rel_actions"])
    np.testing.assert_array_equal(back["actions"], frames["actions"])
    np.testing.assert_array_equal(back["rel_actions"], frames["rel_actions"])


def test_commands_and_touch_are_kept_where_given(tmp_path, recording):
    rng = np.random.default_rng(0)
    frames = recording(3)
    frames["executed_actions"] = rng.normal(size=(4, 7))
    frames["rgb_tactile"] = rng.integers(0, 256, (4, 160, 120, 6), dtype=np.uint8)
    frames["depth_tactile"] = rng.normal(size=(4, 160, 120, 2)).astype(np.float32)
    writer = CalvinWriter(tmp_path)
    writer.add_episode(frames)
    back = writer.finish().episodes[0]
    for key in ("executed_actions", "rgb_tactile", "depth_tactile"):
        array = back.load([key])[key]
        np.testing.assert_array_equal(array, frames[key][:-1])
        assert array.dtype == frames[key].dtype


def test_files_keys_and_types_are_the_originals(tiny_root):
    directory = tiny_root / "training"
    names = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("episode_")} == {
        "ep_start_end_ids.npy",
        "ep_lens.npy",
        "scene_info.npy",
        "statistics.yaml",
        "lang_annotations/auto_lang_ann.npy",
        ".hydra/merged_config.yaml",
    }
    with np.load(directory / "episode_0000079.npz") as frame:
        assert {key: (frame[key].dtype.name, frame[key].shape) for key in frame} == {
            "actions": ("float64", (7,)),
            "rel_actions": ("float64", (7,)),
            "robot_obs": ("float64", (15,)),
            "scene_obs": ("float64", (24,)),
            "rgb_static": ("uint8", (200, 200, 3)),
            "rgb_gripper": ("uint8", (84, 84, 3)),
            "depth_static": ("float32", (200, 200)),
            "depth_gripper": ("float32", (84, 84)),
        }
    assert np.load(directory / "ep_start_end_ids.npy").tolist() == [[70, 78], [79, 90], [91, 95]]
    assert np.load(directory / "ep_lens.npy").tolist() == [9, 12, 5]
    scenes = np.load(directory / "scene_info.npy", allow_pickle=True).item()
    assert scenes == {"calvin_scene_A": [70, 78], "calvin_scene_D": [79, 95]}
    table = np.load(directory / "lang_annotations" / "auto_lang_ann.npy", allow_pickle=True).item()
    assert table["language"]["task"] == ["lift_red_block_table", "lift_red_block_table", "open_drawer"]
    assert table["language"]["emb"].shape == (3, 1, 384)
    assert table["info"]["indx"] == [(70, 78), (79, 84), (85, 90)]
    assert type(table["info"]["indx"][0][0]) is np.int64


def test_old_numpy_can_read_the_object_files(tiny_root):
    """NumPy before 1.26 does not know ``numpy._core``."""
    for name in ("scene_info.npy", "lang_annotations/auto_lang_ann.npy"):
        assert b"numpy._core" not in (tiny_root / "training" / name).read_bytes()


def test_statistics_are_those_of_all_frames(tiny_root):
    dataset = CalvinDataset(tiny_root)
    parts = [episode.load(["robot_obs", "scene_obs", "actions"]) for episode in dataset.episodes]
    for key in ("robot_obs", "scene_obs"):
        whole = np.concatenate([part[key] for part in parts])
        np.testing.assert_allclose(dataset.statistics[f"{key}_mean"], whole.mean(0), atol=1e-12)
        np.testing.assert_allclose(dataset.statistics[f"{key}_std"], np.maximum(whole.std(0), 1e-4), atol=1e-12)
    actions = np.concatenate([part["actions"] for part in parts])
    np.testing.assert_array_equal(dataset.statistics["act_min_bound"], actions.min(0))
    np.testing.assert_array_equal(dataset.statistics["act_max_bound"], actions.max(0))


def test_the_configuration_names_cameras_and_blocks(tiny_root):
    config = yaml.safe_load((tiny_root / "training" / ".hydra" / "merged_config.yaml").read_text())
    assert (config["cameras"]["static"]["fov"], config["cameras"]["gripper"]["fov"]) == (10, 75)
    assert list(config["scene"]["objects"]["movable_objects"]) == ["block_red", "block_blue", "block_pink"]


def test_embeddings_are_the_callers_or_nan(tmp_path, recording):
    writer = CalvinWriter(tmp_path)
    writer.add_episode(recording(3), [Window(0, 3, "open_drawer", "pull"), Window(1, 2, "close_drawer", "push")])
    writer.finish(embed=lambda sentences: np.array([[len(text)] * 5 for text in sentences], np.float32))
    path = tmp_path / "training" / "lang_annotations" / "auto_lang_ann.npy"
    assert np.load(path, allow_pickle=True).item()["language"]["emb"].tolist() == [[[4.0] * 5], [[4.0] * 5]]


def test_a_run_that_was_cut_short_goes_on(tmp_path, recording):
    whole = CalvinWriter(tmp_path / "whole")
    for number in range(3):
        whole.add_episode(recording(4, number), name=f"demo{number}")
    expected = whole.finish()

    writer = CalvinWriter(tmp_path / "cut")
    writer.add_episode(recording(4, 0), name="demo0")
    partial = tmp_path / "cut" / ".training.partial"
    for left_over in (4, 40):
        (partial / f"episode_{left_over:07d}.npz").write_bytes(b"half a frame")
    with (partial / "journal.jsonl").open("a") as journal:
        journal.write('[{"name": "demo1", "fir')
    assert not (tmp_path / "cut" / "training").exists()

    again = CalvinWriter(tmp_path / "cut")
    assert again.done == {"demo0"}
    for number in (1, 2):
        again.add_episode(recording(4, number), name=f"demo{number}")
    dataset = again.finish()
    assert dataset.episodes == expected.episodes
    for mine, theirs in zip(dataset.episodes, expected.episodes, strict=True):
        for key, array in theirs.load(theirs.keys).items():
            np.testing.assert_array_equal(array, mine.load([key])[key])
    assert not partial.exists()
    assert len(list(dataset.directory.glob("episode_*.npz"))) == len(dataset)


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path, recording, monkeypatch):
    writer = CalvinWriter(tmp_path)
    writer.add_episode(recording(3, 0), name="demo0")
    synced = os.fsync

    def full(handle):
        """Fail where the journal is synced, after its line was written."""
        if os.readlink(f"/proc/self/fd/{handle}").endswith("journal.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer.add_episode(recording(3, 1), name="demo1")
    assert writer.done == {"demo0"}
    monkeypatch.setattr(os, "fsync", synced)
    writer.add_episode(recording(3, 1), name="demo1")
    again = CalvinWriter(tmp_path)
    assert again.done == {"demo0", "demo1"}
    assert len(again.finish().episodes) == 2


def test_a_damaged_journal_is_named(tmp_path, recording):
    CalvinWriter(tmp_path).add_episode(recording(2))
    journal = tmp_path / ".training.partial" / "journal.jsonl"
    journal.write_text("{]\n" + journal.read_text())
    with pytest.raises(UserError, match="begin again"):
        CalvinWriter(tmp_path)


def test_a_finished_split_is_not_opened_again(tiny_root):
    with pytest.raises(UserError, match="exists already"):
        CalvinWriter(tiny_root)


def test_nothing_written_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match="at least one episode"):
        CalvinWriter(tmp_path).finish()
    assert not (tmp_path / "training").exists()


@pytest.mark.parametrize(
    ("frames", "change", "says"),
    [
        (3, {"scene_obs": None}, r"missing \['scene_obs'\]"),
        (3, {"rgb_wrist": np.zeros((4, 84, 84, 3), np.uint8)}, "rgb_wrist"),
        (3, {"rgb_static": np.zeros((4, 100, 100, 3), np.uint8)}, r"rgb_static: expected uint8 \(200"),
        (3, {"rgb_static": np.zeros((4, 200, 200, 3))}, "got float64"),
        (3, {"rgb_static": np.zeros((3, 200, 200, 3), np.uint8)}, "one length"),
        (3, {"scene_obs": np.full((4, 24), np.nan)}, "finite"),
        (0, {}, "at least one frame"),
    ],
)
def test_what_is_no_episode_is_not_written(tmp_path, recording, frames, change, says):
    arrays = {key: array for key, array in (recording(frames) | change).items() if array is not None}
    writer = CalvinWriter(tmp_path)
    with pytest.raises(UserError, match=says):
        writer.add_episode(arrays)
    assert list((tmp_path / ".training.partial").glob("*.npz")) == []


def test_scenes_must_not_return(tmp_path, recording):
    writer = CalvinWriter(tmp_path)
    writer.add_episode(recording(2), scene="A")
    writer.add_episode(recording(2), scene="D")
    with pytest.raises(UserError, match="scene A"):
        writer.add_episode(recording(2), scene="A")
    with pytest.raises(UserError, match="calvin_scene_E"):
        writer.add_episode(recording(2), scene="E")


def test_a_window_must_end_within_the_written_frames(tmp_path, recording):
    with pytest.raises(UserError, match="within 3 frames"):
        CalvinWriter(tmp_path).add_episode(recording(3), [Window(0, 4, "t", "i")])


def test_the_journal_is_json_and_no_pickle(tmp_path, recording):
    writer = CalvinWriter(tmp_path)
    writer.add_episode(recording(2), name="x")
    raw = (tmp_path / ".training.partial" / "journal.jsonl").read_bytes()
    assert [entry["name"] for entry in json.loads(raw)] == ["x"]
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(raw)


@pytest.mark.shared
def test_a_recorded_episode_round_trips(shared, tmp_path):
    original = CalvinDataset(shared / "calvin" / "calvin_debug_D", "validation").episodes[-1]
    writer = CalvinWriter(tmp_path, "validation", first_frame=original.first)
    writer.add_episode(original.load(original.keys), original.windows, original.scene)
    (copy,) = writer.finish().episodes
    assert copy == original
    assert copy.keys == original.keys
    arrays = copy.load(copy.keys)
    for key, array in original.load(original.keys).items():
        assert arrays[key].dtype == array.dtype
        np.testing.assert_array_equal(arrays[key], array)
