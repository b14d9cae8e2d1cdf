"""Parts: whole or not there, and strung together in their order whatever happens in between."""

from __future__ import annotations

import numpy as np
import pytest

from bench.data.calvin import CalvinDataset, CalvinWriter
from bench.data.calvin.pack_writer import PackWriter
from bench.data.calvin.packed import PackedFrames
from bench.data.calvin.part import new_part, read_part
from bench.data.episode import Window
from bench.errors import UserError

WRITERS = {"calvin": CalvinWriter, "packed": PackWriter}


def make_parts(root, recording, form, scenes="AAD"):
    """Write a part a scene, of two episodes each, and return their folders."""
    folders = []
    for number, scene in enumerate(scenes):
        with new_part(root / f"part{number}", form) as part:
            for index, length in enumerate((4, 3 + number)):
                seed = 10 * number + index
                part.add_episode(recording(length, seed), [Window(0, 2, "open_drawer", "pull")], scene, f"demo{seed}")
        folders.append(root / f"part{number}")
    return folders


def assemble(root, folders, form):
    writer = WRITERS[form](root, first_frame=5)
    for folder in folders:
        writer.adopt(folder)
    return writer.finish()


@pytest.mark.parametrize("form", ["calvin", "packed"])
def test_parts_become_the_split_that_one_writer_writes(tmp_path, recording, form):
    whole = CalvinWriter(tmp_path / "whole", first_frame=5)
    for number, scene in enumerate("AAD"):
        for index, length in enumerate((4, 3 + number)):
            seed = 10 * number + index
            whole.add_episode(recording(length, seed), [Window(0, 2, "open_drawer", "pull")], scene, f"demo{seed}")
    expected = whole.finish()
    made = assemble(tmp_path / "made", make_parts(tmp_path, recording, form), form)
    assert made.episodes == expected.episodes
    assert isinstance(made.source, PackedFrames) == (form == "packed")
    for name in ("ep_start_end_ids.npy", "scene_info.npy", "lang_annotations/auto_lang_ann.npy", "statistics.yaml"):
        assert (made.directory / name).read_bytes() == (expected.directory / name).read_bytes()
    for one, other in zip(made.episodes, expected.episodes, strict=True):
        loaded = other.load(other.keys)
        for key, array in one.load(one.keys).items():
            assert array.dtype == loaded[key].dtype
            np.testing.assert_array_equal(array, loaded[key])


@pytest.mark.parametrize("form", ["calvin", "packed"])
@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_part_that_was_half_taken_over_is_taken_over_whole(tmp_path, recording, monkeypatch, form, moved):
    folders = make_parts(tmp_path, recording, form)

    class KilledError(Exception):
        pass

    path_type, count = type(tmp_path), 0
    rename = path_type.rename

    def dies(self, target):
        nonlocal count
        if count == moved:
            raise KilledError
        count += 1
        return rename(self, target)

    writer = WRITERS[form](tmp_path / "data")
    writer.adopt(folders[0])
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(path_type, "rename", dies)
        writer.adopt(folders[1])
    again = WRITERS[form](tmp_path / "data")
    for folder in folders:
        again.adopt(folder)
    dataset = again.finish()
    assert len(dataset) == 4 + 3 + 4 + 4 + 4 + 5
    for episode in dataset.episodes:
        episode.load(episode.keys)
    np.testing.assert_array_equal(
        dataset.episodes[2].load(["robot_obs"])["robot_obs"], recording(4, 10)["robot_obs"][:-1]
    )


def test_a_part_that_fails_leaves_nothing(tmp_path, recording):
    with pytest.raises(UserError, match="scene_obs"), new_part(tmp_path / "part", "packed") as part:
        part.add_episode(recording(3))
        part.add_episode({key: array for key, array in recording(3).items() if key != "scene_obs"})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="make it again"):
        read_part(tmp_path / "part")


def test_the_episodes_of_a_packed_part_have_the_same_arrays(tmp_path, recording):
    with pytest.raises(UserError, match="the keys"), new_part(tmp_path / "part", "packed") as part:
        part.add_episode(recording(3, depth=True))
        part.add_episode(recording(3))


def test_a_part_of_the_other_form_is_refused(tmp_path, recording):
    (folder,) = make_parts(tmp_path, recording, "calvin", "D")
    with pytest.raises(UserError, match="form packed"):
        PackWriter(tmp_path / "data").adopt(folder)


def test_parts_of_a_scene_follow_one_another(tmp_path, recording):
    with pytest.raises(UserError, match="scene A"):
        assemble(tmp_path / "data", make_parts(tmp_path, recording, "packed", "ADA"), "packed")
    assert not (tmp_path / "data" / "training").exists()
    with pytest.raises(UserError):
        CalvinDataset(tmp_path / "data")
