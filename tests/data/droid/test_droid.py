from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import h5py
import lerobot_files as files
import numpy as np
import pytest
from droid_files import FRAMES, UUID, write_episode

from bench.data.clips import ClipDataset
from bench.data.droid import DroidDataset
from bench.data.droid.hdf5 import list_arrays
from bench.data.opening import describe, open_dataset
from bench.data.video import CODECS, encode
from bench.errors import UserError


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("droid")
    write_episode(root)
    write_episode(root, "LAB/success/2023-08-19/Sat", uuid="LAB+0000+b", frames=5)
    return root


def test_two_anchors_and_the_wrist_with_their_cameras(raw: Path) -> None:
    dataset = open_dataset(raw)
    assert dataset.format == "DROID, raw"
    assert [episode.id for episode in dataset.episodes] == [UUID, "LAB+0000+b"]
    assert len(dataset) == FRAMES + 5
    clip = ClipDataset(dataset, length=3, stride=2, hop=1)[2]
    assert clip.instruction == "Close the drawer"
    for seed, view in enumerate(("wrist", "anchor", "anchor2")):
        np.testing.assert_array_equal(clip.views[view], files.pictures(seed, FRAMES)[2:7:2])
    np.testing.assert_allclose(clip.cameras["wrist"].intrinsics, [[700, 0, 32.5], [0, 701, 18.5], [0, 0, 1]])
    assert "anchor2" not in clip.cameras
    with h5py.File(raw / "LAB/success/2023-08-18/Fri/trajectory.h5") as file:
        pose = file["observation/camera_extrinsics/22_left"][0]
    seen = np.linalg.inv(clip.cameras["anchor"].camera_from_world)
    np.testing.assert_allclose(seen[:, :3, 3], np.tile(pose[:3], (3, 1)), atol=1e-9)


def test_states_and_actions_are_those_of_the_file(raw: Path) -> None:
    episode = open_dataset(raw).episodes[1]
    arrays = episode.load(("state", "action", "action/cartesian_velocity"), 1, 5, 2)
    with h5py.File(raw / "LAB/success/2023-08-19/Sat/trajectory.h5") as file:
        np.testing.assert_array_equal(arrays["state"][:, :7], file["observation/robot_state/joint_positions"][1:5:2])
        np.testing.assert_array_equal(arrays["state"][:, 7], file["observation/robot_state/gripper_position"][1:5:2])
        np.testing.assert_array_equal(arrays["action/cartesian_velocity"], file["action/cartesian_velocity"][1:5:2])


def test_later_calibrations_and_sentences_are_used(tmp_path: Path) -> None:
    write_episode(tmp_path)
    (tmp_path / "intrinsics.json").write_text(json.dumps({UUID: {"33": {"cameraMatrix": [500, 30, 510, 20]}}}))
    (tmp_path / "cam2base_extrinsics.json").write_text(json.dumps({UUID: {"33": [1, 2, 3, 0, 0, 0]}}))
    told = {UUID: {"language_instruction1": " ", "language_instruction2": "Shut the drawer"}}
    (tmp_path / "droid_language_annotations.json").write_text(json.dumps(told))
    clip = ClipDataset(open_dataset(tmp_path), length=3)[0]
    assert clip.instruction == "Shut the drawer"
    np.testing.assert_allclose(clip.cameras["anchor2"].intrinsics, [[500, 0, 30.5], [0, 510, 20.5], [0, 0, 1]])
    np.testing.assert_allclose(np.linalg.inv(clip.cameras["anchor2"].camera_from_world)[0, :3, 3], [1, 2, 3])


def test_a_broken_episode_is_left_out_and_told(raw: Path, tmp_path: Path) -> None:
    write_episode(tmp_path)
    broken = tmp_path / "LAB/failure"
    broken.mkdir()
    (broken / "trajectory.h5").write_bytes(b"nothing")
    dataset = DroidDataset(tmp_path)
    assert len(dataset.episodes) == 1
    assert [folder for folder, _ in dataset.skipped] == [broken]
    assert describe(tmp_path)["skipped"] == 1


def test_links_out_of_the_file_are_refused(tmp_path: Path) -> None:
    folder = write_episode(tmp_path)
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.zeros((FRAMES, 7))
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file["action/outside"] = h5py.ExternalLink(str(secret), "/x")
        file["action/soft"] = h5py.SoftLink("/action/joint_position")
        layout = h5py.VirtualLayout(shape=(FRAMES, 7), dtype="f8")
        layout[:] = h5py.VirtualSource(str(secret), "x", shape=(FRAMES, 7))
        file.create_virtual_dataset("action/virtual", layout)
        file["action"].create_dataset("external", (FRAMES, 7), "f8", external=[(str(secret), 0, 504)])
    episode = open_dataset(tmp_path).episodes[0]
    for key in ("action/outside", "action/soft", "action/virtual", "action/external"):
        assert key not in episode.keys
        with pytest.raises(UserError, match="expected an array"):
            episode.load((key,))


def test_few_groups_that_hold_one_another_are_not_walked_in_all_ways(tmp_path: Path) -> None:
    folder = write_episode(tmp_path)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        levels = [file.create_group(f"level{number}") for number in range(4)]
        for upper, lower in pairwise(levels):
            for name in range(20):
                upper[str(name)] = lower
    with pytest.raises(UserError, match="refused"):
        list_arrays(folder / "trajectory.h5")


def test_names_in_the_metadata_stay_names(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, uuid="..")
    path = next(folder.glob("metadata_*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ext1_cam_serial": "9" * 5000}))
    episode = open_dataset(tmp_path).episodes[0]
    assert episode.id == "_."
    assert "images/ext1" not in episode.keys


def test_an_array_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    folder = write_episode(tmp_path)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file["action"].create_dataset("bomb", (10**6, 10**6), "f8", chunks=(1, 10**6), compression="gzip")
    assert (folder / "trajectory.h5").stat().st_size < 1 << 20
    start = time.process_time()
    with pytest.raises(UserError, match="refused"):
        open_dataset(tmp_path).episodes[0].load(("action/bomb",))
    assert time.process_time() - start < 5


def test_missing_rows_and_files_are_named(tmp_path: Path) -> None:
    folder = write_episode(tmp_path)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        del file["action/joint_position"]
        file["action/joint_position"] = np.zeros((4, 7))
    (folder / "recordings/MP4/33.mp4").unlink()
    episode = open_dataset(tmp_path).episodes[0]
    assert dict(episode.rig.views) == {"anchor": "images/ext1", "wrist": "images/wrist"}
    with pytest.raises(UserError, match="expected 9 rows, got 4"):
        episode.load(("action/joint_position",))
    with pytest.raises(UserError, match="no such array"):
        episode.load(("action/nonsense",))
    with pytest.raises(UserError, match="expected cameras"):
        episode.load(("images/ext2",))


def test_a_folder_of_videos_is_an_episode(tmp_path: Path) -> None:
    for seed, camera in enumerate(("wrist", "ext1", "ext2")):
        encode(tmp_path / f"{camera}.mp4", [files.pictures(seed, 8)], 60, CODECS["lossless"])
    dataset = open_dataset(tmp_path)
    clip = ClipDataset(dataset, length=8)[0]
    assert clip.anchors == ("anchor", "anchor2")
    np.testing.assert_array_equal(clip.views["wrist"], files.pictures(0, 8))
    assert clip.cameras == {}


@pytest.mark.shared
def test_the_real_clip_of_droid_is_read(shared: Path) -> None:
    dataset = open_dataset(shared / "droid_clip", size=(90, 160))
    assert len(dataset) == 93
    clips = ClipDataset(dataset, length=16, stride=2)
    clip = clips[0]
    assert {view: frames.shape for view, frames in clip.views.items()} == dict.fromkeys(
        ("anchor", "anchor2", "wrist"), (16, 90, 160, 3)
    )
    assert all(frames.std() > 10 for frames in clip.views.values())
    whole = dataset.episodes[0].load(("images/wrist",))["images/wrist"]
    np.testing.assert_array_equal(whole[40], dataset.episodes[0].load(("images/wrist",), 40, 41)["images/wrist"][0])
