"""The protocol: when the world is reset, judged, drawn, and when the policy is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rollout_doubles import TASKS, BadPolicy, EchoGenerator, NoisyPolicy, PointWorld, chains

from bench.errors import UserError
from bench.rollout.chain import ChainResult, run_chain
from bench.rollout.sources import request_seed
from policies.api import PolicyError, PolicySpec

SAID = {task: f"please {task}" for task in TASKS}


class Steady(NoisyPolicy):
    """One hundredth a step, always."""

    def act(self, batch: Any, seeds: Any) -> np.ndarray:
        super().act(batch, seeds)
        chunk = np.zeros((len(batch), self.spec.chunk, 7), np.float32)
        chunk[:, :, 0] = 1.0
        return chunk


def run(world: PointWorld, policy: Any, **options: Any) -> ChainResult:
    return run_chain(world, policy, chains(1)[0], **{"seed": 5, "instructions": SAID, **options})


def test_solved_chain_counts_steps_and_resets_once() -> None:
    world = PointWorld()
    result = run(world, Steady(chunk=4, execute=4), arm="real")
    needed = tuple(2 + (3 * i) % 11 for i in range(5))  # strictly more than 1 + (3 i mod 11) hundredths
    assert (result.solved, result.steps, result.tasks, result.arm, result.seed) == (5, needed, TASKS, "real", 5)
    assert world.resets == 1
    assert world.begun == [sum(needed[:i]) for i in range(5)]


def test_first_failure_ends_the_chain_after_the_whole_budget() -> None:
    world = PointWorld()
    result = run(world, Steady(), steps_per_subtask=6)
    assert (result.solved, result.steps) == (2, (2, 5, 6))
    assert world.steps == 13


def test_success_in_the_last_step_counts() -> None:
    assert run(PointWorld(), Steady(), steps_per_subtask=5).steps[:2] == (2, 5)


def test_chunk_is_dropped_when_the_subtask_ends() -> None:
    policy = Steady(chunk=10, execute=4)
    run(PointWorld(), policy)
    # subtasks need 2, 5, 8, 11, 3 steps: ceil(n / 4) requests each, none carried over
    assert [o.instruction for o, _ in policy.asked] == [
        SAID[task] for task, n in zip(TASKS, (1, 2, 2, 3, 1), strict=True) for _ in range(n)
    ]


def test_every_request_has_its_own_stable_seed() -> None:
    policy = Steady(chunk=4, execute=4)
    run(PointWorld(), policy)
    expected = [(0, 0), (1, 0), (1, 4), (2, 0), (2, 4), (3, 0), (3, 4), (3, 8), (4, 0)]
    assert [seed for _, seed in policy.asked] == [request_seed(5, 0, *where) for where in expected]
    assert request_seed(5, 0, 1, 4) == 1717279913607649323


def test_views_are_drawn_only_when_the_policy_is_asked() -> None:
    world, policy = PointWorld(), Steady(chunk=4, execute=4)
    run(world, policy)
    assert world.draws == len(policy.asked)


def test_recorder_gets_every_step_and_changes_nothing() -> None:
    frames: list[tuple[Any, ...]] = []

    class Camera:
        def frame(self, *what: Any) -> None:
            frames.append(what)

    watched = run(PointWorld(), NoisyPolicy(), recorder=Camera())
    assert watched == run(PointWorld(), NoisyPolicy())
    assert len(frames) == sum(watched.steps)
    assert [subtask for _, _, subtask, done in frames if done] == list(range(watched.solved))


@pytest.mark.parametrize(("wrist", "shown"), [("none", ["anchor"]), ("real", ["anchor", "wrist"])])
def test_policy_sees_what_the_arm_allows(wrist: str, shown: list[str]) -> None:
    policy = NoisyPolicy()
    run(PointWorld(), policy, wrist=wrist)
    assert all(sorted(observation.views) == shown for observation, _ in policy.asked)
    first = policy.asked[0][0]
    assert first.proprio is not None
    assert first.proprio.dtype == np.float32


def test_generated_wrist_comes_from_one_stream_for_the_whole_chain() -> None:
    policy = Steady(chunk=4, execute=4)
    run(PointWorld(), policy, wrist="generated", generator=EchoGenerator())
    assert [int(o.views["wrist"][0, 0, 0]) for o, _ in policy.asked] == list(range(1, len(policy.asked) + 1))


def test_generator_without_generated_wrist_is_refused() -> None:
    with pytest.raises(UserError, match="goes with 'generated' only"):
        run(PointWorld(), NoisyPolicy(), wrist="generated")


def test_gripper_is_made_binary_and_the_rest_left_alone() -> None:
    class Halfway(Steady):
        def act(self, batch: Any, seeds: Any) -> np.ndarray:
            chunk = super().act(batch, seeds)
            chunk[:, 0, 6], chunk[:, 1, 6], chunk[:, 0, 1] = 0.2, 0.0, 1.7
            return chunk

    world = PointWorld()
    run(world, Halfway())
    assert world.actions[0][[1, 6]] == pytest.approx([1.7, 1.0])
    assert world.actions[1][6] == -1.0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", r"policy 'noisy' gave nan at \(step, entry\) \(1, 2\)"),
        ("shape", r"policy 'noisy' gave actions of shape \(1, 2, 7\), expected \(1, 4, 7\)"),
        ("raise", r"policy 'noisy' raised KeyError: 'no such weight'"),
    ],
)
def test_bad_policy_is_named(fault: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        run(PointWorld(), BadPolicy(fault))


def test_script_sees_the_world_and_gets_its_own_generator_per_subtask() -> None:
    drawn: list[float] = []

    class Script:
        spec = PolicySpec("script", views=(), chunk=1, execute=1)

        def actions(self, env: Any, task: str, rng: np.random.Generator) -> Any:
            drawn.append(float(rng.random()))
            while True:
                yield np.array([1.0, 0, 0, 0, 0, 0, 1], np.float32)

    world = PointWorld()
    assert run(world, Script()).solved == 5
    assert len(set(drawn)) == 5
    first = list(drawn)
    run(PointWorld(), Script())
    assert drawn[5:] == first
    assert world.draws == 0


def test_lacking_instruction_is_named() -> None:
    with pytest.raises(UserError, match="no sentence for stack"):
        run(PointWorld(), NoisyPolicy(), instructions={t: t for t in TASKS[:-1]})


@pytest.mark.parametrize(("solved", "steps"), [(5, (1, 1, 1, 1)), (0, ()), (6, (1,) * 5), (1, (3, 0))])
def test_impossible_results_are_refused(solved: int, steps: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="was not written by a rollout"):
        ChainResult(0, "a", 0, TASKS, solved, steps)


def test_result_survives_json_and_ignores_wall_time() -> None:
    result = ChainResult(3, "real", 1, TASKS, 2, (10, 20, 360), wall_s=4.5)
    again = ChainResult.from_json(result.to_json())
    assert again == result
    assert again.wall_s == 4.5
    assert again == ChainResult(3, "real", 1, TASKS, 2, (10, 20, 360), wall_s=9.0)
