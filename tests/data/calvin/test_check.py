"""Every fault that a data set can have is found, at its file and frame; a sound one has none."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from bench.data.calvin import CalvinWriter, frame_path
from bench.data.calvin.check import check
from bench.data.calvin.index import save_object_npy
from bench.data.episode import Window
from bench.errors import UserError


def change(path, **changes) -> None:
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive} | changes
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})


def found(root, what: str):
    """Return the one defect whose words contain ``what``; there must be no other kind."""
    defects = check(root).defects
    assert [what in defect.what for defect in defects] == [True], defects
    return defects[0]


def test_a_sound_data_set_has_no_defects(tiny_root):
    report = check(tiny_root)
    assert report.to_json() == {"frames": 26, "episodes": 3, "windows": 3, "defects": []}


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: change(path, scene_obs=None), "expected an array 'scene_obs'"),
        (lambda path: change(path, robot_obs=np.zeros(8)), "expected float64 or float32 (15,)"),
        (lambda path: change(path, rgb_gripper=np.zeros((84, 84, 3))), "expected uint8 (84, 84, 3)"),
        (lambda path: change(path, scene_obs=np.full(24, np.nan)), "NaN or infinity"),
        (lambda path: change(path, depth_static=np.full((200, 200), np.inf, np.float32)), "NaN or infinity"),
    ],
)
def test_a_spoiled_frame_is_found(spoiled, spoil, what):
    path = frame_path(spoiled / "training", 81)
    spoil(path)
    defect = found(spoiled, what)
    assert (defect.file, defect.frame) == (str(path), 81)


def test_missing_frames_are_one_row(spoiled):
    for frame in (81, 82, 83):
        frame_path(spoiled / "training", frame).unlink()
    defect = found(spoiled, "missing: frames 81 to 83")
    assert defect.frame == 81


def test_a_range_beyond_the_files_is_found(spoiled):
    np.save(spoiled / "training" / "ep_start_end_ids.npy", np.array([[70, 78], [79, 90], [91, 99]]))
    np.save(spoiled / "training" / "ep_lens.npy", np.array([9, 12, 9]))
    assert {(defect.frame, defect.what[:25]) for defect in check(spoiled).defects} == {
        (96, "missing: frames 96 to 99 "),
        (91, "scene of 1 of 3 episodes "),
    }


def test_ranges_that_overlap_are_found(spoiled):
    np.save(spoiled / "training" / "ep_start_end_ids.npy", np.array([[70, 78], [79, 90], [90, 95]]))
    np.save(spoiled / "training" / "ep_lens.npy", np.array([9, 12, 6]))
    assert "duplicate: frames 90 to 90 lie in two episodes" in {defect.what for defect in check(spoiled).defects}


def test_a_frame_stored_twice_is_found(spoiled):
    shutil.copy(frame_path(spoiled / "training", 84), frame_path(spoiled / "training", 85))
    assert any(d.frame == 85 and "same content as frame 84" in d.what for d in check(spoiled).defects)


def test_a_frame_in_both_splits_is_found(spoiled):
    shutil.copytree(spoiled / "training", spoiled / "validation")
    rows = [defect for defect in check(spoiled).defects if "validation split" in defect.what]
    assert [row.frame for row in rows] == list(range(70, 96))


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["scene_info.npy", "lang_annotations/auto_lang_ann.npy"])
def test_foreign_code_is_reported_and_never_run(spoiled, tmp_path, name):
    save_object_npy(spoiled / "training" / name, {"calvin_scene_D": _Hostile(tmp_path / "ran")})
    defect = found(spoiled, "system")
    assert "foreign code (posix.system)" in defect.what
    assert name in defect.what
    assert not (tmp_path / "ran").exists()


def test_a_window_outside_is_found(spoiled):
    table = {"language": {"ann": ["a"], "task": ["open_drawer"]}, "info": {"indx": [(76, 81)]}}
    save_object_npy(spoiled / "training" / "lang_annotations" / "auto_lang_ann.npy", table)
    assert found(spoiled, "lies in no episode").frame == 76


def test_lengths_that_differ_are_found(spoiled):
    np.save(spoiled / "training" / "ep_lens.npy", np.array([9, 12, 4]))
    assert found(spoiled, "lengths differ").file.endswith("ep_lens.npy")


def test_damaged_statistics_are_found(spoiled):
    (spoiled / "training" / "statistics.yaml").write_text("robot_obs: [")
    found(spoiled, "statistics.yaml")


def test_another_scenes_block_order_is_found(spoiled):
    """Scene A lists pink, blue, red; the table now says D for the episode recorded in A."""
    save_object_npy(spoiled / "training" / "scene_info.npy", {"calvin_scene_D": [70, 95]})
    windows = [(70, 78), (71, 77), (79, 84)]
    table = {
        "language": {"ann": ["lift it"] * 3, "task": ["lift_red_block_table"] * 3},
        "info": {"indx": windows},
    }
    save_object_npy(spoiled / "training" / "lang_annotations" / "auto_lang_ann.npy", table)
    defect = found(spoiled, "block order: in 2 of 3 windows")
    assert defect.file.endswith("scene_info.npy")
    assert defect.frame == 70


def test_a_slider_beyond_its_scene_is_found(tmp_path, recording):
    frames = recording(4)
    frames["scene_obs"][:, 0] = 0.30
    for scene, defects in (("B", 0), ("D", 1)):
        writer = CalvinWriter(tmp_path / scene)
        writer.add_episode(frames, [Window(0, 4, "move_slider_left", "aside")], scene)
        writer.finish()
        assert ["scene D ends at 0.28" in defect.what for defect in check(tmp_path / scene).defects] == [True] * defects


@pytest.mark.parametrize(
    ("key", "what"),
    [("rel_actions", "rel_actions do not follow"), ("robot_obs", "actions are not the pose of the next frame")],
)
def test_actions_that_do_not_follow_the_poses_are_found(spoiled, key, what):
    path = frame_path(spoiled / "training", 84)
    with np.load(path) as archive:
        changed = archive[key] + 0.01
    change(path, **{key: changed})
    rows = [defect for defect in check(spoiled).defects if what in defect.what]
    assert len(rows) == 1
    assert rows[0].what.endswith("in 1 frames")


def test_no_data_set(tmp_path):
    with pytest.raises(UserError, match="neither"):
        check(tmp_path)


@pytest.mark.shared
def test_the_recorded_data_set_is_sound(shared):
    report = check(shared / "calvin" / "calvin_debug_D")
    assert (report.frames, report.episodes, report.windows, report.defects) == (781, 5, 14, ())
