"""A packed data set reads as the unpacked one, and a damaged or foreign pack is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.data.calvin import CalvinDataset, CalvinWriter, dataset_hash, frame_path
from bench.data.calvin.check import check
from bench.data.calvin.pack import PACKED_KEYS, pack, pack_dataset
from bench.data.calvin.packed import DEPTH_STEP, PLAN_FILE, Pack, PackedFrames
from bench.data.clips import ClipDataset
from bench.data.episode import Window
from bench.errors import UserError


@pytest.fixture
def dataset(tiny_root):
    return CalvinDataset(tiny_root)


def same(mine, theirs, *where) -> None:
    a, b = mine.load(PACKED_KEYS, *where), theirs.load(PACKED_KEYS, *where)
    for key, array in b.items():
        assert a[key].dtype == array.dtype
        np.testing.assert_array_equal(a[key], array)


@pytest.mark.parametrize("rows", [4096, 7, 1])
def test_a_pack_reads_as_the_data_set(dataset, tmp_path, rows):
    done = []
    packed = pack(dataset, tmp_path / "pack", rows_per_shard=rows, each=done.append)
    assert isinstance(packed.source, PackedFrames)
    assert sum(done) == len(packed) == len(dataset)
    assert packed.windows == dataset.windows
    for key, numbers in dataset.statistics.items():
        np.testing.assert_array_equal(packed.statistics[key], numbers)
    for mine, theirs in zip(packed.episodes, dataset.episodes, strict=True):
        assert mine == theirs
        for where in ((), (0, 1), (2, 5), (0, None, 3), (1, 4, 2)):
            same(mine, theirs, *where)


def test_clips_are_cut_from_a_pack(dataset, tmp_path):
    packed = pack(dataset, tmp_path / "pack")
    clips = ClipDataset(packed, length=4, cache=False)
    direct = ClipDataset(dataset, length=4, depth=False)
    for mine, theirs in zip(clips, direct, strict=True):
        np.testing.assert_array_equal(mine.views["wrist"], theirs.views["wrist"])


def test_only_the_language_windows(tmp_path, recording):
    writer = CalvinWriter(tmp_path)
    writer.add_episode(recording(10), [Window(1, 4, "a", "a"), Window(3, 5, "b", "b"), Window(7, 10, "c", "c")])
    writer.add_episode(recording(3))
    dataset = writer.finish()
    packed = pack(dataset, tmp_path / "pack", windows_only=True)
    assert [(episode.first, episode.last) for episode in packed.episodes] == [(1, 4), (7, 9)]
    assert [[window.task for window in episode.windows] for episode in packed.episodes] == [["a", "b"], ["c"]]
    assert packed.episodes[0].windows[1] == Window(2, 4, "b", "b")
    for episode in packed.episodes:
        part = dataset.episodes[0].load(PACKED_KEYS, episode.first, episode.last + 1)
        for key, array in episode.load(PACKED_KEYS).items():
            np.testing.assert_array_equal(array, part[key])
    for start, stop in ((0, 2), (3, 8), (5, 6), (1, 10)):
        with pytest.raises(UserError, match="not all packed"):
            packed.source.read(range(start, stop), ["robot_obs"])


def test_nothing_to_pack(tmp_path, recording):
    writer = CalvinWriter(tmp_path)
    writer.add_episode(recording(3))
    dataset = writer.finish()
    with pytest.raises(UserError, match="expected language windows"):
        pack(dataset, tmp_path / "pack", windows_only=True)
    with pytest.raises(UserError, match="rgb_wrist"):
        pack(dataset, tmp_path / "pack", keys=["rgb_wrist"])


def test_an_interrupted_pack_goes_on(dataset, tmp_path):
    class KilledError(Exception):
        pass

    def stop(frames):
        raise KilledError

    with pytest.raises(KilledError):
        pack(dataset, tmp_path / "pack", rows_per_shard=10, each=stop)
    directory = tmp_path / "pack" / "training"
    with pytest.raises(UserError, match="index"):
        CalvinDataset(tmp_path / "pack")
    first = (directory / "rgb_static_0000.npy").stat().st_mtime_ns
    packed = pack(dataset, tmp_path / "pack", rows_per_shard=10)
    assert (directory / "rgb_static_0000.npy").stat().st_mtime_ns == first
    same(packed.episodes[1], dataset.episodes[1])
    assert {path.name for path in directory.iterdir() if path.is_dir()} == {"lang_annotations", ".hydra"}
    assert not list(directory.glob("unfinished*"))


def test_two_do_not_pack_into_one_folder(dataset, tmp_path):
    met = []

    def another(_: int) -> None:
        if not met:
            with pytest.raises(UserError, match="in use by another run") as caught:
                pack(dataset, tmp_path / "pack", rows_per_shard=7)
            met.append(caught)

    packed = pack(dataset, tmp_path / "pack", rows_per_shard=7, each=another)
    assert met
    same(packed.episodes[0], dataset.episodes[0])
    assert not {".lock", "unfinished_plan.json"} & {path.name for path in packed.directory.iterdir()}


def test_a_damaged_frame_leaves_no_shard(spoiled, tmp_path):
    frame_path(spoiled / "training", 90).write_bytes(b"")
    with pytest.raises(UserError, match="episode_0000090"):
        pack(CalvinDataset(spoiled), tmp_path / "pack")
    assert list((tmp_path / "pack" / "training").glob("*.npy")) == []


def test_another_pack_or_data_set_is_refused(dataset, spoiled, tmp_path):
    pack(dataset, tmp_path / "pack")
    pack(dataset, tmp_path / "pack")
    with pytest.raises(UserError, match="got another"):
        pack(dataset, tmp_path / "pack", keys=["rgb_gripper"])
    path = frame_path(spoiled / "training", 90)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="got another"):
        pack(CalvinDataset(spoiled), tmp_path / "pack")
    with pytest.raises(UserError, match="choose another --out"):
        pack(dataset, dataset.root)


def test_damaged_packs_are_refused(dataset, tmp_path):
    packed = pack(dataset, tmp_path / "pack")
    directory = packed.directory
    shard = directory / "rgb_static_0000.npy"
    whole = shard.read_bytes()
    for spoiled in (whole[:-1], b"", whole[:50], np.zeros(3).tobytes()):
        shard.write_bytes(spoiled)
        with pytest.raises(UserError, match="rgb_static_0000"):
            CalvinDataset(tmp_path / "pack")
    shard.unlink()
    with pytest.raises(UserError, match="pack again"):
        CalvinDataset(tmp_path / "pack")
    plan = json.loads((directory / PLAN_FILE).read_text())
    for content in ("", "[]", "{}", json.dumps(plan | {"shards": [3]}), json.dumps(plan | {"keys": {"a": 3}})):
        (directory / PLAN_FILE).write_text(content)
        with pytest.raises(UserError, match="plan"):
            CalvinDataset(tmp_path / "pack")
    with pytest.raises(UserError, match="make one first"):
        Pack.open(tmp_path / "nowhere")


def test_a_key_that_was_not_packed(dataset, tmp_path):
    episode = pack(dataset, tmp_path / "pack", keys=["robot_obs"]).episodes[0]
    assert episode.keys == ("robot_obs",)
    with pytest.raises(UserError, match="rgb_static"):
        episode.load(["rgb_static"])


def test_depth_is_off_by_half_a_step_at_most(tmp_path, recording):
    frames = recording(4, depth=True)
    frames["depth_static"] = np.random.default_rng(0).uniform(0, 10, (5, 200, 200)).astype(np.float32)
    writer = CalvinWriter(tmp_path / "whole")
    writer.add_episode(frames)
    packed = pack(writer.finish(), tmp_path / "pack", keys=["depth_static"])
    depth = packed.episodes[0].load(["depth_static"])["depth_static"]
    assert depth.dtype == np.float32
    assert np.abs(depth - frames["depth_static"][:-1]).max() <= DEPTH_STEP / 2
    assert np.load(packed.directory / "depth_static_0000.npy").dtype == np.uint16


@pytest.mark.parametrize("metres", [-0.1, 16.1])
def test_a_depth_that_does_not_fit_is_refused(tmp_path, recording, metres):
    frames = recording(2, depth=True)
    frames["depth_static"][1, 5, 5] = metres
    writer = CalvinWriter(tmp_path / "whole")
    writer.add_episode(frames)
    with pytest.raises(UserError, match="depth_static"):
        pack(writer.finish(), tmp_path / "pack", keys=["depth_static"])


def test_the_hash_of_a_pack_hangs_on_its_content(dataset, tmp_path):
    first, second = (pack(dataset, tmp_path / name) for name in ("one", "two"))
    assert dataset_hash(first) == dataset_hash(second) != dataset_hash(dataset)
    shard = second.directory / "rgb_static_0000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert dataset_hash(CalvinDataset(tmp_path / "two")) != dataset_hash(first)


def test_every_split_is_packed(tiny_root, tmp_path):
    assert list(pack_dataset(tiny_root, tmp_path / "pack")) == ["training"]
    assert len(CalvinDataset(tmp_path / "pack")) == 26
    with pytest.raises(UserError, match="training/"):
        pack_dataset(tmp_path / "nowhere", tmp_path / "other")


def test_a_pack_is_checked_like_a_data_set(dataset, tmp_path):
    keys = ("actions", "rel_actions", "robot_obs", "scene_obs", "rgb_static", "rgb_gripper")
    packed = pack(dataset, tmp_path / "pack", keys=keys)
    assert check(tmp_path / "pack").defects == check(dataset.root).defects
    for key, row in (("robot_obs", 3), ("rel_actions", 20)):
        shard = np.load(packed.directory / f"{key}_0000.npy", mmap_mode="r+")
        shard[row] = np.nan if key == "robot_obs" else 5.0
        shard.flush()
    found = check(tmp_path / "pack").defects
    assert [defect.frame for defect in found] == [73, 90]
    assert found[0].file.endswith("0000.npy")
    assert "NaN" in found[0].what
    assert "rel_actions do not follow" in found[1].what
    assert check_pack_of(dataset, tmp_path / "few", ("rgb_gripper", "robot_obs")) == ()


def check_pack_of(dataset, root, keys):
    pack(dataset, root, keys=keys)
    return check(root).defects
