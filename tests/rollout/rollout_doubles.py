"""Worlds and policies whose outcome is known beforehand; imported by the tests and by the processes they start."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.rollout.chain import Chain
from policies.api import PolicySpec

TASKS = ("lift", "push", "turn", "open", "stack")


def chains(count: int, first: int = 0) -> list[Chain]:
    """Chains whose start state says which one it is."""
    return [
        Chain(i, TASKS, tuple(float(i) if j == 0 else 0.0 for j in range(15)), (0.0,) * 24)
        for i in range(first, first + count)
    ]


class PointWorld:
    """A point that actions move by hundredths; how far it must go for a subtask differs by chain and task.

    Every state is a function of the start and the actions, and the static image shows it.  ``trouble`` maps a chain id
    to ``"die"``, ``"hang"`` or ``"raise"``; it strikes in the second step and, where ``once`` names a folder, only the
    first time.
    """

    def __init__(self, trouble: dict[int, str] | None = None, once: str | None = None, slow_s: float = 0.0) -> None:
        self.trouble, self.once, self.slow_s = trouble or {}, once, slow_s
        self.draws = self.resets = self.steps = self.closed = 0
        self.begun: list[int] = []
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        assert options is not None
        self.chain_id, self.position, self.resets, self.age = int(options["robot_obs"][0]), 0.0, self.resets + 1, 0
        return ({**self._state(), "rgb_obs": self.views()} if options["render_views"] else self._state()), {}

    def step(self, action: np.ndarray, render_views: bool = True) -> tuple[Any, ...]:
        self.actions.append(action)
        self.steps, self.age = self.steps + 1, self.age + 1
        self.position += float(action[0]) * 0.01
        time.sleep(self.slow_s)
        if self.age == 2 and self.chain_id in self.trouble and self._strikes():
            self._suffer(self.trouble[self.chain_id])
        obs = {**self._state(), "rgb_obs": self.views()} if render_views else self._state()
        return obs, 0.0, False, False, {}

    def views(self) -> dict[str, np.ndarray]:
        self.draws += 1
        shade = np.uint8(int(abs(self.position) * 1000) % 256)
        return {"rgb_static": np.full((8, 8, 3), shade), "rgb_gripper": np.full((4, 4, 3), 255 - shade, np.uint8)}

    def begin_subtask(self) -> None:
        self.start = self.position
        self.begun.append(self.steps)

    def task_done(self, task: str) -> bool:
        far = 1.5 + (7 * self.chain_id + 3 * TASKS.index(task)) % 11
        return abs(self.position - self.start) > 0.01 * far

    def close(self) -> None:
        self.closed += 1

    def _state(self) -> dict[str, Any]:
        return {"robot_obs": np.full(15, self.position), "scene_obs": np.zeros(24)}

    def _strikes(self) -> bool:
        if self.once is None:
            return True
        mark = Path(self.once) / f"struck-{self.chain_id}"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @staticmethod
    def _suffer(trouble: str) -> None:
        if trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "hang":
            time.sleep(1000)
        raise RuntimeError("the simulator lost its connection")


class LitteringWorld(PointWorld):
    """Has a folder of temporary files, as CALVIN's world has, and never removes it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        Path(tempfile.mkdtemp(prefix="wristworld-scene-"), "robot.urdf").write_text("<robot/>")


class NoisyPolicy:
    """Walks along x with a step that the image and the seed decide, so a wrong seed or image changes the outcome."""

    def __init__(
        self, chunk: int = 4, execute: int = 3, mean: float = 0.3, views: tuple[str, ...] = ("anchor", "wrist")
    ) -> None:
        self.spec = PolicySpec("noisy", views=views, chunk=chunk, execute=execute)
        self.mean = mean
        self.asked: list[tuple[Any, int]] = []

    def act(self, batch: Any, seeds: Any) -> np.ndarray:
        self.asked += list(zip(batch, seeds, strict=True))
        chunks = np.zeros((len(batch), self.spec.chunk, 7), np.float32)
        for row, observation, seed in zip(chunks, batch, seeds, strict=True):
            shade = int(observation.views["anchor"][0, 0, 0]) / 255
            row[:, 0] = self.mean + 0.2 * shade + np.random.default_rng(seed).normal(0, 0.6, len(row))
        return chunks


class BadPolicy(NoisyPolicy):
    """Fails in the way it is told, when the image is not black any more."""

    def __init__(self, fault: str) -> None:
        super().__init__(mean=1.0)
        self.fault = fault

    def act(self, batch: Any, seeds: Any) -> np.ndarray:
        chunks = super().act(batch, seeds)
        if all(observation.views["anchor"].max() == 0 for observation in batch):
            return chunks
        if self.fault == "raise":
            raise KeyError("no such weight")
        if self.fault == "nan":
            chunks[:, 1, 2] = np.nan
        return chunks[:, :2] if self.fault == "shape" else chunks


class WristReader(NoisyPolicy):
    """Walks as far as the wrist view is bright on one side: one other pixel and the outcome is another."""

    def act(self, batch: Any, seeds: Any) -> np.ndarray:
        chunks = super().act(batch, seeds)
        for row, observation in zip(chunks, batch, strict=True):
            wrist = observation.views["wrist"].astype(np.int64)
            row[:, 0] += (wrist * np.arange(wrist.size).reshape(wrist.shape)).sum() % 997 / 997
        return chunks


class PlacedPolicy(NoisyPolicy):
    """Is called after the GPU that Ray gave its process."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = PolicySpec(f"on GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}", chunk=4, execute=3)


class LatePolicy(NoisyPolicy):
    """Answers after a while."""

    def act(self, batch: Any, seeds: Any) -> np.ndarray:
        time.sleep(0.01)
        return super().act(batch, seeds)


class HangingPolicy(NoisyPolicy):
    """Does not answer, the first time that it is asked."""

    def __init__(self, once: str) -> None:
        super().__init__()
        self.once = once

    def act(self, batch: Any, seeds: Any) -> np.ndarray:
        mark = Path(self.once) / "hung"
        if not mark.exists():
            mark.touch()
            time.sleep(1000)
        return super().act(batch, seeds)


class EchoGenerator:
    """A world model whose wrist view counts the anchor frames that its stream was given."""

    def generate(self, anchor: Any, seed: int = 0) -> Any:
        raise NotImplementedError

    def stream(self, seed: int = 0) -> EchoStream:
        return EchoStream()

    def provenance(self) -> dict[str, Any]:
        return {"name": "echo"}


class EchoStream:
    def __init__(self) -> None:
        self.count = 0

    def push(self, anchors: dict[str, np.ndarray]) -> np.ndarray:
        self.count += 1
        return np.full((4, 4, 3), self.count, np.uint8)
