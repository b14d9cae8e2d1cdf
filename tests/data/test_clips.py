"""Clips: the right frames under the right names, cameras that see what was recorded, a split by episode."""

from __future__ import annotations

import numpy as np
import pytest

from bench.calvin import camera
from bench.data.calvin import CalvinDataset, frame_path
from bench.data.clips import ClipDataset, clip_starts, read_clip, split_paired
from bench.data.episode import Episode
from bench.errors import UserError
from worldmodel.api import ClipSource


@pytest.fixture
def dataset(tiny_root):
    return CalvinDataset(tiny_root)


def test_a_clip_holds_the_frames_of_its_stretch(dataset):
    episode = dataset.episodes[1]
    clip = read_clip(episode, 2, 11, stride=3)
    recorded = episode.load(["rgb_static", "rgb_gripper", "depth_gripper", "robot_obs"])
    np.testing.assert_array_equal(clip.views["anchor"], recorded["rgb_static"][2:11:3])
    np.testing.assert_array_equal(clip.views["wrist"], recorded["rgb_gripper"][2:11:3])
    np.testing.assert_array_equal(clip.depth["wrist"], recorded["depth_gripper"][2:11:3])
    assert (clip.episode, clip.start, clip.stride, len(clip)) == (episode.id, 2, 3, 3)
    pose = camera.wrist_camera_from_world(recorded["robot_obs"][2:11:3])
    np.testing.assert_array_equal(clip.cameras["wrist"].camera_from_world, pose)
    np.testing.assert_array_equal(clip.cameras["anchor"].camera_from_world[2], camera.static_camera_from_world())
    assert clip.instruction == "pull it open"


def test_without_the_wrist_nothing_of_it_is_there(dataset):
    clip = read_clip(dataset.episodes[1], wrist=False)
    assert set(clip.views) == set(clip.cameras) == set(clip.depth) == {"anchor"}


def test_the_wrist_is_not_even_read(spoiled):
    """An unpaired episode may lack its wrist view on disk."""
    path = frame_path(spoiled / "training", 79)
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive if not key.endswith("gripper")}
    np.savez_compressed(path, **arrays)
    assert "wrist" not in read_clip(CalvinDataset(spoiled).episodes[1], wrist=False).views


def test_depth_is_there_only_where_recorded_or_wanted(dataset):
    assert read_clip(dataset.episodes[0]).depth == {}
    assert set(read_clip(dataset.episodes[1]).depth) == {"anchor", "wrist"}
    assert read_clip(dataset.episodes[1], depth=False).depth == {}


@pytest.mark.parametrize(
    ("frames", "span", "hop", "starts"),
    [
        (10, 4, 4, (0, 4, 6)),
        (8, 4, 4, (0, 4)),
        (4, 4, 2, (0,)),
        (3, 4, 1, ()),
        (6, 3, 1, (0, 1, 2, 3)),
        (5, 4, 9, (0, 1)),
    ],
)
def test_starts_reach_the_end(frames, span, hop, starts):
    assert clip_starts(frames, span, hop) == starts


def test_the_data_set_is_a_clip_source(dataset):
    clips: ClipSource = ClipDataset(dataset, length=3, stride=2)
    assert [(clip.episode, clip.start) for clip in clips] == [
        ("0000070", 0),
        ("0000070", 4),
        ("0000079", 0),
        ("0000079", 6),
        ("0000079", 7),
        ("0000091", 0),
    ]
    assert len(clips) == 6
    assert all(len(clip) == 3 for clip in clips)


@pytest.mark.parametrize("options", [{"cache": False}, {"cache_bytes": 2_000_000}, {"cache_bytes": 10_000}, {}])
def test_the_cache_changes_nothing(dataset, options):
    clips = ClipDataset(dataset, length=3, hop=2, **options)
    for index in [0, 5, 2, 7, 1, 0, len(clips) - 1, -1]:
        clip = clips[index]
        direct = read_clip(dataset[clip.episode], clip.start, clip.start + 3)
        for view in ("anchor", "wrist"):
            np.testing.assert_array_equal(clip.views[view], direct.views[view])
    assert clips._cached <= clips._cache_bytes


def test_a_clip_is_the_callers_own(dataset):
    clips = ClipDataset(dataset, length=3)
    before = clips[0].views["anchor"].copy()
    clips[0].views["anchor"][:] = 7
    np.testing.assert_array_equal(clips[0].views["anchor"], before)


def test_only_some_episodes(dataset):
    clips = ClipDataset(dataset, length=5, episodes=["0000091"])
    assert [clip.episode for clip in clips] == ["0000091"]
    with pytest.raises(UserError, match="nobody"):
        ClipDataset(dataset, length=5, episodes=["nobody"])


def test_clips_that_fit_nowhere_are_refused(dataset):
    with pytest.raises(UserError, match=r"at least 13 frames.*at most 12"):
        ClipDataset(dataset, length=13)
    with pytest.raises(UserError, match="at least 1"):
        ClipDataset(dataset, length=3, hop=0)


def episodes(count: int) -> list[Episode]:
    return [Episode(f"{100 * n:07d}", "D", 100 * n, 100 * n + 9, (), None) for n in range(count)]


@pytest.mark.parametrize(
    ("share", "count", "paired"), [(0.2, 20, 4), (0.01, 20, 1), (0.99, 20, 19), (0.5, 2, 1), (0, 4, 0), (1, 4, 4)]
)
def test_the_split_has_both_sides(share, count, paired):
    mine, others = split_paired(episodes(count), share, seed=3)
    assert len(mine) == paired
    assert set(mine).isdisjoint(others)
    assert len(mine) + len(others) == count


def test_the_split_hangs_on_ids_and_seed_alone():
    all_episodes = episodes(30)
    first = split_paired(all_episodes, 0.3, seed=5)
    assert set(first[0]) == set(split_paired(all_episodes[::-1], 0.3, seed=5)[0])
    assert first != split_paired(all_episodes, 0.3, seed=6)
    # Fixed for ever: a record that names a seed must stay true.
    assert split_paired(episodes(6), 0.3, seed=0)[0] == ("0000400", "0000500")


def test_a_single_episode_is_paired(dataset):
    assert split_paired(dataset.episodes[:1], 0.2) == (("0000070",), ())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(dataset, share):
    with pytest.raises(UserError, match="0 to 1"):
        split_paired(dataset, share)


@pytest.mark.shared
def test_recorded_depth_and_cameras_agree(shared):
    """The table top, lifted from the anchor by its depth, lies where the wrist's own depth says."""
    dataset = CalvinDataset(shared / "calvin" / "calvin_debug_D", "validation")
    clip = read_clip(dataset.episodes[0], 0, 1)
    anchor, wrist = clip.cameras["anchor"], clip.cameras["wrist"]
    row, column = np.mgrid[:200, :200] + 0.5
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1).reshape(-1, 3)
    points = (pixels @ np.linalg.inv(anchor.intrinsics).T) * clip.depth["anchor"][0].reshape(-1, 1)
    world_from_anchor = np.linalg.inv(anchor.camera_from_world[0])
    world = points @ world_from_anchor[:3, :3].T + world_from_anchor[:3, 3]
    wrist_from_world = wrist.camera_from_world[0]
    seen = world @ wrist_from_world[:3, :3].T + wrist_from_world[:3, 3]
    image = seen @ wrist.intrinsics.T
    place = np.floor(image[:, :2] / image[:, 2:]).astype(int)
    chosen = (seen[:, 2] > 0.05) & (place >= 0).all(1) & (place < 84).all(1) & (abs(world[:, 2] - 0.45) < 0.03)
    assert chosen.sum() > 3000
    found = clip.depth["wrist"][0][place[chosen, 1], place[chosen, 0]]
    assert abs(np.median(found - seen[chosen, 2])) < 0.01
