"""What a person looks at: the mp4 plays frame for frame, the sheet has its panels."""

from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from bench.data.calvin import CalvinDataset
from bench.data.overlay import Overlay
from bench.data.view import panels, view, write_video
from bench.errors import UserError


def test_an_episode_becomes_a_video_and_a_sheet(tiny_root, tmp_path):
    result = view(tiny_root, tmp_path, episode=1)
    assert (result["episode"], result["frames"]) == ("0000079", 12)
    assert result["windows"][1] == {"start": 6, "stop": 12, "task": "open_drawer", "instruction": "pull it open"}
    with av.open(result["video"]) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 12
    assert frames[0].shape == (224, 400, 3)
    with Image.open(result["contact_sheet"]) as sheet:
        assert sheet.size == (1600, 3 * 224)


def test_a_panel_shows_the_views_as_recorded(tiny_root):
    episode = CalvinDataset(tiny_root).episodes[1]
    shown = list(panels(episode, 5))
    recorded = episode.load(["rgb_static", "rgb_gripper"])
    assert len(shown) == 3
    np.testing.assert_array_equal(shown[1][24:, :200], recorded["rgb_static"][5])
    assert (shown[0][:24] < 128).any()


def test_a_generated_view_stands_beside_the_true_one(tiny_root, tmp_path):
    episode = CalvinDataset(tiny_root).episodes[2]
    overlay = Overlay.create(tmp_path / "overlay", "x", {})
    overlay.add(episode.id, np.full((5, 84, 84, 3), 99, np.uint8))
    panel = next(panels(overlay.attach(episode)))
    assert panel.shape == (224, 600, 3)
    assert (panel[24:, 400:] == 99).all()


def test_no_such_episode(tiny_root, tmp_path):
    with pytest.raises(UserError, match="episode 0 to 2, got 3"):
        view(tiny_root, tmp_path, episode=3)


def test_a_video_of_nothing_or_of_odd_frames_is_not_written(tmp_path):
    for frames in ([], [np.zeros((5, 6, 3), np.uint8)]):
        with pytest.raises(UserError):
            write_video(tmp_path / "a.mp4", frames)
    assert list(tmp_path.iterdir()) == []
