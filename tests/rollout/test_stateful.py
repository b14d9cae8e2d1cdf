"""Policies that remember, in the loop and in workers: asked at every step, begun anew at every subtask."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from rollout_doubles import TASKS, PointWorld, chains

from bench.errors import UserError
from bench.rollout import answering
from bench.rollout.actors import ChainWorker, Job
from bench.rollout.chain import run_chain
from bench.rollout.models import InferenceActor
from bench.rollout.sources import PolicySource
from bench.rollout.world import WorldOptions
from policies.calvin_model import CalvinModel

SAID = {task: f"please {task}" for task in TASKS}


class Striding:
    """Moves on faster with every step since its reset, so that where it goes is a matter of what it remembers."""

    def reset(self) -> None:
        self.steps = 0

    def step(self, obs, goal):
        self.steps += 1
        return np.r_[min(1.0, 0.1 * self.steps), np.zeros(5), 1.0]


def striding() -> CalvinModel:
    return CalvinModel(Striding, name="striding")


def test_the_model_starts_anew_at_every_subtask_and_is_asked_at_every_step():
    world = PointWorld()
    result = run_chain(world, striding(), chains(1)[0], seed=0, steps_per_subtask=40, instructions=SAID)
    assert result.solved > 1
    speeds = np.array([action[0] for action in world.actions])
    starts = np.cumsum((0, *result.steps))[:-1]
    assert len(speeds) == world.draws == sum(result.steps)
    for start, count in zip(starts, result.steps, strict=True):
        np.testing.assert_allclose(speeds[start : start + count], np.minimum(1, 0.1 * np.arange(1, count + 1)))


def test_chains_side_by_side_in_a_worker_are_those_run_one_after_the_other(monkeypatch):
    source = PolicySource("test_stateful:striding")
    alone = [
        run_chain(PointWorld(), striding(), chain, seed=0, steps_per_subtask=40, instructions=SAID)
        for chain in chains(3)
    ]
    monkeypatch.setattr(answering, "TURN_S", 0.0)
    worker = ChainWorker(WorldOptions(factory="rollout_doubles:PointWorld"), 40, SAID)

    async def together():
        return await asyncio.gather(*(worker.run(Job(source, "", 0), chain) for chain in chains(3)))

    got = [outcome.result for outcome in asyncio.run(together())]
    assert [(one.solved, one.steps) for one in got] == [(one.solved, one.steps) for one in alone]


def test_it_cannot_live_in_an_inference_actor():
    with pytest.raises(UserError, match="--inference local"):
        InferenceActor(PolicySource("test_stateful:striding"))
