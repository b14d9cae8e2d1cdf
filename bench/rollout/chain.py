"""One chain rolled out: the loop that every number of this project comes from.

The protocol is CALVIN's (``calvin_models/calvin_agent/evaluation/evaluate_policy.py``): the world is reset only when a
chain starts, each subtask has 360 control steps, the oracle judges after every step, the first success ends a subtask
and the first failure ends the chain.  Not here: which chains are run, by whom, and where the results go
(``workers.py``, ``ledger.py``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.rollout.answering import Course, Question, Reply, Sight, answered_here, finished, follow
from bench.rollout.api import Recorder, World
from bench.rollout.sources import Script, request_seed
from policies.api import ANCHOR, PROPRIO_DIM, WRIST, Observation, Policy, StatefulPolicy
from worldmodel.api import WristGenerator

STEPS_PER_SUBTASK = 360
"""calvin_agent ``evaluation/evaluate_policy.py: EP_LEN``."""

WristMode = Literal["none", "real", "generated"]
"""What a policy is shown as the wrist view at test: nothing, the gripper camera, or a world model's picture of it."""

STATIC_CAMERA, GRIPPER_CAMERA = "rgb_static", "rgb_gripper"


@dataclass(frozen=True)
class Chain:
    """Where the world starts and what is asked of the robot, one task after the other.

    Attributes:
        chain_id: position in CALVIN's list of 1000.
        tasks: the subtasks, in order.
        robot_obs: (15,) the robot's state at the start.
        scene_obs: (24,) the scene's state at the start.
    """

    chain_id: int
    tasks: tuple[str, ...]
    robot_obs: tuple[float, ...]
    scene_obs: tuple[float, ...]

    @property
    def start(self) -> dict[str, NDArray[np.float64]]:
        """The options that a world is reset with."""
        return {"robot_obs": np.array(self.robot_obs), "scene_obs": np.array(self.scene_obs)}


def evaluation_chains(count: int = 1000, scene: str = "D") -> list[Chain]:
    """Return the first ``count`` of CALVIN's evaluation chains, ready to be rolled out in ``scene``."""
    from bench.calvin.sequences import evaluation_sequences, initial_observation

    chains = []
    for chain_id, (initial_state, tasks) in enumerate(evaluation_sequences(count)):
        robot_obs, scene_obs = initial_observation(initial_state, scene)
        chains.append(Chain(chain_id, tuple(tasks), tuple(map(float, robot_obs)), tuple(map(float, scene_obs))))
    return chains


@dataclass(frozen=True)
class ChainResult:
    """What is left of a chain that ran to its end without a fault; a chain that did not has no result at all.

    Attributes:
        chain_id: which chain.
        arm: which arm of the comparison.
        seed: run seed, the training seed of the arm's policy.
        tasks: the subtasks that were asked for.
        solved: how many were solved in a row from the first, 0..len(tasks).
        steps: control steps spent on each subtask that was tried.
        trace: hash of the robot's and the scene's state after every step: two runs of a chain on one machine have the
            same one, or one of them was not reproduced; empty in rows of older ledgers.
        wall_s: seconds that it took; says nothing about the outcome and does not count when results are compared.
    """

    chain_id: int
    arm: str
    seed: int
    tasks: tuple[str, ...]
    solved: int
    steps: tuple[int, ...]
    trace: str = ""
    wall_s: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        """Refuse a result that no chain can have."""
        tried = min(self.solved + 1, len(self.tasks))
        if not 0 <= self.solved <= len(self.tasks) or len(self.steps) != tried or any(n < 1 for n in self.steps):
            raise UserError(
                f"chain {self.chain_id}: {self.solved} of {len(self.tasks)} solved needs {tried} step counts, "
                f"each at least 1; got {list(self.steps)}; this row was not written by a rollout"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ChainResult:
        """Build a result from :meth:`to_json`'s data; further keys are ignored."""
        return cls(
            chain_id=int(data["chain_id"]),
            arm=str(data["arm"]),
            seed=int(data["seed"]),
            tasks=tuple(data["tasks"]),
            solved=int(data["solved"]),
            steps=tuple(int(n) for n in data["steps"]),
            trace=str(data.get("trace", "")),
            wall_s=float(data.get("wall_s", 0.0)),
        )


class _Eye:
    """The world's cameras, drawn when somebody looks, and a hash of all states that were passed."""

    def __init__(self, world: World, recorder: Recorder | None = None) -> None:
        self.world, self.recorder = world, recorder
        self.drawn: Mapping[str, NDArray[np.uint8]] | None = None
        self.robot_obs: NDArray[np.float64] = np.zeros(PROPRIO_DIM)
        self.trace = hashlib.blake2b(digest_size=8)

    def take(self, observation: Mapping[str, Any]) -> None:
        """Remember the newest observation; its images too, where it has any."""
        self.robot_obs = observation["robot_obs"]
        for part in ("robot_obs", "scene_obs"):
            self.trace.update(np.asarray(observation[part], dtype=np.float64).tobytes())
        self.drawn = observation.get("rgb_obs")

    def look(self) -> Mapping[str, NDArray[np.uint8]]:
        """Return both cameras' views now, drawing them if nobody has."""
        if self.drawn is None:
            self.drawn = self.world.views()
        return self.drawn

    def show(self, instruction: str, subtask: int, done: bool) -> None:
        """Let the recorder, if there is one, have the views after a step."""
        if self.recorder is not None and self.drawn is not None:
            self.recorder.frame(self.drawn, instruction, subtask, done)


def run_chain(
    env: World,
    policy: Policy | Script | StatefulPolicy,
    chain: Chain,
    *,
    seed: int,
    wrist: WristMode = "real",
    generator: WristGenerator | None = None,
    alive: Callable[[], object] = lambda: None,
    **options: Any,
) -> ChainResult:
    """Roll one chain out here and now and say how far it came.

    Args:
        env: a world; reset here, once.
        policy: asked every ``spec.execute`` steps, or a script that reads the simulator's state, or one that remembers.
        chain: where to start and what to do.
        seed: run seed.
        wrist: what stands in the wrist view.
        generator: draws it where ``wrist`` is ``"generated"``.
        alive: called without arguments after every step, so that a watchdog knows.
        options: those of :func:`chain_course`.

    Raises:
        policies.api.PolicyError: the policy gave something that is not a chunk of actions.
        UserError: ``wrist`` and ``generator`` do not fit together.
    """
    stream = wrist_stream(wrist, generator, seed, chain)
    return finished(
        follow(chain_course(env, policy, chain, seed=seed, wrist=wrist, **options), policy, stream, alive=alive)
    )


def wrist_stream(wrist: WristMode, generator: Any, seed: int, chain: Chain) -> Any:
    """Return what answers a chain's sights, or None where its wrist view is not generated.

    Args:
        wrist: what stands in the wrist view.
        generator: a ``WristGenerator``, or one elsewhere that has ``stream(seed)`` too.
        seed: run seed.
        chain: the chain; each has a stream of its own.

    Raises:
        UserError: ``wrist`` and ``generator`` do not fit together.
    """
    if (wrist == "generated") != (generator is not None):
        raise UserError(f"wrist view {wrist!r} with generator {generator!r}: a generator goes with 'generated' only")
    return None if generator is None else generator.stream(request_seed(seed, chain.chain_id))


def chain_course(
    env: World,
    policy: Any,
    chain: Chain,
    *,
    seed: int,
    arm: str = "",
    wrist: WristMode = "real",
    steps_per_subtask: int = STEPS_PER_SUBTASK,
    instructions: Mapping[str, str] | None = None,
    recorder: Recorder | None = None,
) -> Course[ChainResult]:
    """Roll one chain out, leaving it to the caller when and where its questions are answered; return its result.

    The outcome depends on the chain, the policy and ``seed`` alone: every question carries its own seed, made from the
    run's seed, the chain, the subtask and the step.

    Args:
        env: a world; reset here, once.
        policy: only its spec is read; a script acts by itself, and one that remembers is asked here.
        chain: where to start and what to do.
        seed: run seed.
        arm: name that the result carries.
        wrist: what stands in the wrist view; a generated one is asked for as a :class:`Sight`.
        steps_per_subtask: control steps after which a subtask has failed.
        instructions: task to sentence; by default CALVIN-style evaluation sentences, one per task.
        recorder: takes every frame; forces drawing.
    """
    began = time.perf_counter()
    sentences = _sentences(chain.tasks, instructions)
    eye = _Eye(env, recorder)
    eye.take(env.reset(options={**chain.start, "render_views": recorder is not None})[0])
    solved, steps = 0, []
    for subtask, (task, sentence) in enumerate(zip(chain.tasks, sentences, strict=True)):
        where = (seed, chain.chain_id, subtask)
        if isinstance(policy, StatefulPolicy):
            with policy.begin(request_seed(*where)) as mind:
                attempt = _try(env, mind, eye, wrist, task, sentence, where, steps_per_subtask)
                done, taken = yield from _answered(attempt, mind)
        else:
            done, taken = yield from _try(env, policy, eye, wrist, task, sentence, where, steps_per_subtask)
        steps.append(taken)
        if not done:
            break
        solved += 1
    wall_s, trace = time.perf_counter() - began, eye.trace.hexdigest()
    return ChainResult(chain.chain_id, arm, seed, chain.tasks, solved, tuple(steps), trace, wall_s)


def _try(
    env: World,
    policy: Policy | Script,
    eye: _Eye,
    wrist: WristMode,
    task: str,
    sentence: str,
    where: tuple[int, int, int],
    budget: int,
) -> Course[tuple[bool, int]]:
    """Try one subtask; return whether it was solved and in how many steps.  What is left of a chunk is dropped."""
    env.begin_subtask()
    scripted = isinstance(policy, Script)
    plan: Iterator[NDArray[np.floating]] = iter(())
    if isinstance(policy, Script):
        plan = policy.actions(env, task, np.random.default_rng(request_seed(*where)))
    for taken in range(budget):
        action = next(plan, None)
        if action is None and not scripted:
            observation = yield from _observed(eye, wrist, sentence)
            chunk = yield Question(observation, request_seed(*where, taken))
            plan = iter(_given(chunk)[: policy.spec.execute])  # (K, 7)
            action = next(plan)
        if action is None:
            return False, taken
        eye.take(env.step(_with_binary_gripper(action), render_views=eye.recorder is not None)[0])
        done = env.task_done(task)
        eye.show(sentence, where[2], done)
        yield None
        if done:
            return True, taken + 1
    return False, budget


def _observed(eye: _Eye, wrist: WristMode, sentence: str) -> Course[Observation]:
    """Return what the policy sees now."""
    drawn = eye.look()
    views = {ANCHOR: drawn[STATIC_CAMERA]}
    if wrist == "real":
        views[WRIST] = drawn[GRIPPER_CAMERA]
    elif wrist == "generated":
        views[WRIST] = _given((yield Sight(drawn[STATIC_CAMERA])))
    return Observation(views, sentence, np.asarray(eye.robot_obs, dtype=np.float32))


def _given(reply: Reply | None) -> Reply:
    if reply is None:
        raise TypeError("a question was answered by None")
    return reply


def _answered(attempt: Course[tuple[bool, int]], mind: Policy) -> Course[tuple[bool, int]]:
    """Answer an attempt's questions on the spot: they are put to a policy that lives no longer than the subtask."""
    reply: Reply | None = None
    while True:
        try:
            question = attempt.send(reply)
        except StopIteration as end:
            outcome: tuple[bool, int] = end.value
            return outcome
        reply = answered_here(question, mind) if isinstance(question, Question) else (yield question)


def _with_binary_gripper(action: NDArray[np.floating]) -> NDArray[np.float64]:
    """CALVIN takes the gripper as exactly -1 or 1; its wrappers open it for values above 0 only."""
    binary = np.array(action, dtype=np.float64)
    binary[6] = 1.0 if binary[6] > 0 else -1.0
    return binary


def _sentences(tasks: Sequence[str], instructions: Mapping[str, str] | None) -> list[str]:
    if instructions is None:
        from bench.calvin.instructions import evaluation_instruction

        return [evaluation_instruction(task) for task in tasks]
    lacking = sorted(set(tasks) - set(instructions))
    if lacking:
        raise UserError(f"instructions: no sentence for {', '.join(lacking)}; give one for each task of the chains")
    return [instructions[task] for task in tasks]
