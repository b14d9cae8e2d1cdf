"""CALVIN's evaluation as an environment: five subtasks in a row, one point for each.

An episode is one chain in scene D; it is over when all five are solved, or at the first that is not solved in 360 steps
(calvin ``evaluation/evaluate_policy.py``: ``EP_LEN``).  The harness itself does not use it: ``bench/rollout`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from bench.calvin.env import CalvinEnv, Observation
from bench.calvin.instructions import evaluation_instruction
from bench.calvin.sequences import evaluation_sequences, initial_observation
from bench.errors import UserError

STEPS_PER_SUBTASK = 360
CHAINS = 1000


class LongHorizon(CalvinEnv):
    """One evaluation chain an episode; every info also has ``chain``, ``solved``, ``task`` and ``instruction``.

    Args:
        arguments: those of ``CalvinEnv`` but the scene, which is D.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__("D", **arguments)
        self._chain = 0
        self._tasks: tuple[str, ...] = ()
        self._solved = 0
        self._steps = 0
        self._over = False

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a chain.

        Args:
            seed: seeds the generator that draws a chain when none is named.
            options: ``chain`` 0 … 999; ``render_views=False`` leaves out the pictures.

        Raises:
            UserError: another option, or a chain that does not exist.
        """
        if options is not None and (not isinstance(options, Mapping) or set(options) - {"chain", "render_views"}):
            raise UserError(f"reset options: expected a mapping with chain or render_views, got {options!r}; mend it")
        wanted = dict(options or {})
        chain = wanted.pop("chain", None)
        if chain is not None and (
            isinstance(chain, bool) or not isinstance(chain, int | np.integer) or not 0 <= chain < CHAINS
        ):
            raise UserError(f"reset options: expected chain within 0 … {CHAINS - 1}, got {chain!r}; choose one of them")
        if seed is not None:
            gymnasium.Env.reset(self, seed=seed)
        if chain is None:
            chain = self.np_random.integers(CHAINS)
        initial_state, self._tasks = evaluation_sequences()[int(chain)]
        self._chain, self._solved, self._steps, self._over = int(chain), 0, 0, False
        robot_obs, scene_obs = initial_observation(initial_state, self.scene.name)
        observation, info = super().reset(options={**wanted, "robot_obs": robot_obs, "scene_obs": scene_obs})
        return observation, info | self._progress()

    def step(self, action: Any, render_views: bool = True) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Step; the reward is 1.0 when the current subtask has just been solved.

        Raises:
            UserError: a senseless action, or no chain that is running.
        """
        if self._over:
            raise UserError("step: expected a running chain, got one that is over; call reset()")
        observation, _, _, _, info = super().step(action, render_views)
        self._steps += 1
        solved = self.task_done(self._tasks[self._solved])
        failed = not solved and self._steps >= STEPS_PER_SUBTASK
        if solved:
            self._solved, self._steps = self._solved + 1, 0
            self.begin_subtask()
        self._over = failed or self._solved == len(self._tasks)
        return observation, float(solved), self._over, False, info | self._progress()

    def _progress(self) -> dict[str, Any]:
        task = self._tasks[min(self._solved, len(self._tasks) - 1)]
        return {
            "chain": self._chain,
            "solved": self._solved,
            "task": task,
            "instruction": evaluation_instruction(task),
        }
