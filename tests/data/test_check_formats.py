"""Checks of LeRobot folders and raw DROID episodes: sound ones are found sound, every spoiled file is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import lerobot_files as files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from droid_files import write_episode

from bench.data.calvin import CalvinDataset
from bench.data.export import export_lerobot
from bench.data.opening import check_dataset
from bench.data.video import CODECS, encode

VIDEO = f"videos/chunk-000/{files.WRIST}/episode_000001.mp4"
DATA = "data/chunk-000/episode_000001.parquet"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.write_v21(tmp_path_factory.mktemp("check") / "v21")


@pytest.fixture(scope="module")
def sound_v3(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("check") / "v3"
    export_lerobot(CalvinDataset(tiny_root), out, frames_per_file=22)
    return out


def test_sound_data_sets_have_no_defects(sound: Path, sound_v3: Path) -> None:
    done: list[int] = []
    report = check_dataset(sound, each=done.append)
    assert (report.frames, report.episodes, report.windows, report.defects) == (19, 2, 3, ())
    assert done == [7, 12]
    report = check_dataset(sound_v3)
    assert (report.frames, report.episodes, report.windows, report.defects) == (26, 3, 3, ())


def _table(root: Path, column: str, change) -> None:
    path = root / DATA
    table = pq.read_table(path)
    values = change(np.array(table.column(column).to_pylist()))
    array = pa.array(values if values.ndim == 1 else list(values))
    pq.write_table(table.set_column(table.column_names.index(column), column, array), path)


def _nan(values: np.ndarray) -> np.ndarray:
    values[4, 1] = np.nan
    return values


def _info(root: Path, **entries: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILT = {
    "a missing video": (lambda root: (root / VIDEO).unlink(), VIDEO, "no such file"),
    "a short video": (
        lambda root: encode(root / VIDEO, [files.pictures(5, 10)], 15, CODECS["h264"]),
        VIDEO,
        "no pictures within",
    ),
    "a long video": (
        lambda root: encode(root / VIDEO, [files.pictures(5, 14)], 15, CODECS["h264"]),
        VIDEO,
        "2 of 14 pictures belong to no episode",
    ),
    "a video of another size": (
        lambda root: encode(root / VIDEO, [np.zeros((12, 18, 32, 3), np.uint8)], 15, CODECS["h264"]),
        VIDEO,
        "says (36, 64)",
    ),
    "a cut video": (lambda root: _cut(root / VIDEO), VIDEO, "no whole mp4"),
    "a missing table": (lambda root: (root / DATA).unlink(), DATA, "no such file"),
    "a cut table": (lambda root: _cut(root / DATA), DATA, "no whole parquet"),
    "a short table": (
        lambda root: pq.write_table(pq.read_table(root / DATA).slice(0, 11), root / DATA),
        DATA,
        "11 rows, but its episodes have 12",
    ),
    "a NaN": (lambda root: _table(root, "action", _nan), DATA, "action: NaN or infinity in 1 frames"),
    "late times": (lambda root: _table(root, "timestamp", lambda t: t + 0.01), DATA, "timestamp: 0.01000 s where"),
    "a frame twice": (lambda root: _table(root, "frame_index", lambda i: i.clip(0, 10)), DATA, "frame_index: 10 where"),
    "an unknown task": (lambda root: _table(root, "task_index", lambda i: i + 5), DATA, "task_index: [5, 6]"),
    "wrong totals": (lambda root: _info(root, total_frames=20), "meta/info.json", "total_frames: 20"),
    "no index": (lambda root: (root / "meta/episodes.jsonl").unlink(), "meta", "episodes.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_every_fault_is_a_row(sound: Path, tmp_path: Path, name: str) -> None:
    spoil, file, what = SPOILT[name]
    root = Path(shutil.copytree(sound, tmp_path / "spoiled"))
    spoil(root)
    report = check_dataset(root)
    rows = [defect for defect in report.defects if what in defect.what]
    assert rows, report.defects
    assert rows[0].file == str(root / file)
    assert all("\n" not in defect.what for defect in report.defects)
    if file == DATA and "row" not in what:
        assert rows[0].frame is None or 7 <= rows[0].frame < 19


def test_a_fault_in_the_middle_of_a_shared_video_names_its_episode(sound_v3: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sound_v3, tmp_path / "spoiled"))
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    name = "videos/observation.images.wrist/from_timestamp"
    times = np.array(table.column(name).to_pylist())
    times[1] = 0.0
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(times)), path)
    what = [defect.what for defect in check_dataset(root).defects]
    assert any("pictures of episode 1 belong to another one too" in words for words in what)


def test_raw_droid(tmp_path: Path) -> None:
    write_episode(tmp_path / "sound")
    assert check_dataset(tmp_path / "sound").defects == ()
    folder = write_episode(tmp_path / "spoilt")
    (folder / "recordings/MP4/33.mp4").unlink()
    _cut(folder / "recordings/MP4/22.mp4")
    encode(folder / "recordings/MP4/11.mp4", [files.pictures(0, 8)], 60, CODECS["h264"])
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file["action/joint_position"][3, 2] = np.nan
        del file["action/cartesian_velocity"]
        file["action/cartesian_velocity"] = np.zeros((4, 6))
    (tmp_path / "spoilt/other").mkdir()
    (tmp_path / "spoilt/other/trajectory.h5").write_bytes(b"")
    words = " | ".join(defect.what for defect in check_dataset(tmp_path / "spoilt").defects)
    for expected in ("no video of ext2", "no whole mp4", "8 pictures for 9 frames", "action/joint_position: NaN",
                     "action/cartesian_velocity: 4 rows", "left out"):  # fmt: skip
        assert expected in words
