"""The worker that rolls chains out, in a process of its own or in the driver's; its jobs and what it hands back.

It neither writes a file nor raises across the border: a worker hands back an :class:`Outcome`, and what its process may
die of (a simulator that crashes or hangs) the driver sees as a lost worker.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench import scratch
from bench.errors import UserError
from bench.rollout.answering import follow
from bench.rollout.chain import STEPS_PER_SUBTASK, Chain, ChainResult, WristMode, chain_course, wrist_stream
from bench.rollout.film import FilmFormat, Films, is_filmed, is_kept, new_film
from bench.rollout.inference import RemoteGenerator, RemotePolicy
from bench.rollout.models import import_also, together
from bench.rollout.sources import GeneratorSource, ModelLostError, PolicySource, Script, check_fit
from bench.rollout.spent import Stint, TimedWorld
from bench.rollout.world import WorldOptions, world_facts
from policies.api import ANCHOR, WRIST, Policy, PolicyError, StatefulPolicy
from policies.batching import Padded
from worldmodel.api import WorldModelError, WristGenerator

Mind = Policy | Script | StatefulPolicy | RemotePolicy

REARM_S = 1.0
"""How often the watchdog is told that the simulator moves; telling it starts a thread, so not at every step."""


@dataclass(frozen=True)
class Job:
    """One policy on one list of chains: a row of the table.

    Attributes:
        policy: where the actions come from.
        arm: name of the arm.
        seed: run seed, the policy's training seed.
        wrist: what the policy is shown as the wrist view.
        generator: who draws it where ``wrist`` is ``"generated"``.
    """

    policy: PolicySource
    arm: str
    seed: int
    wrist: WristMode = "real"
    generator: GeneratorSource | None = None

    def identity(self) -> dict[str, Any]:
        """Return what the job's numbers depend on besides the protocol."""
        made_by = self.generator.identity() if self.generator is not None else None
        device = self.policy.device.partition(":")[0]
        return {**self.policy.identity(), "device": device, "wrist": self.wrist, "generator": made_by}


@dataclass(frozen=True)
class Served:
    """A job's models that live in other processes; None where a worker has its own.

    Attributes:
        policy: who answers for the policy.
        generator: who draws the wrist view.
    """

    policy: RemotePolicy | None = None
    generator: RemoteGenerator | None = None

    def close(self) -> None:
        """Hang up on them."""
        for model in (self.policy, self.generator):
            if model is not None:
                model.close()


ALL_HERE = Served()


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a chain ended.

    Attributes:
        kind: ``"done"``; ``"policy"``, the policy failed and would again; ``"user"``, nothing can run like this;
            ``"unserved"``, an inference actor is gone; ``"fault"``, other machinery failed.
        result: the chain's result where done.
        reason: one line, where not.
        lost: whose actor is gone, ``"policy"`` or ``"generator"``.
        film: the chain as MP4, where it was asked for.
        stint: where the worker's time went (its clock is ``time.monotonic`` where the worker is), where done.
    """

    kind: Literal["done", "policy", "user", "unserved", "fault"]
    result: ChainResult | None = None
    reason: str = ""
    lost: str = ""
    film: bytes | None = None
    stint: Stint | None = None


class ChainWorker:
    """Rolls chains out, several side by side: while one waits for its policy, another one's world moves.

    All of them share one thread.  Physics holds the interpreter's lock, so threads would gain nothing, and a chain
    gives way only where it asks its policy.

    Args:
        world: the world's recipe; each chain under way has a world of its own.
        steps_per_subtask: step budget.
        instructions: task to sentence, or None for the evaluation sentences.
        watchdog_s: seconds without a control step after which this process ends itself; None where it must not.
        import_path: folders that the driver imports from and this process may not know yet.
        films: which chains are filmed.
        pad_to: batch size that a policy loaded here is always given; 0 for one observation at a time.
        film_format: what films are made as.
        run: the rollout whose worker this process is, for its temporary files; "" where it is the driver.
    """

    def __init__(
        self,
        world: WorldOptions,
        steps_per_subtask: int = STEPS_PER_SUBTASK,
        instructions: Mapping[str, str] | None = None,
        watchdog_s: float | None = None,
        import_path: Sequence[str] = (),
        films: Films = "none",
        pad_to: int = 0,
        film_format: FilmFormat = "mp4",
        run: str = "",
    ) -> None:
        import_also(import_path)
        if run:
            scratch.settle_in(run)
        self._films, self._film_format, self._pad_to = films, film_format, pad_to
        self._options, self._steps, self._instructions = world, steps_per_subtask, instructions
        self._watchdog_s, self._armed, self._under_way = watchdog_s, 0.0, 0
        self._free: list[TimedWorld] = []
        self._loaded: dict[str, tuple[Mind, Any]] = {}

    async def prepare(self, worlds: int = 1) -> tuple[dict[str, Any], str]:
        """Build so many worlds; return (facts, "") or ({}, what went wrong)."""
        try:
            self._begin()
            _one_torch_thread()
            for _ in range(worlds):
                self._free.append(TimedWorld(self._options.build()))
                self._alive()
            return {**world_facts(self._free[0])}, ""
        except Exception as error:
            return {}, _one_line(error)
        finally:
            self._end()

    async def pulse(self) -> int:
        """Return this process's id, as soon as it comes to it: the driver asks whether the worker is alive."""
        return os.getpid()

    async def run(self, job: Job, chain: Chain, served: Served = ALL_HERE) -> Outcome:
        """Roll one chain out; ``served`` are the models in other processes."""
        world: TimedWorld | None = None
        try:
            self._begin()
            policy, generator = self._meet(job, served)
            world = self._free.pop() if self._free else TimedWorld(self._options.build())
            outcome = await self._roll(world, policy, generator, job, chain)
            self._free.append(world)
            return outcome
        except Exception as error:
            return self._failed(error, world)
        finally:
            served.close()
            self._end()

    async def _roll(self, world: TimedWorld, policy: Mind, generator: Any, job: Job, chain: Chain) -> Outcome:
        film = new_film(self._film_format) if is_filmed(self._films, chain.chain_id) else None
        began = time.monotonic()
        world.spent.clear()
        stream = wrist_stream(job.wrist, generator, job.seed, chain)
        course = chain_course(
            world,
            policy,
            chain,
            seed=job.seed,
            arm=job.arm,
            wrist=job.wrist,
            steps_per_subtask=self._steps,
            instructions=self._instructions,
            recorder=film,
        )
        result = await follow(course, policy, stream, alive=self._alive, spent=world.spent)
        kept = film is not None and is_kept(self._films, result)
        footage = film.finish() if film is not None and kept else None
        return Outcome("done", result, film=footage, stint=Stint(began, time.monotonic(), dict(world.spent)))

    def _failed(self, error: Exception, world: TimedWorld | None) -> Outcome:
        """Say how an attempt failed; a world goes back unless it may be what is broken."""
        innocent = isinstance(error, (PolicyError, ModelLostError, UserError, WorldModelError))
        if world is not None and innocent:
            self._free.append(world)
        elif world is not None:
            world.close()
        if isinstance(error, PolicyError):
            return Outcome("policy", reason=str(error))
        if isinstance(error, ModelLostError):
            return Outcome("unserved", reason=str(error), lost=error.model)
        if innocent:
            return Outcome("user", reason=str(error))
        return Outcome("fault", reason=_one_line(error))

    def close(self) -> None:
        """Close the worlds; the next chain builds another."""
        while self._free:
            self._free.pop().close()

    def _meet(self, job: Job, served: Served) -> tuple[Mind, WristGenerator | RemoteGenerator | None]:
        """Load what the job needs, once; what is served elsewhere is only met."""
        name = f"{job.arm}/{job.seed}"
        if name not in self._loaded:
            self._loaded.clear()
            self._loaded[name] = self._policy(job, served), self._generator(job, served)
            _one_torch_thread()
        policy, generator = self._loaded[name]
        return served.policy or policy, served.generator or generator

    def _policy(self, job: Job, served: Served) -> Mind:
        try:
            policy: Any = served.policy or job.policy.load()
        except PolicyError as error:
            raise UserError(str(error)) from error
        check_fit(policy.spec, job.arm, (ANCHOR,) if job.wrist == "none" else (ANCHOR, WRIST))
        if self._pad_to and isinstance(policy, Policy):
            return Padded(policy, self._pad_to)
        mind: Mind = policy
        return mind

    def _generator(self, job: Job, served: Served) -> Any:
        if served.generator is not None or job.generator is None:
            return None
        return together(job.generator, self._pad_to) if self._pad_to else job.generator.load()

    def _begin(self) -> None:
        self._under_way += 1
        self._alive()

    def _alive(self) -> None:
        """Put the watchdog off.  It is faulthandler's: a C thread that needs no GIL, so a hang inside C is seen too."""
        now = time.monotonic()
        if self._watchdog_s is not None and now - self._armed > REARM_S:
            faulthandler.dump_traceback_later(self._watchdog_s, exit=True, file=sys.__stderr__ or 2)
            self._armed = now

    def _end(self) -> None:
        self._under_way -= 1
        if self._watchdog_s is not None and self._under_way == 0:
            faulthandler.cancel_dump_traceback_later()
            self._armed = 0.0


def _one_torch_thread() -> None:
    """Workers share the machine's cores: one thread each, once torch is there at all."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _one_line(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
