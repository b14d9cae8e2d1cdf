"""Models of CALVIN's own interface, ``reset()`` and ``step(obs, goal)``, from whatever repository they come.

Such a model remembers: ``reset`` begins a subtask, ``step`` gives one action and may use all that came before (hidden
states, rests of chunks).  It is no pure function, so it is no :class:`policies.api.Policy` but a
:class:`policies.api.StatefulPolicy`: the worker has a model of its own for the length of a subtask and asks it step by
step.  The price: every step is rendered and asked for alone, in the worker's process; no chunks, no batches, no
inference actors, no serving.  What it is given is what CALVIN's environment gives (``calvin_env``: ``rgb_obs``,
``robot_obs``) without the simulator's ``scene_obs``; what a repository's own wrapper makes of that goes into
``prepare``.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.api import (
    ACTION_DIM,
    ANCHOR,
    CALVIN_ACTIONS,
    WRIST,
    ActionConvention,
    Observation,
    PolicyError,
    PolicySpec,
)
from policies.simple import check_call

CAMERAS = {ANCHOR: "rgb_static", WRIST: "rgb_gripper"}


class CalvinBaseModel(Protocol):
    """The two methods of ``calvin_agent/models/calvin_base_model.py``."""

    def reset(self) -> Any:
        """Begin a subtask."""
        ...

    def step(self, obs: Any, goal: Any) -> Any:
        """Return one action."""
        ...


Prepare = Callable[[dict[str, Any], str], tuple[Any, Any]]
"""From CALVIN's observation and the sentence to what the model's ``step`` takes."""


class CalvinModel:
    """Models with ``reset`` and ``step`` as a :class:`policies.api.StatefulPolicy`.

    Args:
        make: builds a model; called once for each subtask that is under way at the same time, so mostly once.
        name: for tables.
        views: the views that the model reads.
        actions: what its actions mean; compared with the world's before a rollout.
        prepare: changes what ``step`` is given; None gives CALVIN's dictionary and the sentence.
        arm: the arm of an experiment that it was trained for.
    """

    def __init__(
        self,
        make: Callable[[], CalvinBaseModel],
        *,
        name: str = "calvin-model",
        views: tuple[str, ...] = (ANCHOR, WRIST),
        actions: ActionConvention = CALVIN_ACTIONS,
        prepare: Prepare | None = None,
        arm: str | None = None,
    ) -> None:
        unknown = sorted(set(views) - set(CAMERAS))
        if unknown:
            raise PolicyError(f"{name}: CALVIN has no view {unknown}; expected some of {sorted(CAMERAS)}")
        self.spec = PolicySpec(name, views, (), 1, 1, arm, actions, uses_proprio=True)
        self._make, self._prepare = make, prepare
        self._free: list[CalvinBaseModel] = []

    @contextmanager
    def begin(self, seed: int) -> Iterator[_Subtask]:
        """Lend a model, reset, for one subtask.

        Raises:
            PolicyError: what ``make`` built has no ``reset`` and ``step``, or ``reset`` raised.
        """
        model = self._free.pop() if self._free else self._make()
        if not callable(getattr(model, "reset", None)) or not callable(getattr(model, "step", None)):
            raise PolicyError(f"{self.spec.name}: a {type(model).__name__} has no reset() and step(obs, goal)")
        with _seeded(seed):
            try:
                model.reset()
            except Exception as error:  # a model is anyone's code
                raise PolicyError(f"{self.spec.name}: reset() raised {type(error).__name__}: {error}") from error
        yield _Subtask(model, self.spec, self._prepare)
        self._free.append(model)


class _Subtask:
    """One model for one subtask: a policy that must be asked once a step, in order."""

    def __init__(self, model: CalvinBaseModel, spec: PolicySpec, prepare: Prepare | None) -> None:
        self.spec = spec
        self._model, self._prepare = model, prepare

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (1, 1, 7), the next action.

        Raises:
            PolicyError: more than one observation, a missing view, or ``step`` gave what is no action.
        """
        check_call(self.spec, batch, seeds)
        if len(batch) != 1:
            raise PolicyError(f"{self.spec.name}: remembers one subtask and takes one observation, got {len(batch)}")
        observation: Any = calvin_observation(batch[0])
        goal: Any = batch[0].instruction
        if self._prepare is not None:
            observation, goal = self._prepare(observation, goal)
        with _seeded(int(seeds[0])):
            action = self._model.step(observation, goal)
        return self._flat(action)[None, None]  # (1, 1, 7)

    def _flat(self, action: Any) -> NDArray[np.float32]:
        """Return (7,) from an array or tensor of seven, or from CALVIN's tuple of position, rotation and gripper."""
        if isinstance(action, tuple):
            if self.spec.actions.frame != "absolute":
                raise PolicyError(f"{self.spec.name}: gave a tuple, CALVIN's form of absolute actions; declare them so")
            action = np.concatenate([np.ravel(_array(part)) for part in action])
        flat = np.ravel(_array(action)).astype(np.float32)
        if flat.shape != (ACTION_DIM,):
            raise PolicyError(f"{self.spec.name}: expected {ACTION_DIM} numbers from step(), got {flat.size}")
        return flat


def calvin_observation(observation: Observation) -> dict[str, Any]:
    """Return an observation as CALVIN's environment would give it; arrays may be changed by who gets them."""
    images = {CAMERAS[name]: image.copy() for name, image in observation.views.items() if name in CAMERAS}
    state = {} if observation.proprio is None else {"robot_obs": observation.proprio.astype(np.float64)}
    return {"rgb_obs": images, "depth_obs": {}, **state}


def _array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give a model that draws from the interpreter's random numbers its own, and put back what was there."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch is not None else None
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch is not None:
        torch.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch is not None:
            torch.set_rng_state(before[2])
