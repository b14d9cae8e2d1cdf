"""The inference actors of a rollout: for each policy one on every GPU, and the workers spread over them.

A run reserves its GPUs once, as a Ray placement group of one bundle per GPU, so that Ray puts exactly one actor of a
policy on each.  Several policies share a GPU for the time that one arm's last chains and the next arm's first overlap.
"""

from __future__ import annotations

import contextlib
import math
import sys
from typing import Any

from bench.errors import UserError
from bench.rollout.actors import InferenceActor, Job
from bench.rollout.inference import PATIENCE_S, RemotePolicy
from bench.rollout.sources import BUILT_IN, PolicySource

RESERVE_S = 60.0
"""How long the GPUs may take to come free before they are said to be in use."""

POLICIES_AT_A_TIME = 4
"""On one GPU: that of the chains under way, the next one, and room for slow ends."""

JobName = tuple[str, int]
Statistics = dict[str, float | int | None]


class Servers:
    """Starts a policy's inference actors before its first chain is handed out and lets them go when its last is done.

    Args:
        ray: the connected ``ray`` module.
        max_batch: batch size of every forward; 0 where no policy is served.
        each: actors per policy; None for one per GPU of the cluster, or one where the policy runs on the CPU.
    """

    def __init__(self, ray: Any, max_batch: int, each: int | None = None) -> None:
        self._ray, self._max_batch, self._each = ray, max_batch, each
        self._bundles: Any = None
        self._actors: dict[JobName, list[Any]] = {}
        self._policies: dict[JobName, list[RemotePolicy]] = {}
        self.statistics: list[Statistics] = []

    def has_room(self, job: Job, in_use: set[JobName]) -> bool:
        """Return whether the job's policy is there or can come now; else some jobs in use must end before it can."""
        name = (job.arm, job.seed)
        served = self._max_batch > 0 and job.policy.name not in BUILT_IN
        return not served or name in self._policies or len(in_use - {name}) < POLICIES_AT_A_TIME

    def of(self, job: Job, worker: int, in_use: set[JobName]) -> RemotePolicy | None:
        """Return the policy that worker number ``worker`` asks, or None where each worker has its own.

        Args:
            job: the job.
            worker: the worker's number; neighbours ask different actors.
            in_use: jobs with chains under way; the actors of others make room.  See :meth:`has_room`.

        Raises:
            UserError: the policy cannot be loaded, or the GPUs are in use.
        """
        if self._max_batch == 0 or job.policy.name in BUILT_IN:
            return None
        name = (job.arm, job.seed)
        if name not in self._policies:
            for idle in set(self._actors) - in_use - {name}:
                self.drop(idle)
            self._start(name, job.policy)
        served = self._policies[name]
        return served[worker % len(served)]

    def prepare(self, job: Job) -> None:
        """Begin to load the policy whose turn is next: that takes seconds, for which no worker should wait."""
        if self._max_batch > 0 and job.policy.name not in BUILT_IN:
            self._launch((job.arm, job.seed), job.policy)

    def drop(self, name: JobName) -> None:
        """Let a job's actors go; its next chain starts new ones."""
        self._policies.pop(name, None)
        for actor in self._actors.pop(name, []):
            with contextlib.suppress(self._ray.exceptions.RayError):
                self.statistics.append(self._ray.get(actor.statistics.remote(), timeout=5.0))
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)

    def replace(self, job: Job, lost: RemotePolicy) -> bool:
        """Start a new actor in the place of one that is gone for good or hangs; the others go on.

        Returns:
            False where somebody else said so before.
        """
        name = (job.arm, job.seed)
        served = self._policies.get(name, [])
        if lost not in served:
            return False
        number = served.index(lost)
        self._ray.kill(self._actors[name][number])
        place = self._places(job.policy)[number]
        self._actors[name][number] = self._actor(job.policy, place)
        served[number] = RemotePolicy(lost.spec, self._actors[name][number], PATIENCE_S)
        return True

    def close(self) -> None:
        """Let everything go."""
        for name in list(self._actors):
            self.drop(name)
        if self._bundles is not None:
            self._ray.util.remove_placement_group(self._bundles)
            self._bundles = None

    def _launch(self, name: JobName, source: PolicySource) -> None:
        if name not in self._actors:
            self._actors[name] = [self._actor(source, place) for place in self._places(source)]

    def _start(self, name: JobName, source: PolicySource) -> None:
        self._launch(name, source)
        try:
            specs = self._ray.get([actor.spec.remote() for actor in self._actors[name]])
        except self._ray.exceptions.RayTaskError as error:
            raise UserError(f"policy {source.name!r} cannot be loaded: {error.cause}") from None
        except self._ray.exceptions.RayActorError as error:
            lines = str(error).strip().splitlines()
            raise UserError(f"policy {source.name!r} cannot be loaded: {lines[-1] if lines else error}") from None
        self._policies[name] = [
            RemotePolicy(*pair, patience_s=PATIENCE_S) for pair in zip(specs, self._actors[name], strict=True)
        ]

    def _actor(self, source: PolicySource, place: dict[str, Any]) -> Any:
        kind = self._ray.remote(num_cpus=0, max_restarts=3, max_task_retries=-1, max_concurrency=1000)(InferenceActor)
        return kind.options(**place).remote(source, self._max_batch, import_path=tuple(sys.path))

    def _places(self, source: PolicySource) -> list[dict[str, Any]]:
        """Return one set of actor options for each actor of a policy."""
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
        share = 1 / (POLICIES_AT_A_TIME * math.ceil(each / gpus))
        return [
            {
                "num_gpus": share,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(self._bundles, number % gpus),
            }
            for number in range(each)
        ]
