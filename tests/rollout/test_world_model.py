"""A real world model in the loop, in an actor that draws for all workers: the same rows however they ask."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from rollout_doubles import TASKS, chains

from bench.errors import UserError
from bench.rollout.actors import Job
from bench.rollout.ledger import LEDGER_FILE, Ledger
from bench.rollout.servers import Servers
from bench.rollout.sources import GeneratorSource, PolicySource
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions
from worldmodel.api import Clip
from worldmodel.stage1_config import Stage1Config
from worldmodel.stage1_model import Scene, Stage1
from worldmodel.stage2 import train_stage2
from worldmodel.stage2_config import Stage2Config
from worldmodel.vggt.model import Vggt

SIDES = {"anchor": 8, "wrist": 4}


@pytest.fixture(scope="module")
def world_model(tmp_path_factory: pytest.TempPathFactory) -> GeneratorSource:
    """Tiny, hardly trained: what it draws is noise that depends on all it sees."""
    folder = tmp_path_factory.mktemp("wristworld")
    torch.manual_seed(0)
    config = Stage1Config.tiny()
    stage1 = Stage1(config, Vggt(config.vggt), Scene(depth_m=1.0, scale_m=1.0), {})
    random = np.random.default_rng(0)
    clip = Clip({name: random.integers(0, 255, (5, side, side, 3), np.uint8) for name, side in SIDES.items()})
    train_stage2([clip], stage1, Stage2Config.tiny(), folder, steps=1, progress=False)  # type: ignore[arg-type]
    return GeneratorSource.trained(folder)


def run(out: Path, generator: GeneratorSource, workers: int, count: int = 4, **options: Any) -> Any:
    world = WorldOptions(factory="rollout_doubles:PointWorld", options={"slow_s": options.pop("slow_s", 0.0)})
    return roll_out(
        PolicySource("rollout_doubles:WristReader"), chains(count), arm="generated", seed=3, workers=workers, out=out,
        world=world, steps_per_subtask=9, instructions={task: task for task in TASKS}, progress=False,
        wrist="generated", generator=generator, **{"inference": "actor", "max_batch": 3, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, world_model: GeneratorSource) -> Any:
    """Four chains one after the other in this process, in the actor's batches."""
    rows = run(tmp_path_factory.mktemp("serial"), world_model, 0)
    assert len({row.trace for row in rows}) == 4
    return rows


@pytest.mark.parametrize(("workers", "lanes", "servers"), [pytest.param(1, 4, 1, marks=pytest.mark.slow), (2, 2, 2)])
def test_rows_do_not_depend_on_who_asks_beside(
    ray_session: Any, tmp_path: Path, world_model: GeneratorSource, undisturbed: Any, workers: int, lanes: int,
    servers: int,
) -> None:  # fmt: skip
    rows = run(tmp_path, world_model, workers, lanes=lanes, servers=servers)
    assert rows == undisturbed
    assert [row.trace for row in rows] == [row.trace for row in undisturbed]


@pytest.mark.slow
def test_actor_that_dies_is_replaced_and_changes_no_row(
    ray_session: Any, tmp_path: Path, world_model: GeneratorSource, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed for good: Ray's own restarts would hide that the driver sees to it."""
    monkeypatch.setattr("bench.rollout.servers.RESTARTS", 0)
    killed: list[int] = []

    def kill() -> None:
        ledger, until = tmp_path / LEDGER_FILE, time.monotonic() + 60
        while not killed and time.monotonic() < until:
            time.sleep(0.01)
            if ledger.exists() and b"solved" in ledger.read_bytes():
                for process in psutil.Process().children(recursive=True):
                    if "".join(process.cmdline()).startswith("ray::GeneratorActor"):
                        process.kill()
                        killed.append(process.pid)

    reaper = threading.Thread(target=kill)
    reaper.start()
    rows = run(tmp_path, world_model, 1, lanes=1, slow_s=0.01)
    reaper.join()
    assert killed
    assert rows == undisturbed


@pytest.mark.slow
def test_locally_it_draws_in_the_worker_as_ever(ray_session: Any, tmp_path: Path, world_model: GeneratorSource) -> None:
    here = run(tmp_path / "0", world_model, 0, count=2, inference="local")
    assert run(tmp_path / "1", world_model, 1, count=2, inference="local") == here


@pytest.mark.slow
def test_it_is_shared_by_all_jobs_and_told_apart_from_the_policies(
    ray_session: Any, world_model: GeneratorSource
) -> None:
    servers = Servers(ray_session, max_batch=2, generators=1)
    policy = PolicySource("rollout_doubles:WristReader")
    jobs = [Job(policy, "generated", seed, "generated", world_model) for seed in (0, 1)]
    try:
        first, second = (servers.of(job, 0, {("generated", 0)}) for job in jobs)
        assert first.generator is second.generator
        assert first.policy is not second.policy
        assert first.generator is not None
        assert first.generator.frames == Stage2Config.tiny().frames
        assert servers.replace(jobs[0], first, "generator")
        assert not servers.replace(jobs[1], second, "generator"), "the same loss is told of once"
        assert servers.of(jobs[1], 0, set()).generator is not first.generator
        echo = Job(policy, "generated", 2, "generated", GeneratorSource("rollout_doubles:EchoGenerator"))
        assert servers.of(echo, 0, set()).generator is None, "its streams remember: each worker has its own"
    finally:
        servers.close()


@pytest.mark.slow
def test_world_model_that_cannot_be_loaded_is_named(ray_session: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"world model 'worldmodel\.baselines:load_generator' cannot be loaded"):
        run(tmp_path / "out", GeneratorSource.trained(tmp_path / "empty"), 1)
    with Ledger(tmp_path / "out" / LEDGER_FILE) as ledger:
        assert not ledger.completed()
