"""Names under which gymnasium finds the play tables, and the long-horizon one with instructions and reward.

``wristworld/CalvinA-v0`` … ``CalvinD-v0`` are ``CalvinEnv`` as it is: no reward, no end.  ``wristworld/LongHorizon-v0``
is CALVIN's evaluation as an environment: five subtasks in a row, 1 point for each, over at the first that is not
solved in 360 steps (calvin ``evaluation/evaluate_policy.py``: ``EP_LEN``).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from bench.calvin.scene import SCENES
from bench.errors import UserError

STEPS_PER_SUBTASK = 360
CHAINS = 1000


class LongHorizon(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One evaluation chain an episode; every step's info has ``instruction``, ``task``, ``chain`` and ``solved``."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._chain = 0
        self._tasks: tuple[str, ...] = ()
        self._solved = 0
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a chain: ``options={"chain": i}`` names it, otherwise the seeded generator draws one."""
        from bench.calvin.sequences import evaluation_sequences, initial_observation

        gymnasium.Env.reset(self.unwrapped, seed=seed)
        chain = (options or {}).get("chain")
        if chain is None:
            chain = int(self.unwrapped.np_random.integers(CHAINS))
        if not isinstance(chain, int | np.integer) or not 0 <= chain < CHAINS:
            raise UserError(f"reset options: expected chain within 0 … {CHAINS - 1}, got {chain!r}; choose one of them")
        initial_state, self._tasks = evaluation_sequences()[int(chain)]
        self._chain, self._solved, self._steps = int(chain), 0, 0
        robot_obs, scene_obs = initial_observation(initial_state)
        observation, info = self.env.reset(options={"robot_obs": robot_obs, "scene_obs": scene_obs})
        return observation, info | self._progress()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; the reward is 1.0 when the current subtask has just been solved."""
        world: Any = self.unwrapped
        if self._solved == len(self._tasks):
            raise UserError("step: expected a running chain, got one that is over; call reset()")
        observation, _, _, _, info = self.env.step(action)
        self._steps += 1
        solved = world.task_done(self._tasks[self._solved])
        failed = not solved and self._steps >= STEPS_PER_SUBTASK
        if solved:
            self._solved, self._steps = self._solved + 1, 0
            world.begin_subtask()
        over = failed or self._solved == len(self._tasks)
        return observation, float(solved), over, False, info | self._progress()

    def _progress(self) -> dict[str, Any]:
        from bench.calvin.instructions import evaluation_instruction

        task = self._tasks[min(self._solved, len(self._tasks) - 1)]
        return {
            "chain": self._chain,
            "solved": self._solved,
            "task": task,
            "instruction": evaluation_instruction(task),
        }


def _long_horizon(**arguments: Any) -> gymnasium.Env[Any, Any]:
    from bench.calvin.env import CalvinEnv

    return LongHorizon(CalvinEnv("D", **arguments))


def register() -> None:
    """Tell gymnasium the names; the simulator is imported only when one of them is made."""
    for scene in SCENES:
        gymnasium.register(
            f"wristworld/Calvin{scene}-v0",
            entry_point="bench.calvin.env:CalvinEnv",
            kwargs={"scene": scene},
            order_enforce=False,
        )
    gymnasium.register(
        "wristworld/LongHorizon-v0", entry_point="bench.calvin.gym_ids:_long_horizon", order_enforce=False
    )
