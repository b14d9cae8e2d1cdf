"""The arms see the same demonstrations; only the wrist view differs, and it is what the arm's name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.arms import plan_wrist, training_arrays
from bench.data.calvin import CalvinDataset, CalvinWriter
from bench.data.episode import Window
from bench.errors import UserError
from bench.suite import parse_arm

EPISODES, FRAMES, REAL, MADE = 10, 6, 200, 50


class Generated:
    """An overlay that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def load(self, episode: str, start: int, stop: int) -> NDArray[np.uint8]:
        self.asked.append(episode)
        return np.full((stop - start, 84, 84, 3), MADE, dtype=np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CalvinDataset:
    root = tmp_path_factory.mktemp("arms")
    rng = np.random.default_rng(0)
    writer = CalvinWriter(root)
    for episode in range(EPISODES):
        frames = {
            "robot_obs": np.concatenate([rng.normal(size=(FRAMES + 1, 14)), np.ones((FRAMES + 1, 1))], axis=1),
            "scene_obs": rng.normal(size=(FRAMES + 1, 24)),
            "rgb_static": np.full((FRAMES + 1, 200, 200, 3), episode, dtype=np.uint8),
            "rgb_gripper": np.full((FRAMES + 1, 84, 84, 3), REAL, dtype=np.uint8),
            "executed_actions": np.full((FRAMES + 1, 7), 0.5),
        }
        windows = [Window(1, 3, "open_drawer", "open it"), Window(2, 5, "close_drawer", "close it")]
        writer.add_episode(frames, windows, name=str(episode))
    return writer.finish()


def arrays(dataset: CalvinDataset, name: str, generated: Generated | None = None):
    plan = plan_wrist(parse_arm(name), dataset.episodes, 0.3, seed=0)
    return plan, training_arrays(dataset, plan, generated, (16, 16))


@pytest.mark.parametrize(
    ("name", "real", "made", "absent"),
    [
        ("anchor", 0, 0, 10),
        ("paired", 3, 0, 7),
        ("generated", 3, 7, 0),
        ("generated-loop", 3, 7, 0),
        ("projection", 3, 7, 0),
        ("mixed-0.6", 6, 4, 0),
        ("real", 10, 0, 0),
    ],
)
def test_an_arm_is_trained_on_what_it_says(
    dataset: CalvinDataset, name: str, real: int, made: int, absent: int
) -> None:
    generated = Generated()
    plan, found = arrays(dataset, name, generated)
    assert plan.counts() == {"real": real, "generated": made, "absent": absent}
    assert len(generated.asked) == made
    per_episode = len(found.anchor) // EPISODES
    assert found.wrist is not None
    assert (found.wrist[:, 0, 0, 0] == REAL).sum() == real * per_episode
    assert (found.wrist[:, 0, 0, 0] == MADE).sum() == made * per_episode
    assert (~found.wrist_present).sum() == absent * per_episode


def test_arms_differ_in_nothing_but_the_wrist(dataset: CalvinDataset) -> None:
    reference = arrays(dataset, "anchor")[1]
    for name in ("paired", "generated", "real"):
        other = arrays(dataset, name, Generated())[1]
        for field in ("anchor", "actions", "windows", "window_sentence", "proprio"):
            np.testing.assert_array_equal(getattr(reference, field), getattr(other, field))
        assert reference.sentences == other.sentences


def test_the_world_model_never_sees_a_wrist_view_that_it_generates(dataset: CalvinDataset) -> None:
    plans = {name: arrays(dataset, name, Generated())[0].sources for name in ("paired", "generated", "mixed-0.6")}
    paired = {episode for episode, source in plans["paired"].items() if source == "real"}
    made = {episode for episode, source in plans["generated"].items() if source == "generated"}
    assert paired.isdisjoint(made)
    assert paired | made == {episode.id for episode in dataset.episodes}
    mixed = {episode for episode, source in plans["mixed-0.6"].items() if source == "real"}
    assert paired < mixed


def test_overlapping_windows_share_frames_and_point_at_them(dataset: CalvinDataset) -> None:
    found = arrays(dataset, "real")[1]
    assert len(found.anchor) == EPISODES * 4  # frames 1..4 of each episode, once
    assert found.windows[:2].tolist() == [[0, 2], [1, 4]]
    assert [found.sentences[i] for i in found.window_sentence[:2]] == ["open it", "close it"]
    assert (found.anchor[found.windows[2, 0]] == 1).all()


def test_the_executed_action_is_the_label_where_it_was_recorded(dataset: CalvinDataset) -> None:
    found = arrays(dataset, "real")[1]
    assert (found.actions[:, :6] == 0.5).all()
    assert (found.actions[:, 6] == 1).all()


def test_a_data_set_without_instructions_is_refused(tmp_path: Path) -> None:
    writer = CalvinWriter(tmp_path)
    frames = {"robot_obs": (2, 15), "scene_obs": (2, 24)}
    images = {"rgb_static": (2, 200, 200, 3), "rgb_gripper": (2, 84, 84, 3)}
    writer.add_episode(
        {key: np.zeros(shape) for key, shape in frames.items()}
        | {key: np.zeros(shape, dtype=np.uint8) for key, shape in images.items()}
    )
    bare = writer.finish()
    plan = plan_wrist(parse_arm("real"), bare.episodes, 0.3, seed=0)
    with pytest.raises(UserError, match="no language windows"):
        training_arrays(bare, plan, None, (16, 16))
