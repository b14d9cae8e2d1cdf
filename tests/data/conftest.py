"""A tiny data set in CALVIN's format, written once and copied for tests that spoil it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.data.calvin import CalvinDataset, CalvinWriter
from bench.data.episode import Window

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


def make_recording(frames: int, seed: int = 0, *, depth: bool = False, block: int = 0) -> dict[str, np.ndarray]:
    """Return ``frames`` + 1 observations of a smooth motion in which the block at place ``block`` is lifted."""
    rng = np.random.default_rng(seed)
    robot = np.zeros((frames + 1, 15))
    robot[:, :6] = np.cumsum(rng.normal(0, 0.005, (frames + 1, 6)), axis=0) + np.array([0, -0.2, 0.5, 3.13, 0, 1.5])
    robot[:, 3] = (robot[:, 3] + np.pi) % (2 * np.pi) - np.pi
    robot[:, 14] = 1
    scene = np.tile(rng.normal(0, 0.1, 24), (frames + 1, 1))
    scene[:, 0] = 0.1
    scene[:, 6 + 6 * block + 2] += np.linspace(0, 0.2, frames + 1)
    arrays = {
        "robot_obs": robot,
        "scene_obs": scene,
        "rgb_static": np.zeros((frames + 1, 200, 200, 3), np.uint8),
        "rgb_gripper": np.zeros((frames + 1, 84, 84, 3), np.uint8),
    }
    arrays["rgb_static"][:, ::20, ::20] = rng.integers(0, 256, (frames + 1, 10, 10, 3))
    arrays["rgb_gripper"][:, ::12, ::12] = rng.integers(0, 256, (frames + 1, 7, 7, 3))
    if depth:
        arrays["depth_static"] = np.full((frames + 1, 200, 200), 3.5, np.float32)
        arrays["depth_gripper"] = np.full((frames + 1, 84, 84), 0.2, np.float32)
    return arrays


def write_tiny(root: Path) -> CalvinDataset:
    """Write episodes of 9, 12 and 5 frames: scenes A and D, depth in the last two."""
    writer = CalvinWriter(root, first_frame=70)
    lift = "lift_red_block_table"
    writer.add_episode(make_recording(9, 1, block=2), [Window(0, 9, lift, "raise the red one")], "A", "first")
    windows = [Window(0, 6, lift, "up with the red block"), Window(6, 12, "open_drawer", "pull it open")]
    writer.add_episode(make_recording(12, 2, depth=True), windows, "D", "second")
    writer.add_episode(make_recording(5, 3, depth=True), [], "D", "third")
    return writer.finish()


@pytest.fixture(scope="session")
def recording() -> Callable[..., dict[str, np.ndarray]]:
    """Return the function that makes one episode's arrays."""
    return make_recording


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny data set that must not be changed."""
    root = tmp_path_factory.mktemp("tiny")
    write_tiny(root)
    return root


@pytest.fixture
def spoiled(tiny_root: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny data set to spoil."""
    return Path(shutil.copytree(tiny_root, tmp_path / "spoiled"))
