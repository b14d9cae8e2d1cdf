"""Disturbances: nothing where nothing moves but for the kicks, more the faster, never beyond an action's bounds."""

from __future__ import annotations

import numpy as np
import pytest

from bench.calvin.disturbance import KICK_RATE, KICK_STEPS, Disturbance


def executed(action: list[float], size: float = 0.2, steps: int = 4000, seed: int = 0) -> np.ndarray:
    disturbed = Disturbance(size, np.random.default_rng(seed))
    return np.stack([disturbed(np.array(action)) for _ in range(steps)])


def test_no_size_changes_nothing():
    action = [0.3, 0, 0, 0, 0, 1.0, -1.0]
    assert (executed(action, size=0.0) == action).all()


def test_a_hand_that_stands_still_is_only_kicked():
    moved = np.abs(executed([0, 0, 0, 0, 0, 0, 1.0])[:, :6]).max(1) > 0
    mean_kick = np.mean(np.arange(*KICK_STEPS))
    assert moved.mean() == pytest.approx(KICK_RATE * mean_kick / (1 + KICK_RATE * mean_kick), rel=0.25)


def test_noise_grows_with_speed():
    slow, fast = (np.median(np.abs(executed([speed, 0, 0, 0, 0, 0, 1.0])[:, 1])) for speed in (0.2, 0.8))
    assert fast == pytest.approx(4 * slow, rel=0.15)


def test_it_stays_within_bounds_and_leaves_the_gripper_alone():
    actions = executed([1.0, -1.0, 0.5, 1.0, 0, 0, -1.0], size=1.0)
    assert np.abs(actions).max() == 1.0
    assert (actions[:, 6] == -1.0).all()


def test_it_is_a_function_of_its_seed():
    action = [0.5, 0, 0, 0, 0.2, 0, 1.0]
    assert np.array_equal(executed(action, seed=3), executed(action, seed=3))
    assert not np.array_equal(executed(action, seed=3), executed(action, seed=4))
