"""The inference actors of a rollout: for each model one on every GPU, and the workers spread over them.

A model is a job's policy, or the world model that draws the wrist view in the loop, which all jobs share.  A run
reserves its GPUs once, as a Ray placement group of one bundle per GPU, so that Ray puts exactly one actor of a model on
each.  Several policies share a GPU for the time that one arm's last chains and the next arm's first overlap.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import UserError
from bench.rollout.actors import Job, Served
from bench.rollout.inference import PATIENCE_S, RemoteGenerator, RemotePolicy
from bench.rollout.models import GeneratorActor, InferenceActor
from bench.rollout.sources import BUILT_IN, GeneratorSource, PolicySource

RESERVE_S = 60.0
"""How long the GPUs may take to come free before they are said to be in use."""

POLICIES_AT_A_TIME = 4
"""On one GPU: that of the chains under way, the next one, and room for slow ends."""

POLL_S = 5.0
"""How often actors are asked how they do, where somebody watches."""

RESTARTS = 3
"""How often Ray starts an actor again by itself; its workers then only wait."""

JobName = tuple[str, int]
Statistics = dict[str, float | int | None]


@dataclass
class _Model:
    """A model that is served.

    Attributes:
        source: its recipe.
        actors: where it runs.
        known: how workers know each of them, once it is up.
    """

    source: PolicySource | GeneratorSource
    actors: list[Any]
    known: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What it is called in errors."""
        what = "policy" if isinstance(self.source, PolicySource) else "world model"
        return f"{what} {self.source.name!r}"


class Servers:
    """Starts a policy's inference actors before its first chain is handed out and lets them go when its last is done.

    Args:
        ray: the connected ``ray`` module.
        max_batch: batch size of every forward; 0 where nothing is served.
        each: actors per model; None for one per GPU of the cluster, or one where the model runs on the CPU.
        generators: how many world models the jobs have, which keep their share of each GPU to the end.
        run: the rollout's name for its folders; "" for none.
    """

    def __init__(self, ray: Any, max_batch: int, each: int | None = None, generators: int = 0, run: str = "") -> None:
        self._ray, self._max_batch, self._each, self._generators = ray, max_batch, each, generators
        self._run = run
        self._bundles: Any = None
        self._policies: dict[JobName, _Model] = {}
        self._drawing: dict[str, _Model] = {}
        self._asked: dict[Any, tuple[str, int]] = {}
        self._polled = -math.inf
        self.statistics: list[Statistics] = []

    def has_room(self, job: Job, in_use: set[JobName]) -> bool:
        """Return whether the job's policy is there or can come now; else some jobs in use must end before it can."""
        name = (job.arm, job.seed)
        return not self._serves(job) or self._is_up(name) or len(in_use - {name}) < POLICIES_AT_A_TIME

    def of(self, job: Job, worker: int, in_use: set[JobName]) -> Served:
        """Return the models that worker number ``worker`` asks for a job; its own ones are not among them.

        Args:
            job: the job.
            worker: the worker's number; neighbours ask different actors.
            in_use: jobs with chains under way; the actors of others make room.  See :meth:`has_room`.

        Raises:
            UserError: a model cannot be loaded, or the GPUs are in use.
        """
        name = (job.arm, job.seed)
        if self._serves(job) and not self._is_up(name):
            for idle in set(self._policies) - in_use - {name}:
                self.drop(idle)
        self.prepare(job)
        drawing = self._drawing.get(_key(job.generator)) if job.generator else None
        return Served(self._nth(self._policies.get(name), worker), self._nth(drawing, worker))

    def prepare(self, job: Job) -> None:
        """Begin to load the models whose turn is next: that takes seconds, for which no worker should wait."""
        name = (job.arm, job.seed)
        if self._serves(job) and name not in self._policies:
            self._policies[name] = self._launched(job.policy)
        drawn = job.generator
        if self._max_batch > 0 and drawn is not None and drawn.windowed and _key(drawn) not in self._drawing:
            self._drawing[_key(drawn)] = self._launched(drawn)

    def drop(self, name: JobName) -> None:
        """Let the actors of a job's policy go; its next chain starts new ones."""
        if name in self._policies:
            self.statistics += self._let_go(self._policies.pop(name))

    def replace(self, job: Job, served: Served, lost: str) -> bool:
        """Start a new actor in the place of one that is gone for good or hangs; the others go on.

        Args:
            job: whose chain it was.
            served: the models that it asked.
            lost: which of them is gone, ``"policy"`` or ``"generator"``.

        Returns:
            False where somebody else said so before.
        """
        gone: Any = served.policy if lost == "policy" else served.generator
        model = self._policies.get((job.arm, job.seed))
        if lost == "generator":
            model = self._drawing.get(_key(job.generator)) if job.generator else None
        if model is None or gone not in model.known:
            return False
        number = model.known.index(gone)
        self._ray.kill(model.actors[number])
        model.actors[number] = self._actor(model.source, self._places(model.source)[number])
        fact = gone.spec if isinstance(gone, RemotePolicy) else gone.frames
        model.known[number] = type(gone)(fact, model.actors[number], PATIENCE_S)
        return True

    def poll(self) -> list[tuple[str, int, Statistics]]:
        """Return (model, number, statistics) of the actors that have told theirs since the last call; waits for none.

        They are asked again every few seconds.
        """
        now = time.monotonic()
        if now - self._polled > POLL_S:
            self._polled, self._asked = now, {}
            models = (*(("policy", one) for one in self._policies.values()),
                      *(("generator", one) for one in self._drawing.values()))  # fmt: skip
            for model, one in models:
                for number, actor in enumerate(one.actors):
                    self._asked[actor.statistics.remote()] = model, number
        waiting = list(self._asked)
        told, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
        news = []
        for reference in told:
            where = self._asked.pop(reference)
            with contextlib.suppress(self._ray.exceptions.RayError):
                news.append((*where, self._ray.get(reference)))
        return news

    def close(self) -> None:
        """Let everything go."""
        for name in list(self._policies):
            self.drop(name)
        for key in list(self._drawing):
            self._let_go(self._drawing.pop(key))
        if self._bundles is not None:
            self._ray.util.remove_placement_group(self._bundles)
            self._bundles = None

    def _serves(self, job: Job) -> bool:
        return self._max_batch > 0 and job.policy.name not in BUILT_IN

    def _is_up(self, name: JobName) -> bool:
        return name in self._policies and bool(self._policies[name].known)

    def _launched(self, source: PolicySource | GeneratorSource) -> _Model:
        return _Model(source, [self._actor(source, place) for place in self._places(source)])

    def _nth(self, model: _Model | None, worker: int) -> Any:
        """Return how a worker knows its actor of a model, as soon as all are up."""
        if model is None:
            return None
        if not model.known:
            try:
                facts = self._ray.get([actor.spec.remote() for actor in model.actors])
            except self._ray.exceptions.RayTaskError as error:
                raise UserError(f"{model.name} cannot be loaded: {error.cause}") from None
            except self._ray.exceptions.RayActorError as error:
                lines = str(error).strip().splitlines()
                raise UserError(f"{model.name} cannot be loaded: {lines[-1] if lines else error}") from None
            remote: Any = RemotePolicy if isinstance(model.source, PolicySource) else RemoteGenerator
            model.known = [remote(*pair, patience_s=PATIENCE_S) for pair in zip(facts, model.actors, strict=True)]
        return model.known[worker % len(model.known)]

    def _let_go(self, model: _Model) -> list[Statistics]:
        told: list[Statistics] = []
        for actor in model.actors:
            with contextlib.suppress(self._ray.exceptions.RayError):
                told.append(self._ray.get(actor.statistics.remote(), timeout=5.0))
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)
        return told

    def _actor(self, source: PolicySource | GeneratorSource, place: dict[str, Any]) -> Any:
        kind: Any = InferenceActor if isinstance(source, PolicySource) else GeneratorActor
        made = self._ray.remote(num_cpus=0, max_restarts=RESTARTS, max_task_retries=-1, max_concurrency=1000)(kind)
        return made.options(**place).remote(source, self._max_batch, tuple(sys.path), self._run)

    def _places(self, source: PolicySource | GeneratorSource) -> list[dict[str, Any]]:
        """Return one set of actor options for each actor of a model."""
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        if source.device.startswith("cpu") or gpus == 0:
            return [{}] * (self._each or 1)
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self._bundles is None:
            self._bundles = self._ray.util.placement_group([{"GPU": 1}] * gpus, strategy="PACK")
            if not self._bundles.wait(RESERVE_S):
                raise UserError(
                    f"the {gpus} GPUs of this cluster did not come free in {RESERVE_S:.0f} s; "
                    "stop other Ray jobs or use --inference local"
                )
        each = self._each or gpus
        share = 1 / ((POLICIES_AT_A_TIME + self._generators) * math.ceil(each / gpus))
        return [
            {
                "num_gpus": share,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(self._bundles, number % gpus),
            }
            for number in range(each)
        ]


def _key(source: GeneratorSource) -> str:
    return f"{source.name} {json.dumps(dict(source.options), sort_keys=True, default=str)}"


def world_models(jobs: Sequence[Job]) -> int:
    """Return how many different world models some jobs ask an actor for."""
    return len({_key(job.generator) for job in jobs if job.generator is not None and job.generator.windowed})
