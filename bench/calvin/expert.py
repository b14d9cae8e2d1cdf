"""Scripted experts: demonstrations of CALVIN's tasks, made from the simulator's state and verified by the oracle.

An expert moves somewhat like a person at a controller: pace, heights and contact points vary, what is executed may be
disturbed (``disturbance.py``) while the clean action is kept as the label.  How each task is done lies in
``bench/calvin/experts``; where demonstrations begin lies in ``starts.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin.disturbance import Disturbance
from bench.calvin.env import CalvinEnv
from bench.calvin.experts import grasping, parts, pushing
from bench.calvin.experts.motion import CLOSED, OPEN, ExpertFailed, Hand, Motion
from bench.calvin.instructions import training_instructions
from bench.calvin.sequence_rules import SymbolicState
from bench.calvin.starts import Start, draw_start, needs_block_in_gripper
from bench.calvin.state import ROBOT
from bench.calvin.tasks import COLOURS, FAMILY, TASKS, check_task
from bench.errors import UserError

MAX_STEPS = 300
TAIL_STEPS = (5, 11)
"""Actions recorded beyond success: at least, below."""
SETTLE_STEPS = 4


def _experts() -> dict[str, Callable[[Hand], Motion]]:
    table: dict[str, Callable[[Hand], Motion]] = {
        "open_drawer": parts.open_drawer,
        "close_drawer": parts.close_drawer,
        "move_slider_left": parts.move_slider_left,
        "move_slider_right": parts.move_slider_right,
        "turn_on_lightbulb": parts.turn_on_lightbulb,
        "turn_off_lightbulb": parts.turn_off_lightbulb,
        "turn_on_led": parts.press_button,
        "turn_off_led": parts.press_button,
        "place_in_slider": grasping.place_in_slider,
        "place_in_drawer": grasping.place_in_drawer,
        "stack_block": grasping.stack_block,
        "unstack_block": grasping.unstack_block,
        "push_into_drawer": pushing.push_into_drawer,
    }
    for colour in COLOURS:
        block = f"block_{colour}"
        for surface in ("table", "slider", "drawer"):
            table[f"lift_{colour}_block_{surface}"] = grasping.lift(block)
        for direction, sign in (("right", 1), ("left", -1)):
            table[f"push_{colour}_block_{direction}"] = pushing.push(block, sign)
            table[f"rotate_{colour}_block_{direction}"] = grasping.rotate(block, -sign)
    return table


_EXPERTS = _experts()

EXPERT_TASKS: tuple[str, ...] = tuple(task for task in TASKS if task in _EXPERTS)
"""The tasks that there is an expert for."""


@dataclass(frozen=True)
class Demonstration:
    """One task done once; n actions between n + 1 observations.

    Observation t is what was seen before action t (CALVIN's frame t holds both); the last observation has no action.

    Attributes:
        task: CALVIN's task name.
        instruction: one of the task's training sentences.
        scene: ``A`` … ``D``.
        actions: (n, 7) float64 relative actions; where noise was executed, the action without it.
        robot_obs: (n + 1, 15) float64.
        scene_obs: (n + 1, 24) float64.
        solved_at: index of the action after which the oracle first said done.
        rgb_static: uint8 (n + 1, 200, 200, 3), or None.
        rgb_gripper: uint8 (n + 1, 84, 84, 3), or None.
        depth_static: float32 (n + 1, 200, 200) in metres, or None.
        depth_gripper: float32 (n + 1, 84, 84) in metres, or None.
    """

    task: str
    instruction: str
    scene: str
    actions: NDArray[np.float64]
    robot_obs: NDArray[np.float64]
    scene_obs: NDArray[np.float64]
    solved_at: int
    rgb_static: NDArray[np.uint8] | None = None
    rgb_gripper: NDArray[np.uint8] | None = None
    depth_static: NDArray[np.float32] | None = None
    depth_gripper: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        n = len(self.actions)
        if self.actions.shape != (n, 7) or self.robot_obs.shape != (n + 1, 15) or self.scene_obs.shape != (n + 1, 24):
            raise ValueError(
                f"expected (n, 7), (n + 1, 15), (n + 1, 24), got {self.actions.shape}, "
                f"{self.robot_obs.shape}, {self.scene_obs.shape}"
            )
        for name, images in (("rgb_static", self.rgb_static), ("rgb_gripper", self.rgb_gripper)):
            if images is not None and (images.dtype != np.uint8 or len(images) != n + 1):
                raise ValueError(f"{name}: expected uint8 ({n + 1}, H, W, 3), got {images.dtype} {images.shape}")

    def __len__(self) -> int:
        """Return n, the number of actions."""
        return len(self.actions)


def _plan(hand: Hand, task: str) -> Motion:
    """Do ``task`` once, laying down first what the gripper holds where the task needs it empty."""
    if hand.held() is not None and not needs_block_in_gripper(task):
        yield from grasping.put_down(hand, near=FAMILY[task] == "rotate")
    yield from _EXPERTS[task](hand)


def _known(task: str) -> str:
    if check_task(task) not in _EXPERTS:
        raise UserError(f"expected a task with an expert, got {task!r}; there are {', '.join(EXPERT_TASKS)}")
    return task


def expert_actions(env: CalvinEnv, task: str, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Yield actions (7,) toward ``task`` without end; step ``env`` with each before taking the next.

    The expert as a policy: it starts from whatever state the world is in, tries again when it is not successful, and
    never stops by itself; the caller does, when the oracle is satisfied or the steps are used up.

    Raises:
        UserError: there is no expert for ``task``.
    """
    _known(task)
    return _endless(env, task, rng)


def _endless(env: CalvinEnv, task: str, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    while True:
        hand = Hand(env, rng)
        try:
            yield from _plan(hand, task)
        except ExpertFailed:
            yield from hand.retreat()
        yield from hand.grip(hand.gripper, 3)


def prepare(env: CalvinEnv, task: str, rng: np.random.Generator) -> SymbolicState | None:
    """Reset ``env`` to a random state in which ``task`` is possible, with a block in the gripper where it needs one.

    Returns:
        the symbolic state, or None where the block could not be grasped.
    """
    return begin(env, draw_start(env.scene, _known(task), rng), rng)


def begin(env: CalvinEnv, start: Start, rng: np.random.Generator) -> SymbolicState | None:
    """Reset ``env`` to ``start`` and grasp the block that is to be held.

    Returns:
        the symbolic state, or None where the block could not be grasped.
    """
    env.reset(options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs, "render_views": False})
    hand = Hand(env, rng)
    try:
        # Blocks were drawn a hair above what they lie on; the tasks ask for contact from the first moment.
        for action in hand.grip(OPEN if start.robot_obs[6] > 0 else CLOSED, SETTLE_STEPS):
            env.step(action, render_views=False)
        if start.held is None:
            return start.state
        for action in grasping.lift(start.held)(hand):
            env.step(action, render_views=False)
    except ExpertFailed:
        return None
    alone = all(body == ROBOT for body, _ in env.state().blocks[start.held].contacts)
    return start.state_when_held if alone else None


@dataclass
class _Recording:
    """What one attempt leaves behind."""

    env: CalvinEnv
    render: bool

    def __post_init__(self) -> None:
        self.actions: list[NDArray[np.float64]] = []
        self.observations: list[dict[str, NDArray[Any]]] = []
        self.film = self.env.film() if self.render else None
        self.observe()

    def observe(self) -> None:
        world = self.env.world
        if self.film is not None:
            self.film.shoot()
        self.observations.append({"robot_obs": world.robot.observation(), "scene_obs": world.scene_observation()})

    def step(self, label: NDArray[np.float64], executed: NDArray[np.float64]) -> None:
        self.actions.append(label)
        self.env.step(executed, render_views=False)
        self.observe()

    def stacked(self) -> dict[str, NDArray[Any]]:
        states = {key: np.stack([one[key] for one in self.observations]) for key in self.observations[0]}
        return states if self.film is None else states | self.film.develop()


def demonstrate(
    env: CalvinEnv,
    task: str,
    rng: np.random.Generator,
    *,
    noise: float = 0.0,
    max_steps: int = MAX_STEPS,
    fresh: bool = True,
    render: bool = False,
) -> Demonstration | None:
    """Do ``task`` once and record it; a few steps beyond the moment at which the oracle is satisfied.

    Args:
        env: the world to act in.
        task: one of :data:`EXPERT_TASKS`.
        rng: the only source of variation.
        noise: size of the disturbances of what is executed, in action units, see ``disturbance.py``; 0.2 is much.
        max_steps: give up after so many actions.
        fresh: begin from a new random start; otherwise from the state that the world is in.
        render: record both cameras as well, and their depth where the world was made with ``depth=True``.

    Returns:
        the demonstration, or None where the oracle was never satisfied.

    Raises:
        UserError: there is no expert for ``task``.
    """
    if fresh and prepare(env, task, rng) is None:
        return None
    sentences = training_instructions(_known(task))
    env.begin_subtask()
    recording, solved_at, left = _Recording(env, render), None, int(rng.integers(*TAIL_STEPS))
    disturbed = Disturbance(noise, rng)
    for label in _attempt(env, task, rng):
        recording.step(label, disturbed(label))
        if solved_at is None and env.task_done(task):
            solved_at = len(recording.actions) - 1
        if solved_at is not None:
            left -= 1
        if left < 0 or len(recording.actions) >= max_steps:
            break
    if solved_at is None:
        return None
    return Demonstration(
        task=task,
        instruction=sentences[int(rng.integers(len(sentences)))],
        scene=env.scene.name,
        actions=np.stack(recording.actions),
        solved_at=solved_at,
        **recording.stacked(),
    )


def _attempt(env: CalvinEnv, task: str, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    with contextlib.suppress(ExpertFailed):
        yield from _plan(Hand(env, rng), task)


def demonstrate_chain(
    env: CalvinEnv, tasks: Sequence[str], rng: np.random.Generator, *, noise: float = 0.0, render: bool = False
) -> list[Demonstration]:
    """Do several tasks in a row, from the state that the world is in and without a reset, up to the first that fails.

    Args:
        env: the world to act in.
        tasks: in order; each must be possible after the ones before (``sequence_rules.outcomes``).
        rng: the only source of variation.
        noise: as for :func:`demonstrate`.
        render: record both cameras as well.

    Returns:
        the demonstrations before the first failure; each begins with the observation that ends the one before.

    Raises:
        UserError: there is no expert for one of the tasks.
    """
    done: list[Demonstration] = []
    for task in [_known(task) for task in tasks]:
        one = demonstrate(env, task, rng, noise=noise, fresh=False, render=render)
        if one is None:
            break
        done.append(one)
    return done
