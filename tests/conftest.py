"""Fixtures that every test may use: the recordings of the original, if they are here, and a data set of noise."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of recordings beside the checkout; skip the test where there is none."""
    if not (SHARED / "calvin" / "ref").is_dir():
        pytest.skip("no ../shared beside this checkout: recordings of the original CALVIN are not available")
    return SHARED


@pytest.fixture(scope="session")
def noise_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set in CALVIN's format to read: five episodes and two for validation, of 8 frames of noise each."""
    import numpy as np

    from bench.data.calvin import CalvinWriter
    from bench.data.episode import Window

    root, rng, length = tmp_path_factory.mktemp("noise"), np.random.default_rng(0), 8
    for split, episodes in (("training", 5), ("validation", 2)):
        writer = CalvinWriter(root, split, first_frame=0 if split == "training" else 1000)
        for episode in range(episodes):
            frames = {
                "robot_obs": np.concatenate([rng.normal(size=(length, 14)), np.ones((length, 1))], axis=1),
                "scene_obs": rng.normal(size=(length, 24)),
                "rgb_static": rng.integers(0, 256, (length, 200, 200, 3), np.uint8),
                "rgb_gripper": rng.integers(0, 256, (length, 84, 84, 3), np.uint8),
                "executed_actions": np.full((length, 7), 0.5),
            }
            writer.add_episode(frames, [Window(0, length - 1, "open_drawer", "open it")], name=f"{split}-{episode}")
        writer.finish()
    return root
