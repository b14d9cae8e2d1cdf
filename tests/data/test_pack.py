"""A packed data set reads as the unpacked one, and a damaged or foreign pack is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.data.calvin import CalvinDataset, frame_path
from bench.data.calvin_writer import CalvinWriter
from bench.data.clips import ClipDataset
from bench.data.episode import Window
from bench.data.pack import PACKED_KEYS, Pack, pack
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
    assert sum(done) == len(packed) == len(dataset)
    for mine, theirs in zip(packed.attach(dataset), dataset.episodes, strict=True):
        assert mine == theirs
        for where in ((), (0, 1), (2, 5), (0, None, 3), (1, 4, 2)):
            same(mine, theirs, *where)


def test_clips_are_cut_from_a_pack(dataset, tmp_path):
    packed = pack(dataset, tmp_path / "pack")
    clips = ClipDataset(packed.attach(dataset), length=4, cache=False)
    direct = ClipDataset(dataset, length=4, depth=False)
    for mine, theirs in zip(clips, direct, strict=True):
        np.testing.assert_array_equal(mine.views["wrist"], theirs.views["wrist"])


def test_only_the_language_windows(tmp_path, recording):
    writer = CalvinWriter(tmp_path)
    writer.add_episode(recording(10), [Window(1, 4, "a", "a"), Window(3, 5, "b", "b"), Window(7, 10, "c", "c")])
    writer.add_episode(recording(3))
    dataset = writer.finish()
    packed = pack(dataset, tmp_path / "pack", windows_only=True)
    assert packed.stretches == [(1, 4), (7, 9)]
    episode = packed.attach(dataset)[0]
    same(episode, dataset.episodes[0], 1, 5)
    same(episode, dataset.episodes[0], 8, 10)
    for start, stop in ((0, 2), (3, 8), (5, 6), (1, 10)):
        with pytest.raises(UserError, match="not all packed"):
            episode.load(["robot_obs"], start, stop)


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
    with pytest.raises(UserError, match="pack again"):
        Pack.open(tmp_path / "pack")
    first = (tmp_path / "pack" / "rgb_static_0000.npy").stat().st_mtime_ns
    packed = pack(dataset, tmp_path / "pack", rows_per_shard=10)
    assert (tmp_path / "pack" / "rgb_static_0000.npy").stat().st_mtime_ns == first
    same(packed.attach(dataset)[1], dataset.episodes[1])
    assert not [path for path in (tmp_path / "pack").iterdir() if path.is_dir()]


def test_a_damaged_frame_leaves_no_shard(spoiled, tmp_path):
    frame_path(spoiled / "training", 90).write_bytes(b"")
    with pytest.raises(UserError, match="episode_0000090"):
        pack(CalvinDataset(spoiled), tmp_path / "pack")
    assert list((tmp_path / "pack").glob("*.npy")) == []


def test_another_pack_or_data_set_is_refused(dataset, spoiled, tmp_path):
    packed = pack(dataset, tmp_path / "pack")
    with pytest.raises(UserError, match="got another's"):
        pack(dataset, tmp_path / "pack", keys=["rgb_gripper"])
    path = frame_path(spoiled / "training", 90)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="got another's"):
        packed.attach(CalvinDataset(spoiled))


def test_damaged_packs_are_refused(dataset, tmp_path):
    packed = pack(dataset, tmp_path / "pack")
    shard = packed.path("rgb_static", 0)
    whole = shard.read_bytes()
    for spoiled in (whole[:-1], b"", whole[:50], np.zeros(3).tobytes()):
        shard.write_bytes(spoiled)
        with pytest.raises(UserError, match="rgb_static_0000"):
            Pack.open(tmp_path / "pack")
    shard.unlink()
    with pytest.raises(UserError, match="pack again"):
        Pack.open(tmp_path / "pack")
    for plan in ("", "[]", "{}", json.dumps({"dataset": "x", "keys": {"a": 3}})):
        (tmp_path / "pack" / "plan.json").write_text(plan)
        with pytest.raises(UserError, match="plan"):
            Pack.open(tmp_path / "pack")


def test_a_key_that_was_not_packed(dataset, tmp_path):
    episode = pack(dataset, tmp_path / "pack", keys=["robot_obs"]).attach(dataset)[0]
    assert episode.keys == ("robot_obs",)
    with pytest.raises(UserError, match="rgb_static"):
        episode.load(["rgb_static"])
