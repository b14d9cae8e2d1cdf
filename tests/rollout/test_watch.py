"""Following a run: finished, running, dead, half-written; without being in its way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rollout_doubles import TASKS, chains

from bench.errors import UserError
from bench.rollout import watch
from bench.rollout.chain import ChainResult
from bench.rollout.ledger import LEDGER_FILE, Ledger
from bench.rollout.progress import running
from bench.rollout.sources import PolicySource
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions


def row(chain_id: int, solved: int = 2) -> ChainResult:
    return ChainResult(chain_id, "real", 0, TASKS, solved, (7,) * min(solved + 1, 5))


def shown(state: Any) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(watch.picture(state))
    return console.export_text()


def test_finished_rollout_is_read(tmp_path: Path) -> None:
    rows = roll_out(
        PolicySource("rollout_doubles:NoisyPolicy"), chains(6), arm="real", seed=3, workers=0, out=tmp_path,
        world=WorldOptions(factory="rollout_doubles:PointWorld"), steps_per_subtask=25,
        instructions={task: task for task in TASKS}, progress=False,
    )  # fmt: skip
    state = watch.look(tmp_path)
    assert (state["state"], state["done"], state["total"], state["missing"], state["eta_s"]) == (
        "finished",
        6,
        6,
        0,
        None,
    )
    arm = state["arms"]["real/3"]
    assert arm["average_length"] == pytest.approx(sum(row.solved for row in rows) / 6)
    assert arm["interval"][0] <= arm["average_length"] <= arm["interval"][1]
    assert state["chains_per_hour"] > 0
    assert "6/6" in shown(state)
    assert watch.follow(tmp_path) == state


def test_running_and_dead_runs_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch.write_plan(tmp_path, [("real", 0, i) for i in range(10)] + [("anchor", 0, i) for i in range(10)], done=1)
    began = watch._plan(tmp_path)["began"]
    monkeypatch.setattr("time.time", lambda: began + 60)
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        for chain_id in range(4):
            ledger.append(row(chain_id))
        ledger.append_missing(("real", 0, 7), "worker lost; then [worker] lost")
        state = watch.look(tmp_path)
        assert (state["state"], state["done"], state["total"], state["missing"]) == ("running", 4, 20, 1)
        assert state["chains_per_hour"] == pytest.approx(180)
        assert state["eta_s"] == pytest.approx(300)
        assert state["arms"]["anchor/0"]["average_length"] is None
        assert (state["arms"]["real/0"]["missing"], state["arms"]["anchor/0"]["missing"]) == (1, 0)
        text = shown(state)
        assert "0:05:00 left" in text
        assert "[worker] lost" in text
        ledger.append(row(5))  # looking was not in the way of the writer
    assert watch.look(tmp_path)["state"] == "stopped"
    Ledger(tmp_path / LEDGER_FILE).close()


def test_torn_line_of_a_writer_in_the_middle_is_left_out_and_left_alone(tmp_path: Path) -> None:
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        ledger.append(row(0))
    with (tmp_path / LEDGER_FILE).open("ab") as file:
        file.write(b'{"chain_id": 9, "ar')
    before = (tmp_path / LEDGER_FILE).read_bytes()
    assert watch.look(tmp_path)["done"] == 1
    assert (tmp_path / LEDGER_FILE).read_bytes() == before


def test_run_of_a_suite_is_found_by_its_newest_rollout(tmp_path: Path) -> None:
    for number, name in enumerate(("rollout-old", "rollout-new")):
        (tmp_path / "stages" / name).mkdir(parents=True)
        with Ledger(tmp_path / "stages" / name / LEDGER_FILE) as ledger:
            for chain_id in range(number + 1):
                ledger.append(row(chain_id))
        os.utime(tmp_path / "stages" / name / LEDGER_FILE, (number, number))
    state = watch.look(tmp_path)
    assert (state["done"], state["total"]) == (2, None)
    assert "2/?" in shown(state)


def test_folder_without_a_rollout_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no ledger\.jsonl here"):
        watch.look(tmp_path)
    (tmp_path / LEDGER_FILE).write_text("nonsense\n")
    with pytest.raises(UserError, match="line 1: not a ledger line"):
        watch.look(tmp_path)


def test_file_of_somebody_else_is_no_plan(tmp_path: Path) -> None:
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        ledger.append(row(0))
    for content in ('["plan"]', '{"steps": 3}', "no JSON"):
        (tmp_path / watch.PLAN_FILE).write_text(content)
        assert (watch.look(tmp_path)["state"], watch.look(tmp_path)["total"]) == ("finished", None)


def test_what_is_not_wanted_any_more_is_not_stopped(tmp_path: Path) -> None:
    watch.write_plan(tmp_path, [("real", 0, i) for i in range(10)], done=0)
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        ledger.append(row(0))
    assert watch.look(tmp_path)["state"] == "stopped"
    watch.end_plan(tmp_path)
    assert (watch.look(tmp_path)["state"], watch.look(tmp_path)["total"]) == ("finished", 10)


def test_looking_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / LEDGER_FILE)
    ledger.append(row(0))
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        ledger.close()

    monkeypatch.setattr("time.sleep", nap)
    assert watch.follow(tmp_path, every_s=7.0)["state"] == "finished"
    assert 7.0 in naps


def test_running_mean_for_a_glance() -> None:
    assert running([3]) == "3.00"
    assert running([1, 3]) == "2.00 ± 1.96"
    assert watch.duration(3723.4) == "1:02:03"
