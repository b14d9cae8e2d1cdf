"""Rollouts in parallel: the same rows whoever runs them, and no fault that becomes a score."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rollout_doubles import TASKS, chains

from bench.errors import UserError
from bench.rollout.actors import Job
from bench.rollout.chain import ChainResult
from bench.rollout.ledger import Ledger
from bench.rollout.sources import GeneratorSource, PolicySource
from bench.rollout.workers import LEDGER_FILE, roll_out, roll_out_jobs
from bench.rollout.world import WorldOptions

SAID = {task: f"please {task}" for task in TASKS}
NOISY = PolicySource("rollout_doubles:NoisyPolicy")


def world(**options: Any) -> WorldOptions:
    return WorldOptions(factory="rollout_doubles:PointWorld", options=options)


def run(out: Path | Ledger, count: int = 12, workers: int = 0, **options: Any) -> list[ChainResult]:
    defaults = {"policy": NOISY, "arm": "real", "seed": 3, "world": world(), "steps_per_subtask": 25}
    settings = {**defaults, "instructions": SAID, "progress": False, **options}
    return roll_out(settings.pop("policy"), chains(count), workers=workers, out=out, **settings)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[ChainResult]:
    """Twelve chains run one after the other without Ray: what every other way must reproduce."""
    rows = run(tmp_path_factory.mktemp("serial"))
    assert len({row.solved for row in rows}) > 2, "the doubles should give chains of different length"
    return rows


@pytest.mark.parametrize(("workers", "lanes"), [(1, 1), (2, 1), (5, 1), (1, 4), (2, 3)])
def test_rows_do_not_depend_on_the_number_of_workers(
    ray_session: Any, tmp_path: Path, undisturbed: list[ChainResult], workers: int, lanes: int
) -> None:
    assert run(tmp_path, workers=workers, lanes=lanes) == undisturbed


def test_rows_do_not_depend_on_the_order(tmp_path: Path, undisturbed: list[ChainResult]) -> None:
    backwards = roll_out(
        NOISY, chains(12)[::-1], arm="real", seed=3, workers=0, out=tmp_path, world=world(),
        steps_per_subtask=25, instructions=SAID, progress=False,
    )  # fmt: skip
    assert backwards == undisturbed


@pytest.mark.parametrize(("workers", "lanes", "servers"), [(0, 1, 1), (2, 1, 1), (1, 4, 1), (2, 3, 2)])
def test_batching_actor_gives_the_same_rows(
    ray_session: Any, tmp_path: Path, undisturbed: list[ChainResult], workers: int, lanes: int, servers: int
) -> None:
    asked = {"inference": "actor", "max_batch": 4, "lanes": lanes, "servers": servers}
    assert run(tmp_path, workers=workers, **asked) == undisturbed


def test_chain_of_a_dead_or_broken_worker_is_run_again(
    ray_session: Any, tmp_path: Path, undisturbed: list[ChainResult]
) -> None:
    trouble = {2: "die", 5: "raise", 7: "hang"}
    marks = tmp_path / "marks"
    marks.mkdir()
    broken = world(trouble=trouble, once=str(marks))
    assert run(tmp_path / "out", workers=2, world=broken, watchdog_s=6.0) == undisturbed
    assert len(list(marks.iterdir())) == 3


def test_chain_that_kills_twice_is_missing_and_never_zero(
    ray_session: Any, tmp_path: Path, undisturbed: list[ChainResult]
) -> None:
    rows = run(tmp_path, workers=2, world=world(trouble={4: "die", 6: "raise"}))
    assert rows == [row for row in undisturbed if row.chain_id not in (4, 6)]
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        missing = ledger.missing("real", 3)
    assert {key[2] for key in missing} == {4, 6}
    assert missing[("real", 3, 4)].count("worker lost") == 2
    assert "lost its connection" in missing[("real", 3, 6)]
    # the same command later, on a machine that is well, fills the gaps (the trouble is no part of the protocol)
    assert run(tmp_path, workers=0) == undisturbed
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        assert ledger.missing() == {}


@pytest.mark.parametrize(
    ("fault", "words", "workers", "inference"),
    [
        ("raise", "KeyError: 'no such weight'", 0, "local"),
        ("nan", "gave nan", 0, "local"),
        ("nan", "gave nan", 2, "local"),
        ("raise", "KeyError: 'no such weight'", 2, "actor"),
    ],
)
def test_failing_policy_ends_the_run_and_is_named(
    ray_session: Any, tmp_path: Path, fault: str, words: str, workers: int, inference: str
) -> None:
    bad = PolicySource("rollout_doubles:BadPolicy", {"fault": fault})
    with pytest.raises(UserError, match=f"arm 'real', chain \\d+, tried 2 times: .*{words}"):
        run(tmp_path, workers=workers, policy=bad, inference=inference)


def test_policy_that_does_not_fit_is_refused_before_the_first_chain(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'noisy' needs view wrist; arm 'anchor' shows anchor at test"):
        run(tmp_path, arm="anchor", wrist="none")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rollout_doubles:Nobody", "has no attribute 'Nobody'"),
        ("no_such_module:x", "No module named"),
        ("nonsense", "give a .*folder, an address, 'module:callable' or a name: names are expert, random, hold"),
        ("rollout_doubles:EchoStream", "EchoStream without spec and act"),
    ],
)
def test_unknown_policy_is_explained(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, policy=PolicySource(name))


@pytest.mark.parametrize("workers", [0, 1])
def test_world_that_cannot_be_built_is_a_user_error(ray_session: Any, tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match=r"cannot be built: .*unexpected keyword argument 'colour'"):
        run(tmp_path, workers=workers, world=world(colour="red"))


def test_finished_chains_are_not_run_again(tmp_path: Path, undisturbed: list[ChainResult]) -> None:
    assert run(tmp_path, count=5) == undisturbed[:5]
    before = (tmp_path / LEDGER_FILE).read_bytes()
    assert run(tmp_path, count=12) == undisturbed
    assert (tmp_path / LEDGER_FILE).read_bytes().startswith(before)
    assert run(tmp_path, count=4, workers=2) == undisturbed[:4]  # needs neither worker nor Ray
    lines = [json.loads(line) for line in (tmp_path / "chains.jsonl").read_text().splitlines()]
    assert [ChainResult.from_json(line) for line in lines] == undisturbed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps_per_subtask": 26}, "steps_per_subtask"),
        ({"instructions": {**SAID, "lift": "up!"}}, "instructions"),
        ({"policy": PolicySource("rollout_doubles:NoisyPolicy", {"mean": 0.5})}, "policy real/3"),
        ({"wrist": "generated", "generator": GeneratorSource("rollout_doubles:EchoGenerator")}, "policy real/3"),
        ({"world": WorldOptions(scene="A", factory="rollout_doubles:PointWorld")}, "scene"),
    ],
)
def test_resume_under_another_protocol_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    run(tmp_path, count=2)
    with pytest.raises(UserError, match=f"differing: {named}"):
        run(tmp_path, count=3, **change)


def test_many_arms_and_seeds_share_the_workers(ray_session: Any, tmp_path: Path) -> None:
    jobs = [Job(NOISY, arm, seed) for arm in ("paired", "real") for seed in (3, 4)]
    options: dict[str, Any] = {"world": world(), "steps_per_subtask": 25, "instructions": SAID, "progress": False}
    together = roll_out_jobs(jobs, chains(4), workers=3, out=tmp_path / "all", **options)
    alone = [
        row
        for number, job in enumerate(jobs)
        for row in roll_out_jobs([job], chains(4), workers=0, out=tmp_path / str(number), **options)
    ]
    assert together == alone
    # the same seed is the same noise in every arm: comparisons are paired
    assert [row.steps for row in together[:4]] == [row.steps for row in together[8:12]]


def test_same_arm_and_seed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="arm 'real' with seed 0 is there more than once"):
        roll_out_jobs([Job(NOISY, "real", 0)] * 2, chains(1), workers=0, out=tmp_path)
    with pytest.raises(UserError, match="chain 0 is there more than once"):
        roll_out_jobs([Job(NOISY, "real", 0)], chains(1) * 2, workers=0, out=tmp_path)


def test_driver_killed_in_the_middle_goes_on(tmp_path: Path, undisturbed: list[ChainResult]) -> None:
    script = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from rollout_doubles import TASKS, chains
from bench.rollout.sources import PolicySource
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions
from pathlib import Path
roll_out(PolicySource("rollout_doubles:NoisyPolicy"), chains(12), arm="real", seed=3, workers=0,
         out=Path({str(tmp_path)!r}), world=WorldOptions(factory="rollout_doubles:PointWorld",
         options={{"slow_s": 0.002}}), steps_per_subtask=25, instructions={{t: "please " + t for t in TASKS}})
"""
    ledger = tmp_path / LEDGER_FILE
    for _ in range(3):
        had = ledger.read_bytes().count(b"solved") if ledger.exists() else 0
        with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2]) as driver:
            patience = time.monotonic() + 60
            while time.monotonic() < patience and driver.poll() is None:
                if ledger.exists() and ledger.read_bytes().count(b"solved") >= had + 2:
                    break
                time.sleep(0.005)
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
    half = ledger.read_bytes().count(b"solved")
    assert 0 < half < 12
    assert run(tmp_path, workers=0) == undisturbed


def test_interrupt_leaves_a_ledger_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: list[ChainResult]
) -> None:
    append = Ledger.append

    def interrupted(self: Ledger, result: ChainResult) -> None:
        append(self, result)
        if len(self.completed()) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert len((tmp_path / "chains.jsonl").read_text().splitlines()) == 4
    assert run(tmp_path) == undisturbed
