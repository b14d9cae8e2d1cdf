"""Models with ``reset`` and ``step``: lent for a subtask, given what CALVIN gives, held to what they declared."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from policies.api import ActionConvention, Observation, Policy, PolicyError, StatefulPolicy
from policies.calvin_model import CalvinModel


class Counting:
    """Its action says how many steps it has taken since it was reset: its state is all that matters."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.steps, self.seen = None, []

    def reset(self) -> None:
        self.steps = 0

    def step(self, obs, goal):
        self.steps += 1
        self.seen.append((obs, goal))
        return np.full(7, self.steps / 100)


@pytest.fixture(autouse=True)
def _none_made():
    Counting.made = 0


@pytest.fixture
def seeing(observations_of) -> Observation:
    return observations_of(1, proprio=True)[0]


def test_it_is_stateful_and_no_pure_policy():
    model = CalvinModel(Counting)
    assert isinstance(model, StatefulPolicy)
    assert not isinstance(model, Policy)
    assert (model.spec.chunk, model.spec.execute) == (1, 1)


def test_it_remembers_within_a_subtask_and_forgets_after(seeing):
    model = CalvinModel(Counting)
    for _ in range(2):
        with model.begin(0) as subtask:
            assert isinstance(subtask, Policy)
            got = [float(subtask.act([seeing], [step])[0, 0, 0]) for step in range(3)]
        np.testing.assert_allclose(got, [0.01, 0.02, 0.03])
    assert Counting.made == 1


def test_subtasks_side_by_side_do_not_share_a_model(seeing):
    model = CalvinModel(Counting)
    with model.begin(0) as one, model.begin(1) as other:
        one.act([seeing], [0])
        one.act([seeing], [1])
        assert float(other.act([seeing], [0])[0, 0, 0]) == pytest.approx(0.01)
        assert float(one.act([seeing], [2])[0, 0, 0]) == pytest.approx(0.03)
    assert Counting.made == 2
    with model.begin(2), model.begin(3):
        pass
    assert Counting.made == 2


def test_a_model_that_failed_is_not_used_again(seeing):
    class Failing(Counting):
        def step(self, obs, goal):
            raise RuntimeError("lost")

    model = CalvinModel(Failing)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="lost"), model.begin(0) as subtask:
            subtask.act([seeing], [0])
    assert Failing.made == 2


def test_it_is_given_what_calvin_gives(seeing):
    model = Counting()
    with CalvinModel(lambda: model).begin(0) as subtask:
        subtask.act([seeing], [0])
    obs, goal = model.seen[0]
    assert goal == seeing.instruction
    np.testing.assert_array_equal(obs["rgb_obs"]["rgb_static"], seeing.views["anchor"])
    np.testing.assert_array_equal(obs["rgb_obs"]["rgb_gripper"], seeing.views["wrist"])
    assert obs["robot_obs"].dtype == np.float64
    assert set(obs) == {"rgb_obs", "depth_obs", "robot_obs"}
    obs["rgb_obs"]["rgb_static"][:] = 0
    assert seeing.views["anchor"].any()


def test_a_repositorys_own_wrapper_may_stand_between(seeing):
    model = Counting()

    def prepare(obs, goal):
        return torch.from_numpy(obs["rgb_obs"]["rgb_static"]), goal.upper()

    with CalvinModel(lambda: model, prepare=prepare).begin(0) as subtask:
        subtask.act([seeing], [0])
    assert isinstance(model.seen[0][0], torch.Tensor)
    assert model.seen[0][1] == seeing.instruction.upper()


@pytest.mark.parametrize(
    "action", [[0.5] * 7, np.full((1, 1, 7), 0.5), torch.full((7,), 0.5, requires_grad=True), torch.full((1, 7), 0.5)]
)
def test_actions_come_in_many_forms(action, seeing):
    class Saying(Counting):
        def step(self, obs, goal):
            return action

    with CalvinModel(Saying).begin(0) as subtask:
        np.testing.assert_array_equal(subtask.act([seeing], [0]), np.full((1, 1, 7), np.float32(0.5)))


def test_calvins_tuple_is_an_absolute_action(seeing):
    class Saying(Counting):
        def step(self, obs, goal):
            return np.arange(3), np.arange(3, 6), 1

    with CalvinModel(Saying).begin(0) as subtask, pytest.raises(PolicyError, match="declare"):
        subtask.act([seeing], [0])
    with CalvinModel(Saying, actions=ActionConvention(frame="absolute")).begin(0) as subtask:
        np.testing.assert_array_equal(subtask.act([seeing], [0])[0, 0], [0, 1, 2, 3, 4, 5, 1])


def test_what_is_no_action_is_refused(seeing):
    class Saying(Counting):
        def step(self, obs, goal):
            return np.zeros(8)

    with CalvinModel(Saying).begin(0) as subtask:
        with pytest.raises(PolicyError, match="expected 7 numbers"):
            subtask.act([seeing], [0])
        with pytest.raises(PolicyError, match="takes one observation"):
            subtask.act([seeing, seeing], [0, 1])
        with pytest.raises(PolicyError, match="wrist"):
            subtask.act([Observation({"anchor": seeing.views["anchor"]}, "x")], [0])


def test_what_is_no_model_is_refused():
    class Broken(Counting):
        def reset(self):
            raise ValueError("no weights")

    with pytest.raises(PolicyError, match="no weights"), CalvinModel(Broken).begin(0):
        pass
    with pytest.raises(PolicyError, match="no reset"), CalvinModel(object).begin(0):
        pass
    with pytest.raises(PolicyError, match="depth"):
        CalvinModel(Counting, views=("anchor", "depth"))


def test_its_random_numbers_are_the_questions_and_disturb_nobody(seeing):
    class Noisy(Counting):
        def step(self, obs, goal):
            return np.full(7, random.random() + np.random.random() + torch.rand(1).item())

    def act(seed):
        with CalvinModel(Noisy).begin(0) as subtask:
            return subtask.act([seeing], [seed])

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    wanted = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first = act(2**64 - 1)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == wanted
    np.testing.assert_array_equal(act(2**64 - 1), first)
    assert not np.array_equal(act(1), first)
