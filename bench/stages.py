"""The stage graph's engine and its run folder: what is finished is never run again, what was cut short continues.

A stage has a name, a configuration and finished stages as inputs; its folder carries the hash of all three, and its
``stage.json``, written last, is the proof that it is whole.  What the stages of the main job do stands in
``bench/pipeline.py``.  Ray enters the harness here (:func:`parallel`) and in ``bench/rollout/``, nowhere else.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench import atomic, scratch
from bench.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Finished:
    """A stage that is done.

    Attributes:
        name: the stage's name, e.g. ``train-anchor-0``.
        key: hash of name, configuration and inputs.
        directory: where its output lies.
        outputs: small JSON data that the stage returned.
        seconds: wall time of the attempt that finished it.
        reused: whether it was already finished when this run asked for it.
    """

    name: str
    key: str
    directory: Path
    outputs: Mapping[str, Any]
    seconds: float
    reused: bool


@dataclass(frozen=True)
class Wanted:
    """A stage that a run asks for: its name, everything that its result depends on, and the stages that it reads."""

    name: str
    config: Mapping[str, Any]
    inputs: Sequence[Finished]


@dataclass(frozen=True)
class _Plan:
    wanted: Wanted
    key: str
    directory: Path


def content_key(*parts: Any) -> str:
    """Return the SHA-256 of JSON data, the same on every machine and for every order of keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class RunFolder:
    """One run's output folder: ``stages/NAME-KEY/`` and, beside them, what the run writes at its end.

    Args:
        directory: created if need be.  One process at a time may hold it.
        say: called with one line when a stage starts, is reused or ends.
        stages: where the stages are kept, for runs that share them one after the other; None for within.
    """

    def __init__(self, directory: Path, say: Callable[[str], object] | None = None, stages: Path | None = None) -> None:
        self.directory = directory
        self._stages = stages or directory / "stages"
        self._say = say or (lambda _: None)
        self.finished: dict[str, Finished] = {}
        atomic.make_directory(directory)
        atomic.make_directory(self._stages)

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Hold the folder for this process; a second run into it is refused, a dead one's lock is gone with it."""
        with atomic.locked(self.directory):
            yield self

    def stage(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: Sequence[Finished],
        work: Callable[[Path], Mapping[str, Any]],
    ) -> Finished:
        """Return the finished stage, running ``work(folder)`` if no earlier run has finished it.

        Args:
            name: unique within the run.
            config: everything that the result depends on, as JSON data.
            inputs: the stages whose output is read.
            work: does the job inside the folder it is given, continuing what an interrupted attempt left there.
        """
        plan = self._plan(Wanted(name, config, inputs))
        done = self._read_proof(plan)
        if done is None:
            self._begin(plan)
            started = time.monotonic()
            done = self._prove(plan, work(plan.directory), time.monotonic() - started)
        return self._end(done)

    def stages(
        self,
        wanted: Sequence[Wanted],
        jobs: Callable[[int, Path], Job],
        work: Callable[[Job], Mapping[str, Any]],
        **options: Any,
    ) -> list[Finished]:
        """Return several independent stages, running those that are not finished side by side.

        Args:
            wanted: the stages.
            jobs: gives the job of stage number i, told its folder.
            work: an importable function that does one job and returns the stage's outputs; ``seconds`` among them is
                taken as the time that it needed, which does not show from here.
            options: for :func:`parallel`.
        """
        plans = [self._plan(one) for one in wanted]
        done = [self._read_proof(plan) for plan in plans]
        open_ = [number for number, finished in enumerate(done) if finished is None]
        for number in open_:
            self._begin(plans[number])
        started = time.monotonic()

        def ended(position: int, outputs: Mapping[str, Any]) -> None:
            number = open_[position]
            seconds = float(outputs.get("seconds", time.monotonic() - started))
            done[number] = self._end(self._prove(plans[number], outputs, seconds))

        parallel(work, [jobs(number, plans[number].directory) for number in open_], each=ended, **options)
        return [self._end(finished) if finished.reused else finished for finished in done if finished is not None]

    def found(self, wanted: Wanted) -> Finished | None:
        """Return the stage if an earlier run has finished it."""
        return self._read_proof(self._plan(wanted))

    def reopen(self, wanted: Wanted) -> None:
        """Take back the proof of a stage, so that it is gone on with; what it holds stays."""
        (self._plan(wanted).directory / "stage.json").unlink(missing_ok=True)

    def directory_of(self, wanted: Wanted) -> Path:
        """Return the stage's folder, whether it exists or not."""
        return self._plan(wanted).directory

    def _plan(self, wanted: Wanted) -> _Plan:
        key = content_key(wanted.name, dict(wanted.config), [(stage.name, stage.key) for stage in wanted.inputs])
        return _Plan(wanted, key, self._stages / f"{wanted.name}-{key[:12]}")

    def _begin(self, plan: _Plan) -> None:
        self._say(f"{plan.wanted.name}: {'continuing' if plan.directory.exists() else 'running'}")
        plan.directory.mkdir(parents=True, exist_ok=True)

    def _prove(self, plan: _Plan, outputs: Mapping[str, Any], seconds: float) -> Finished:
        """Write the proof that the stage is whole."""
        wanted, seconds = plan.wanted, round(seconds, 2)
        record: dict[str, Any] = {
            "name": wanted.name,
            "key": plan.key,
            "config": dict(wanted.config),
            "outputs": dict(outputs),
        }
        record |= {"seconds": seconds, "inputs": {stage.name: stage.key for stage in wanted.inputs}}
        atomic.write_json(plan.directory / "stage.json", record)
        return Finished(wanted.name, plan.key, plan.directory, dict(outputs), seconds, reused=False)

    def _end(self, done: Finished) -> Finished:
        self._say(f"{done.name}: {'already done' if done.reused else f'done in {done.seconds:.0f} s'}")
        self.finished[done.name] = done
        return done

    @staticmethod
    def _read_proof(plan: _Plan) -> Finished | None:
        proof = plan.directory / "stage.json"
        try:
            data = json.loads(proof.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            raise UserError(f"{proof} is not readable JSON; delete its folder to run the stage again") from None
        if data.get("key") != plan.key:
            raise UserError(f"{proof} belongs to another stage; delete its folder to run the stage again")
        return Finished(data["name"], plan.key, plan.directory, data["outputs"], data["seconds"], reused=True)


def parallel(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    cpus: int = 1,
    gpus: float = 0,
    ray_address: str | None = None,
    each: Callable[[int, Result], object] | None = None,
) -> list[Result]:
    """Do independent jobs as Ray tasks and return their results in the order of ``jobs``.

    Args:
        work: an importable function of one job; a job should be small and name what it reads by path.
        jobs: the jobs.
        workers: how many run at once; None for as many as there are processors, 0 for here and one by one.
        cpus: processors that one job declares.
        gpus: GPUs that one job declares.
        ray_address: a running cluster, or None for this machine.
        each: called with (position, result) as each job ends, in whatever order they do.

    Raises:
        Exception: what the first failing job raised, as itself; the others are cancelled.
    """
    if workers == 0 or not jobs:
        results = []
        for position, job in enumerate(jobs):
            results.append(work(job))
            if each:
                each(position, results[-1])
        return results
    from bench.rollout.session import start_ray

    ray = start_ray(ray_address)
    at_once = max(1, min(len(jobs), workers or processors() // cpus or 1))
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(_settled).options(name=work.__name__)
    run = "" if gpus else scratch.this_run()  # on a GPU, what one compiles others find in the temporary folder
    waiting = list(enumerate(jobs))[::-1]
    running: dict[Any, int] = {}
    done: dict[int, Result] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                position, job = waiting.pop()
                running[task.remote(run, work, job)] = position
            for reference in ray.wait(list(running), num_returns=1)[0]:
                position = running.pop(reference)
                done[position] = ray.get(reference)
                if each:
                    each(position, done[position])
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None
    except ray.exceptions.RayError as error:
        raise UserError(f"a Ray worker was lost three times: {str(error).splitlines()[0]}; run again") from error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
    return [done[position] for position in range(len(jobs))]


def _settled(run: str, work: Callable[[Job], Result], job: Job) -> Result:
    """Do a job in a Ray worker; with ``run``, its temporary files go wherever and however that worker ends."""
    if run:
        scratch.settle_in(run)
    return work(job)


def disk_full(error: BaseException) -> bool:
    """Say whether an exception, or what caused it, is the disk or a quota running full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen = getattr(seen, "cause", None) or seen.__cause__ or seen.__context__
    return False


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
