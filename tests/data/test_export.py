from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lerobot_files as files
import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.data.calvin import CalvinDataset
from bench.data.clips import ClipDataset
from bench.data.export import export_lerobot
from bench.data.lerobot import writer
from bench.data.opening import check_dataset, open_dataset
from bench.data.overlay import Overlay
from bench.errors import UserError

ANCHOR, WRIST, GENERATED = (f"observation.images.{name}" for name in ("anchor", "wrist", "wrist_generated"))


@pytest.fixture(scope="module")
def calvin(tiny_root: Path) -> CalvinDataset:
    return CalvinDataset(tiny_root)


@pytest.fixture(scope="module")
def overlay(calvin: CalvinDataset, tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    made = Overlay.create(tmp_path_factory.mktemp("overlay"), calvin.hash(), {"name": "test"})
    for seed, episode in enumerate(calvin.episodes):
        made.add(episode.id, files.pictures(seed, len(episode), 84, 84))
    return made


@pytest.fixture(scope="module")
def exported(calvin: CalvinDataset, overlay: Overlay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "lerobot"
    export_lerobot(calvin, out, overlay=overlay, codec="lossless", frames_per_file=15)
    return out


def test_everything_comes_back_exactly(calvin: CalvinDataset, overlay: Overlay, exported: Path) -> None:
    back = open_dataset(exported)
    assert len(back.episodes) == len(calvin.episodes)
    assert len(list(exported.glob("data/*/*.parquet"))) == 3
    for before, after in zip(calvin.episodes, back.episodes, strict=True):
        assert (after.windows, after.scene, len(after)) == (before.windows, before.scene, len(before))
        old = before.load(("robot_obs", "scene_obs", "actions", "rel_actions", "rgb_static", "rgb_gripper"))
        new = after.load(after.keys)
        for key in ("robot_obs", "scene_obs", "actions", "rel_actions"):
            assert new[f"calvin.{key}"].dtype == old[key].dtype
            np.testing.assert_array_equal(new[f"calvin.{key}"], old[key])
        np.testing.assert_array_equal(new["observation.state"], old["robot_obs"].astype(np.float32))
        np.testing.assert_array_equal(new["action"], old["rel_actions"].astype(np.float32))
        np.testing.assert_array_equal(new[ANCHOR], old["rgb_static"])
        np.testing.assert_array_equal(new[WRIST], old["rgb_gripper"])
        np.testing.assert_array_equal(new[GENERATED], overlay.load(before.id))


def test_clips_are_the_same_from_either_form(calvin: CalvinDataset, exported: Path) -> None:
    before = ClipDataset(calvin, length=4, depth=False)
    after = ClipDataset(open_dataset(exported), length=4, depth=False)
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert old.instruction == new.instruction
        for view in ("anchor", "wrist"):
            np.testing.assert_array_equal(old.views[view], new.views[view])
            np.testing.assert_array_equal(old.cameras[view].intrinsics, new.cameras[view].intrinsics)
            np.testing.assert_array_equal(old.cameras[view].camera_from_world, new.cameras[view].camera_from_world)


def test_the_files_are_those_that_lerobot_documents(exported: Path) -> None:
    info = json.loads((exported / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (3, 26, 30)
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    assert info["features"][ANCHOR]["shape"] == [200, 200, 3]
    episodes = pq.read_table(exported / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in episodes] == [0, 9, 21]
    assert [row["dataset_to_index"] for row in episodes] == [9, 21, 26]
    assert [row["data/file_index"] for row in episodes] == [0, 1, 2]
    for row in episodes:
        for key in (ANCHOR, WRIST, GENERATED):
            length = row[f"videos/{key}/to_timestamp"] - row[f"videos/{key}/from_timestamp"]
            assert length == pytest.approx(row["length"] / 30)
            assert np.shape(row[f"stats/{key}/mean"]) == (3, 1, 1)
    tasks = pq.read_table(exported / "meta/tasks.parquet")
    assert tasks.schema.metadata[b"pandas"]
    rows = pq.read_table(exported / "data/chunk-000/file-001.parquet").to_pydict()
    assert rows["index"] == list(range(9, 21))
    assert rows["frame_index"] == list(range(12))
    words = dict(zip(tasks.column("task_index").to_pylist(), tasks.column("task").to_pylist(), strict=True))
    assert [words[task] for task in rows["task_index"]] == ["up with the red block"] * 6 + ["pull it open"] * 6
    stats = json.loads((exported / "meta/stats.json").read_text())
    state = np.concatenate(
        [pq.read_table(p).column("observation.state").to_pylist() for p in sorted(exported.glob("data/*/*"))]
    )
    np.testing.assert_allclose(stats["observation.state"]["mean"], state.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["std"], state.std(0), atol=1e-6)
    np.testing.assert_array_equal(stats["observation.state"]["max"], state.max(0))
    provenance = json.loads((exported / "meta/wristbench.json").read_text())["provenance"]
    assert provenance["overlay"] == {"name": "test"}


@pytest.mark.parametrize(("codec", "crf"), [("h264", None), ("h264", 0), ("av1", None)])
def test_lossy_videos_are_close(
    calvin: CalvinDataset, overlay: Overlay, tmp_path: Path, codec: str, crf: int | None
) -> None:
    export_lerobot(calvin, tmp_path / "out", overlay=overlay, codec=codec, crf=crf)
    for before, after in zip(calvin.episodes, open_dataset(tmp_path / "out").episodes, strict=True):
        apart = after.load((GENERATED,))[GENERATED].astype(int) - overlay.load(before.id)
        assert np.abs(apart).mean() < (3 if crf is None else 1)


def test_windows_become_episodes(calvin: CalvinDataset, tmp_path: Path) -> None:
    export_lerobot(calvin, tmp_path / "out", codec="lossless", windows_only=True)
    back = open_dataset(tmp_path / "out").episodes
    assert [(len(e), [w.instruction for w in e.windows]) for e in back] == [
        (window.stop - window.start, [window.instruction]) for _, window in calvin.windows
    ]
    episode, window = calvin.windows[2]
    expected = episode.load(("rgb_gripper",), window.start, window.stop)["rgb_gripper"]
    np.testing.assert_array_equal(back[2].load((WRIST,))[WRIST], expected)


def test_a_killed_export_goes_on(
    calvin: CalvinDataset, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    encode, calls = writer.encode, []

    def dying(path: Path, *rest: object) -> int:
        calls.append(path.name)
        if len(calls) == 4:
            raise KilledError
        return encode(path, *rest)

    monkeypatch.setattr(writer, "encode", dying)
    with pytest.raises(KilledError):
        export_lerobot(calvin, tmp_path / "out", codec="lossless", frames_per_file=15)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="got another's"):
        export_lerobot(calvin, tmp_path / "out", codec="h264", frames_per_file=15)
    cut = tmp_path / ".out.partial" / "data" / "chunk-000" / ".file-001.parquet.0123abcd.parquet"
    cut.write_bytes(b"PAR1 what a kill left")
    done: list[int] = []
    export_lerobot(calvin, tmp_path / "out", codec="lossless", frames_per_file=15, each=done.append)
    assert not list((tmp_path / "out").rglob(".*"))
    assert calls.count("file-000.mp4") == 2
    assert done == [9, 12, 5]
    for name in ("data/chunk-000/file-001.parquet", f"videos/{WRIST}/chunk-000/file-001.mp4"):
        assert (tmp_path / "out" / name).read_bytes() == (exported / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    with pytest.raises(UserError, match="exists already"):
        export_lerobot(calvin, tmp_path / "out")


def test_what_cannot_be_exported_is_said(calvin: CalvinDataset, overlay: Overlay, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a codec"):
        export_lerobot(calvin, tmp_path / "out", codec="gif")
    with pytest.raises(UserError, match="no quality"):
        export_lerobot(calvin, tmp_path / "a", codec="lossless", crf=3)
    half = Overlay.create(tmp_path / "half", calvin.hash(), {})
    half.add(calvin.episodes[0].id, overlay.load(calvin.episodes[0].id))
    with pytest.raises(UserError, match="of all 3 episodes, got 1"):
        export_lerobot(calvin, tmp_path / "b", overlay=half)


def test_older_lerobot_and_raw_droid_become_v3(tmp_path: Path) -> None:
    from droid_files import write_episode

    old = files.write_v21(tmp_path / "v21")
    export_lerobot(open_dataset(old), tmp_path / "v3", codec="lossless")
    for before, after in zip(open_dataset(old).episodes, open_dataset(tmp_path / "v3").episodes, strict=True):
        keys = (*files.ANCHORS, files.WRIST, "action", "observation.state", "camera_extrinsics.wrist_left")
        for key, array in before.load(keys).items():
            np.testing.assert_array_equal(after.load((key,))[key], array)
        assert after.windows == before.windows
    write_episode(tmp_path / "raw")
    export_lerobot(open_dataset(tmp_path / "raw"), tmp_path / "raw3", codec="lossless")
    (episode,) = open_dataset(tmp_path / "raw3").episodes
    assert episode.load(("observation.state", "action"))["action"].shape == (9, 8)
    np.testing.assert_array_equal(episode.load((WRIST,))[WRIST], files.pictures(0, 9))


ORACLE = """
import sys, numpy
from lerobot.datasets import LeRobotDataset
data = LeRobotDataset("test/test", root=sys.argv[1], video_backend="pyav", delta_timestamps={"action": [0, 1 / 30]})
keys = ("observation.images.anchor", "observation.images.wrist_generated", "observation.state", "action", "index")
rows = [data[i] for i in range(len(data))]
arrays = {key: numpy.stack([row[key].numpy() for row in rows]) for key in keys}
numpy.savez(sys.argv[2], tasks=[row["task"] for row in rows], **arrays)
"""


def test_lerobot_itself_opens_it(exported: Path, tmp_path: Path) -> None:
    """Where ``lerobot`` is installed, here or in the Python that ``WRISTBENCH_LEROBOT_PYTHON`` names."""
    python = os.environ.get("WRISTBENCH_LEROBOT_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import lerobot"], capture_output=True).returncode:
        pytest.skip("lerobot is not installed")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        [python, "-c", ORACLE, str(exported), str(tmp_path / "o.npz")], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    with np.load(tmp_path / "o.npz") as theirs:
        keys = (ANCHOR, GENERATED, "observation.state", "action")
        parts = [episode.load(keys) for episode in open_dataset(exported).episodes]
        ours = {key: np.concatenate([part[key] for part in parts]) for key in keys}
        for key in (ANCHOR, GENERATED):
            pictures = np.round(theirs[key] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
            np.testing.assert_array_equal(pictures, ours[key])
        np.testing.assert_array_equal(theirs["observation.state"], ours["observation.state"])
        np.testing.assert_array_equal(theirs["action"][:, 0], ours["action"])
        assert theirs["tasks"][9] == "up with the red block"


AUTHOR = """
import sys, numpy
from lerobot.datasets import LeRobotDataset
camera = {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]}
features = {f"observation.images.{name}": camera for name in ("front", "side", "wrist")}
features["observation.images.still"] = camera | {"dtype": "image"}
features["observation.state"] = {"dtype": "float32", "shape": (7,), "names": None}
features["action"] = {"dtype": "float32", "shape": (7,), "names": None}
data = LeRobotDataset.create("test/test", fps=20, features=features, root=sys.argv[1], robot_type="panda")
kept = []
for episode in range(3):
    for index in range(8 + episode):
        row = {key: numpy.full((64, 96, 3), (17 * index + 60 * episode) % 256, numpy.uint8)
               for key in features if "images" in key}
        row |= {key: numpy.random.default_rng(100 * episode + index).normal(size=7).astype(numpy.float32)
                for key in ("observation.state", "action")}
        kept.append(row["action"])
        data.add_frame(row | {"task": f"sentence {episode % 2}"})
    data.save_episode()
data.finalize()
numpy.save(sys.argv[2], numpy.stack(kept))
"""


def test_what_lerobot_itself_wrote_is_read_and_sound(tmp_path: Path) -> None:
    python = os.environ.get("WRISTBENCH_LEROBOT_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import lerobot"], capture_output=True).returncode:
        pytest.skip("lerobot is not installed")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [python, "-c", AUTHOR, str(tmp_path / "set"), str(tmp_path / "actions.npy")]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    dataset = open_dataset(tmp_path / "set")
    assert check_dataset(tmp_path / "set").defects == ()
    assert [len(episode) for episode in dataset.episodes] == [8, 9, 10]
    assert [episode.windows[0].instruction for episode in dataset.episodes] == [
        "sentence 0",
        "sentence 1",
        "sentence 0",
    ]
    assert set(dataset.episodes[0].rig.views) == {"anchor", "anchor2", "anchor3", "wrist"}
    actions = np.concatenate([episode.load(("action",))["action"] for episode in dataset.episodes])
    np.testing.assert_array_equal(actions, np.load(tmp_path / "actions.npy"))
    for number, episode in enumerate(dataset.episodes):
        expected = (17 * np.arange(len(episode)) + 60 * number) % 256
        for key in episode.rig.views.values():
            grey = episode.load((key,), 1)[key].mean((1, 2, 3))
            assert np.abs(grey - expected[1:]).max() < (4 if "still" not in key else 1e-6)
