"""What runs in the other processes: the worker that rolls chains out and the actor that answers for a policy.

Neither writes a file or raises across the border: a worker hands back an :class:`Outcome`, and what its process may
die of (a simulator that crashes or hangs) the driver sees as a lost worker.
"""

from __future__ import annotations

import faulthandler
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.rollout.chain import STEPS_PER_SUBTASK, Chain, ChainResult, World, WristMode, run_chain
from bench.rollout.film import Film, Films, is_kept
from bench.rollout.inference import MAX_BATCH, MAX_WAIT_S, BatchingServer, RemotePolicy
from bench.rollout.sources import GeneratorSource, PolicySource, Script, check_fit
from bench.rollout.world import WorldOptions, world_facts
from policies.api import ANCHOR, WRIST, Observation, Policy, PolicyError, PolicySpec
from worldmodel.api import WorldModelError, WristGenerator

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
class Outcome:
    """How an attempt at a chain ended.

    Attributes:
        kind: ``"done"``; ``"policy"``, the policy failed and would again; ``"user"``, nothing can run like this;
            ``"fault"``, the machinery failed.
        result: the chain's result where done.
        reason: one line, where not.
        film: the chain as MP4, where it was asked for.
    """

    kind: Literal["done", "policy", "user", "fault"]
    result: ChainResult | None = None
    reason: str = ""
    film: bytes | None = None


class ChainWorker:
    """Owns one world and the policies that it has met; rolls one chain out at a time.

    Args:
        world: the world's recipe.
        steps_per_subtask: step budget.
        instructions: task to sentence, or None for the evaluation sentences.
        watchdog_s: seconds without a control step after which this process ends itself; None where it must not.
        import_path: folders that the driver imports from and this process may not know yet.
        films: which chains are filmed.
    """

    def __init__(
        self,
        world: WorldOptions,
        steps_per_subtask: int = STEPS_PER_SUBTASK,
        instructions: Mapping[str, str] | None = None,
        watchdog_s: float | None = None,
        import_path: Sequence[str] = (),
        films: Films = "none",
    ) -> None:
        import_also(import_path)
        self._films = films
        self._options, self._steps, self._instructions = world, steps_per_subtask, instructions
        self._watchdog_s, self._armed = watchdog_s, 0.0
        self._world: World | None = None
        self._loaded: dict[str, tuple[Policy | Script, WristGenerator | None]] = {}

    def prepare(self) -> tuple[dict[str, Any], str]:
        """Build the world; return (facts, "") or ({}, what went wrong)."""
        try:
            self._alive()
            _one_torch_thread()
            self._world = self._options.build()
            return world_facts(self._world), ""
        except Exception as error:
            return {}, _one_line(error)
        finally:
            self._rest()

    def run(self, job: Job, chain: Chain, remote: RemotePolicy | None = None) -> Outcome:
        """Roll one chain out."""
        try:
            self._alive()
            policy, generator = self._meet(job, remote)
            if self._world is None:
                self._world = self._options.build()
            film = Film() if self._films != "none" else None
            result = run_chain(
                self._world,
                policy,
                chain,
                seed=job.seed,
                arm=job.arm,
                wrist=job.wrist,
                generator=generator,
                steps_per_subtask=self._steps,
                instructions=self._instructions,
                recorder=film,
                alive=self._alive,
            )
            kept = film is not None and is_kept(self._films, result)
            return Outcome("done", result, film=film.finish() if film is not None and kept else None)
        except PolicyError as error:
            return Outcome("policy", reason=str(error))
        except (UserError, WorldModelError) as error:
            return Outcome("user", reason=str(error))
        except Exception as error:
            self.close()
            return Outcome("fault", reason=_one_line(error))
        finally:
            self._rest()

    def close(self) -> None:
        """Close the world; the next chain builds another."""
        world, self._world = self._world, None
        if world is not None and hasattr(world, "close"):
            world.close()

    def _meet(self, job: Job, remote: RemotePolicy | None) -> tuple[Policy | Script, WristGenerator | None]:
        """Load what the job needs, once; a remote policy is only met."""
        name = f"{job.arm}/{job.seed}"
        if name not in self._loaded:
            self._loaded.clear()
            try:
                policy = remote if remote is not None else job.policy.load()
            except PolicyError as error:
                raise UserError(str(error)) from error
            check_fit(policy.spec, job.arm, (ANCHOR,) if job.wrist == "none" else (ANCHOR, WRIST))
            self._loaded[name] = policy, job.generator.load() if job.generator is not None else None
            _one_torch_thread()
        policy, generator = self._loaded[name]
        return (remote if remote is not None else policy), generator

    def _alive(self) -> None:
        """Put the watchdog off.  It is faulthandler's: a C thread that needs no GIL, so a hang inside C is seen too."""
        now = time.monotonic()
        if self._watchdog_s is not None and now - self._armed > REARM_S:
            faulthandler.dump_traceback_later(self._watchdog_s, exit=True, file=sys.__stderr__ or 2)
            self._armed = now

    def _rest(self) -> None:
        if self._watchdog_s is not None:
            faulthandler.cancel_dump_traceback_later()
            self._armed = 0.0


class InferenceActor:
    """A policy behind a :class:`BatchingServer`, as an async Ray actor."""

    def __init__(
        self,
        source: PolicySource,
        max_batch: int = MAX_BATCH,
        max_wait_s: float = MAX_WAIT_S,
        import_path: Sequence[str] = (),
    ) -> None:
        import_also(import_path)
        policy = source.load()
        if isinstance(policy, Script):
            raise UserError(f"policy {source.name!r} reads the simulator's state; use --inference local")
        self._server = BatchingServer(policy, max_batch=max_batch, max_wait_s=max_wait_s)

    async def spec(self) -> PolicySpec:
        """Return the policy's spec."""
        return self._server.policy.spec

    async def infer(self, observation: Observation, seed: int) -> NDArray[np.float32]:
        """Return the (K, 7) chunk for one observation."""
        return await self._server.infer(observation, seed)

    async def statistics(self) -> dict[str, float | int | None]:
        """Return how well the batches fill and how long requests wait."""
        return self._server.statistics()


def import_also(folders: Sequence[str]) -> None:
    """Let this process import what the driver can: a policy or world of the user's own."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


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
