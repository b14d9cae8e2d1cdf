"""The reader: what a CALVIN split says, and how it refuses what is damaged."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bench.data.calvin import CalvinDataset, describe, frame_path, relative_actions
from bench.data.calvin.index import save_object_npy
from bench.data.episode import Episode, Window
from bench.errors import UserError


def frame(root: Path, number: int) -> Path:
    return frame_path(root / "training", number)


def rewrite(path: Path, **changes: np.ndarray | None) -> None:
    """Write a frame again with some arrays changed, or left out where None."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive} | changes
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})


def test_ranges_windows_and_scenes(tiny_root):
    dataset = CalvinDataset(tiny_root)
    assert [(e.id, e.scene, e.first, e.last, len(e)) for e in dataset.episodes] == [
        ("0000070", "A", 70, 78, 9),
        ("0000079", "D", 79, 90, 12),
        ("0000091", "D", 91, 95, 5),
    ]
    assert dataset["0000079"].windows[1] == Window(6, 12, "open_drawer", "pull it open")
    assert len(dataset) == 26
    assert dataset.stray == ()


def test_load_stacks_a_range_in_order(tiny_root):
    dataset = CalvinDataset(tiny_root)
    episode = dataset.episodes[1]
    whole = episode.load(["robot_obs", "rgb_gripper", "depth_static"])
    part = episode.load(["robot_obs", "rgb_gripper"], 2, 11, 4)
    assert whole["robot_obs"].shape == (12, 15)
    assert whole["depth_static"].dtype == np.float32
    for key, array in part.items():
        np.testing.assert_array_equal(array, whole[key][2:11:4])
    with np.load(frame(tiny_root, 79 + 6)) as archive:
        np.testing.assert_array_equal(part["rgb_gripper"][1], archive["rgb_gripper"])


def test_threads_give_the_same(tiny_root):
    one, four = CalvinDataset(tiny_root).episodes[0], CalvinDataset(tiny_root, workers=4).episodes[0]
    keys = ("rgb_static", "actions")
    for key, array in one.load(keys).items():
        np.testing.assert_array_equal(array, four.load(keys)[key])


def test_instruction_of_a_stretch(tiny_root):
    episode = CalvinDataset(tiny_root).episodes[1]
    assert episode.instruction_at(4, 7) == "up with the red block"
    assert episode.instruction_at(5, 9) == "pull it open"
    assert CalvinDataset(tiny_root).episodes[2].instruction_at(0, 3) == ""


def test_describe_counts(tiny_root):
    split = describe(tiny_root)["splits"]["training"]
    assert (split["frames"], split["episodes"], split["windows"]) == (26, 3, 3)
    assert split["episodes_by_scene"] == {"A": 1, "D": 2}
    assert split["tasks"] == {"lift_red_block_table": 2, "open_drawer": 1}


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (5, 5), (-1, 3)])
def test_a_range_outside_is_refused(tiny_root, start, stop):
    with pytest.raises(UserError, match="expected 0 <= start < stop <= 9"):
        CalvinDataset(tiny_root).episodes[0].load(["actions"], start, stop)


def test_an_unknown_key_is_refused(tiny_root):
    with pytest.raises(UserError, match="rgb_wrist"):
        CalvinDataset(tiny_root).episodes[0].load(["rgb_wrist"])


def test_a_key_that_was_not_recorded_is_named(tiny_root):
    with pytest.raises(UserError, match=r"episode_0000070.npz: expected an array 'depth_static'"):
        CalvinDataset(tiny_root).episodes[0].load(["depth_static"])


def test_a_missing_frame_is_named(spoiled):
    frame(spoiled, 72).unlink()
    with pytest.raises(UserError, match=r"episode_0000072.npz: expected a frame, got no such file"):
        CalvinDataset(spoiled).episodes[0].load(["actions"])


def test_a_truncated_frame_is_named(spoiled):
    path = frame(spoiled, 72)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"episode_0000072.npz: truncated or damaged"):
        CalvinDataset(spoiled).episodes[0].load(["actions"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"robot_obs": None}, "expected an array 'robot_obs'"),
        ({"robot_obs": np.zeros(14)}, r"expected float64 or float32 \(15,\), got float64 \(14,\)"),
        ({"robot_obs": np.zeros(15, np.int64)}, "got int64"),
        ({"robot_obs": np.full(15, np.nan)}, "NaN or infinity"),
        ({"robot_obs": np.full(15, np.inf)}, "NaN or infinity"),
        ({"robot_obs": np.zeros(15, np.float32)}, "expected float64 as before"),
        ({"rgb_static": np.zeros((200, 200, 4), np.uint8)}, r"expected uint8 \(200, 200, 3\)"),
    ],
)
def test_a_wrong_array_is_named(spoiled, changes, says):
    rewrite(frame(spoiled, 72), **changes)
    with pytest.raises(UserError, match=says) as caught:
        CalvinDataset(spoiled).episodes[0].load(["robot_obs", "rgb_static"])
    assert "episode_0000072" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_object_arrays_in_a_frame_are_refused(spoiled):
    rewrite(frame(spoiled, 72), actions=np.array([print] * 7, dtype=object))
    with pytest.raises(UserError, match="expected float64 or float32"):
        CalvinDataset(spoiled).episodes[0].load(["actions"])


def test_a_zip_bomb_is_not_unpacked(spoiled):
    path = frame(spoiled, 72)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("actions.npy", b"\0" * (30 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="refused to unpack"):
        CalvinDataset(spoiled).episodes[0].load(["actions"])


def test_no_split_no_index(tmp_path, spoiled):
    with pytest.raises(UserError, match="expected a CALVIN split"):
        CalvinDataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither"):
        describe(tmp_path)
    (spoiled / "training" / "ep_start_end_ids.npy").unlink()
    with pytest.raises(UserError, match="no such file"):
        CalvinDataset(spoiled)


def test_an_index_of_another_shape_is_refused(spoiled):
    for array in (np.zeros((0, 2), np.int64), np.zeros((3, 3), np.int64), np.zeros((3, 2)), np.array([[5, 2]])):
        np.save(spoiled / "training" / "ep_start_end_ids.npy", array)
        with pytest.raises(UserError, match="ep_start_end_ids"):
            CalvinDataset(spoiled)


def test_optional_files_may_be_absent(spoiled):
    shutil.rmtree(spoiled / "training" / "lang_annotations")
    (spoiled / "training" / "scene_info.npy").unlink()
    (spoiled / "training" / "statistics.yaml").unlink()
    dataset = CalvinDataset(spoiled)
    assert dataset.windows == ()
    assert {episode.scene for episode in dataset.episodes} == {""}
    assert dataset.statistics == {}


@pytest.mark.parametrize("content", [{"scene_D": [0, 100]}, {"calvin_scene_D": 3}, [1, 2], "words", {3: [1, 2]}])
def test_a_scene_table_of_another_form_is_refused(spoiled, content):
    save_object_npy(spoiled / "training" / "scene_info.npy", content)
    with pytest.raises(UserError, match="scene"):
        CalvinDataset(spoiled)


def test_annotations_of_unequal_length_are_refused(spoiled):
    broken = {"language": {"ann": ["a"], "task": ["b", "c"]}, "info": {"indx": [(1, 2)]}}
    save_object_npy(spoiled / "training" / "lang_annotations" / "auto_lang_ann.npy", broken)
    with pytest.raises(UserError, match="of one length"):
        CalvinDataset(spoiled)


def test_windows_outside_every_episode_are_kept_apart(spoiled):
    table = {"language": {"ann": ["a"], "task": ["t"]}, "info": {"indx": [(76, 81)]}}
    save_object_npy(spoiled / "training" / "lang_annotations" / "auto_lang_ann.npy", table)
    dataset = CalvinDataset(spoiled)
    assert dataset.windows == ()
    assert dataset.stray[0].task == "t"


def test_yaml_that_builds_objects_is_refused(spoiled):
    path = spoiled / "training" / "statistics.yaml"
    path.write_text("robot_obs: !!python/object/apply:os.system ['touch /tmp/owned']\n")
    with pytest.raises(UserError, match="statistics"):
        _ = CalvinDataset(spoiled).statistics


def test_relative_actions_clip_and_wrap():
    robot = np.zeros((1, 15))
    robot[0, 5] = np.pi - 0.01
    action = np.array([[0.01, -0.5, 0.0, 0.025, 0.0, -np.pi + 0.01, -1.0]])
    np.testing.assert_allclose(relative_actions(action, robot), [[0.5, -1, 0, 0.5, 0, 0.4, -1]], atol=1e-12)


def test_a_window_beyond_the_episode_is_refused(tiny_root):
    source = CalvinDataset(tiny_root).episodes[0].source
    with pytest.raises(UserError, match="beyond its 3 frames"):
        Episode("x", "D", 0, 2, (Window(0, 4, "t", "i"),), source)


@pytest.mark.shared
def test_the_recorded_data_set_reads_as_the_original_wrote_it(shared):
    root = shared / "calvin" / "calvin_debug_D"
    dataset = CalvinDataset(root)
    assert (len(dataset), len(dataset.episodes), len(dataset.windows)) == (575, 3, 10)
    assert {episode.scene for episode in dataset.episodes} == {"D"}
    first = dataset.episodes[0]
    assert first.windows[0] == Window(0, 40, "open_drawer", "pull the handle of the drawer")
    arrays = first.load(first.keys, 100, 110)
    for number in range(10):
        with np.load(root / "training" / f"episode_{first.first + 100 + number:07d}.npz") as archive:
            for key, array in arrays.items():
                assert archive[key].dtype == array.dtype
                np.testing.assert_array_equal(archive[key], array[number])
    whole = first.load(["actions", "rel_actions", "robot_obs"])
    np.testing.assert_array_equal(relative_actions(whole["actions"], whole["robot_obs"]), whole["rel_actions"])
    assert dataset.statistics["robot_obs_mean"].shape == (15,)
