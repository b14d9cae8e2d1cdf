from __future__ import annotations

import shutil
from pathlib import Path

import lerobot_files as files
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bench.data.clips import ClipDataset
from bench.data.export import export_lerobot
from bench.data.opening import open_dataset
from bench.data.rig import guess_views
from bench.errors import UserError

GOOD = f"""
anchors: [{files.ANCHORS[1]}]
wrist: {files.WRIST}
state: observation.state
action: action
cameras:
  {files.ANCHORS[1]}:
    intrinsics: [60, 61, 32, 18]
    pose: [0.1, -0.2, 0.5, 0.3, -0.4, 1.2]
  {files.WRIST}:
    intrinsics: [50, 50, 32, 18]
    pose_column: camera_extrinsics.wrist_left
"""


@pytest.fixture(scope="session", params=["v2.1", "v3.0"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("franka")
    old = files.write_v21(root / "old")
    if request.param == "v2.1":
        return old
    export_lerobot(open_dataset(old), root / "new", codec="lossless")
    return root / "new"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_mapping_chooses_cameras_and_tells_where_they_are(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder, mapping=write(tmp_path / "rig.yaml", GOOD))
    clip = ClipDataset(dataset, length=5)[0]
    assert clip.anchors == ("anchor",)
    np.testing.assert_array_equal(clip.views["anchor"], files.pictures(1, 7)[:5])
    np.testing.assert_allclose(clip.cameras["anchor"].intrinsics, [[60, 0, 32], [0, 61, 18], [0, 0, 1]])
    seen = np.linalg.inv(clip.cameras["anchor"].camera_from_world[0])
    np.testing.assert_allclose(seen[:3, 3], [0.1, -0.2, 0.5], atol=1e-9)
    np.testing.assert_allclose(seen[:3, :3], Rotation.from_euler("xyz", [0.3, -0.4, 1.2]).as_matrix(), atol=1e-9)
    recorded = files.numbers(0, 7)["camera_extrinsics.wrist_left"]
    moved = np.linalg.inv(clip.cameras["wrist"].camera_from_world)
    np.testing.assert_allclose(moved[:, :3, 3], recorded[:5, :3], atol=1e-6)


def test_a_mapping_in_the_folder_is_found(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    write(own / "rig.yaml", f"anchors: [{files.WRIST}]")
    assert dict(open_dataset(own).rig.views) == {"anchor": files.WRIST}


def test_a_wrist_camera_may_be_told_by_its_mount(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder, mapping=write(tmp_path / "rig.yaml", GOOD))
    mounted = GOOD.replace(
        "pose_column: camera_extrinsics.wrist_left",
        "mount: [0, 0, 0.1, 0, 0, 0]\n    gripper_column: camera_extrinsics.wrist_left",
    )
    other = open_dataset(folder, mapping=write(tmp_path / "mount.yaml", mounted))
    a, b = (ClipDataset(d, length=5)[0].cameras["wrist"].camera_from_world for d in (dataset, other))
    np.testing.assert_allclose((a @ np.linalg.inv(b))[:, :3, 3], [[0, 0, 0.1]] * 5, atol=1e-6)


def test_a_column_that_is_no_pose_is_not_read_as_one(folder: Path, tmp_path: Path) -> None:
    text = GOOD.replace("pose_column: camera_extrinsics.wrist_left", "pose_column: observation.state")
    dataset = open_dataset(folder, mapping=write(tmp_path / "rig.yaml", text))
    with pytest.raises(UserError, match=r"observation.state: expected 6 numbers in every frame"):
        ClipDataset(dataset, length=5)[0]


def test_intrinsics_follow_the_scale(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder, mapping=write(tmp_path / "rig.yaml", GOOD), size=(18, 64))
    matrix = ClipDataset(dataset, length=5)[0].cameras["anchor"].intrinsics
    np.testing.assert_allclose(matrix, [[60, 0, 32], [0, 30.5, 9], [0, 0, 1]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("anchor: [a]", "did you mean anchors"),
        ("{}", "anchors: Field required"),
        ("[]", "expected a mapping"),
        ("anchors: [observation.images.exterior_3_left]", "did you mean"),
        (GOOD.replace("state: observation.state", "state: observation.stat"), "did you mean observation.state"),
        (GOOD.replace("[60, 61, 32, 18]", "[60, 61, 32]"), "intrinsics"),
        (GOOD.replace("[60, 61, 32, 18]", "[60, .nan, 32, 18]"), "finite"),
        (GOOD.replace("[60, 61, 32, 18]", "[0, 61, 32, 18]"), "above 0"),
        (GOOD + "    mount: [0, 0, 0, 0, 0, 0]\n", "one of pose"),
        (f"anchors: [{files.WRIST}]\nwrist: {files.WRIST}", "every camera once"),
        ("anchors: [!!python/object/apply:os.system ['true']]", "cannot read"),
        (
            "anchors: [" + files.ANCHORS[0] + "]\ncameras: {nonsense: {intrinsics: [1, 1, 1, 1]}}",
            "of anchors and wrist",
        ),
    ],
)
def test_a_wrong_mapping_is_one_line_that_helps(folder: Path, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(folder, mapping=write(tmp_path / "rig.yaml", text))
    assert "\n" not in str(caught.value)


def test_a_mapping_is_for_lerobot_alone(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="LeRobot folder alone"):
        open_dataset(tiny_root, mapping=write(tmp_path / "rig.yaml", GOOD))


@pytest.mark.parametrize(
    ("names", "views"),
    [
        ("front wrist", {"anchor": "front", "wrist": "wrist"}),
        ("b a", {"anchor": "a", "anchor2": "b"}),
        ("left_wrist right_wrist top", {"anchor": "top"}),
        ("anchor wrist wrist_generated", {"anchor": "anchor", "wrist": "wrist"}),
        ("eye_in_hand agentview", {"anchor": "agentview", "wrist": "eye_in_hand"}),
    ],
)
def test_names_tell_which_camera_is_which(names: str, views: dict[str, str]) -> None:
    found = guess_views([f"observation.images.{name}" for name in names.split()])
    assert found == {view: f"observation.images.{name}" for view, name in views.items()}
