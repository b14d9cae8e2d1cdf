"""``wristbench rollout`` and ``watch`` from end to end on the real world: films, tables, comparison, early stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from bench import evaluate
from bench.calvin.instructions import evaluation_instruction, training_instructions
from bench.calvin.tasks import TASKS
from bench.cli import run
from bench.comparison import Comparison
from bench.errors import UserError
from bench.evaluate import RolloutOptions, sentences
from bench.rollout.chain import Chain, ChainResult
from bench.rollout.ledger import LEDGER_FILE, Ledger

FAST = ["--workers", "0", "--renderer", "bullet-tiny", "--steps-per-subtask", "12", "--quiet", "--json"]


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert run([*map(str, arguments)]) == code
    captured = capsys.readouterr()
    return {"error": captured.err} if code else json.loads(captured.out.splitlines()[-1])


def test_rollout_leaves_films_tables_and_a_state_to_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    record = said(capsys, "rollout", "--policy", "random", "--chains", 2, "--film", 1, "--out", out, *FAST)
    assert record["missing"] == 0
    assert [path.name for path in (out / "films").iterdir()] == ["random-seed0-chain0000-solved0.mp4"]
    chains = parquet.read_table(out / "chains.parquet").to_pylist()
    assert [(row["chain_id"], row["solved"], row["steps"]) for row in chains] == [(0, 0, [12]), (1, 0, [12])]
    subtasks = parquet.read_table(out / "subtasks.parquet").to_pylist()
    assert len(subtasks) == 10
    assert [row["tried"] for row in subtasks[:5]] == [True, False, False, False, False]
    assert [row["steps"] for row in subtasks[:2]] == [12, None]
    assert json.loads((out / "results.json").read_text())["0"]["chain_sr"]["1"] == 0.0
    state = said(capsys, "watch", out, "--once", "--json")
    assert (state["state"], state["done"], state["total"]) == ("finished", 2, 2)
    assert run(["watch", str(out)]) == 0
    assert "2 of 2 chains" in capsys.readouterr().out


def test_paraphrases_are_another_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = ["rollout", "--policy", "random", "--chains", 1, "--out", tmp_path, *FAST]
    said(capsys, *random)
    assert "differing: instructions" in said(capsys, *random, "--instructions", "training:3", code=2)["error"]


def test_training_sentences_are_drawn_by_seed() -> None:
    assert sentences("evaluation") is None
    drawn = sentences("training:3")
    assert drawn is not None
    assert set(drawn) == set(TASKS)
    assert all(drawn[task] in training_instructions(task) for task in TASKS)
    assert all(drawn[task] != evaluation_instruction(task) for task in TASKS)
    assert drawn == sentences("training:3")
    assert drawn != sentences("training:4")
    with pytest.raises(UserError, match="expected evaluation or training:SEED"):
        sentences("training:x")


@pytest.mark.parametrize("name", ["batch", "lanes", "servers"])
def test_none_of_a_thing_is_refused_and_not_taken_for_the_default(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: expected at least 1, got 0; leave --{name} out"):
        RolloutOptions(**{name: 0})


def test_early_stop_needs_something_to_compare_with() -> None:
    with pytest.raises(UserError, match="give --against RUN"):
        RolloutOptions(early_stop=0.05)


def chain(chain_id: int) -> Chain:
    return Chain(chain_id, ("a",) * 5, (0.0,) * 15, (0.0,) * 24)


def row(chain_id: int, arm: str, solved: int) -> ChainResult:
    return ChainResult(chain_id, arm, 0, ("a",) * 5, solved, (7,) * min(solved + 1, 5))


def rollout(folder: Path, arm: str, scores: dict[int, int], **facts: Any) -> Path:
    with Ledger(folder / LEDGER_FILE, {"scene": "D", f"policy {arm}/0": {}, **facts}) as ledger:
        for chain_id, solved in scores.items():
            ledger.append(row(chain_id, arm, solved))
    return folder


def test_comparison_follows_its_own_order_and_not_that_of_finishing(tmp_path: Path) -> None:
    chains = [chain(i) for i in range(60)]
    theirs = rollout(tmp_path / "theirs", "real", dict.fromkeys(range(60), 4))
    comparison = Comparison(theirs, chains, "anchor", 0, 0.05)
    order = [one.chain_id for one in comparison.order]
    assert sorted(order) == list(range(60))
    assert order != sorted(order)
    with Ledger(tmp_path / "ours" / LEDGER_FILE, {"scene": "D"}) as ledger:
        for chain_id in order[1:10]:
            ledger.append(row(chain_id, "anchor", 0))
        assert not comparison.decided(ledger)
        assert comparison.verdict.pairs == 0  # the first of the order is still under way
        ledger.append_missing(("anchor", 0, order[0]), "worker lost")
        comparison.decided(ledger)
        assert comparison.verdict.mean_difference == -4.0
        for chain_id in order[10:]:
            if comparison.decided(ledger):
                break
            ledger.append(row(chain_id, "anchor", 0))
        assert comparison.verdict.decided == "worse"
        assert comparison.verdict.pairs < 40
        assert len(comparison.looked_at(ledger.completed())) == comparison.verdict.pairs - 1


def test_two_whole_rollouts_have_an_ordinary_paired_difference_too(tmp_path: Path) -> None:
    chains = [chain(i) for i in range(40)]
    theirs = rollout(tmp_path / "theirs", "real", {i: 2 + i % 2 for i in range(40)})
    comparison = Comparison(theirs, chains, "anchor", 1, 0.05)
    ours = [replace(row(i, "anchor", 2 + i % 2 - (i % 4 == 0)), seed=1) for i in range(38)]
    found = comparison.over_all(ours)
    assert found is not None
    assert (found["value"], found["chains"], found["chains_needed"]) == (pytest.approx(-10 / 38), 38, None)
    assert found["interval"][1] < 0 < -found["interval"][0] < 0.5
    level = [replace(row(i, "anchor", 2 + i % 2 + (i % 19 == 0) - (i % 38 == 0)), seed=1) for i in range(38)]
    unclear = comparison.over_all(level)
    assert unclear is not None
    assert unclear["interval"][0] <= 0 < unclear["value"]
    assert unclear["chains_needed"] > 38
    assert comparison.over_all([]) is None
    few = comparison.over_all(ours[:9])
    assert few is not None
    assert (few["interval"], few["chains_needed"]) == (None, None)


def test_without_early_stop_a_decided_comparison_has_not_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = ["rollout", "--policy", "random", "--chains", 12, *FAST]
    with Ledger(tmp_path / "expert" / LEDGER_FILE, {"scene": "D"}) as ledger:
        for chain_id in range(12):
            ledger.append(row(chain_id, "expert", 5))
    record = said(capsys, *random, "--out", tmp_path / "ours", "--against", tmp_path / "expert")
    assert (record["comparison"]["decided"], record["comparison"]["stopped_early"]) == ("worse", False)
    assert record["comparison"]["over_all"] == {"value": -5.0, "interval": None, "chains": 12, "chains_needed": None}


def test_comparison_of_another_protocol_or_of_nothing_is_refused(tmp_path: Path) -> None:
    chains = [chain(i) for i in range(3)]
    theirs = rollout(tmp_path / "theirs", "real", {0: 1, 1: 2}, steps_per_subtask=360)
    with Ledger(tmp_path / "ours" / LEDGER_FILE, {"scene": "D", "steps_per_subtask": 100}) as ledger:
        comparison = Comparison(theirs, chains, "anchor", 0, 0.05)
        with pytest.raises(UserError, match=r"differing: steps_per_subtask \(there 360, here 100\)"):
            comparison.decided(ledger)
    with pytest.raises(UserError, match="none of the chains asked for"):
        Comparison(theirs, [chain(7)], "anchor", 0, 0.05)
    with Ledger(theirs / LEDGER_FILE) as ledger:
        ledger.append(row(0, "anchor", 1))
    with pytest.raises(UserError, match="expected the chains of one policy, got anchor/0, real/0"):
        Comparison(theirs, chains, "anchor", 0, 0.05)


def test_comparison_of_another_protocol_is_refused_before_a_chain_is_rolled_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = rollout(tmp_path / "theirs", "real", {0: 1}, steps_per_subtask=360)
    monkeypatch.setattr(evaluate, "roll_out", lambda *_, **__: pytest.fail("rolled out"))
    options = RolloutOptions(chains=1, workers=0, steps_per_subtask=100, against=theirs, progress=False)
    with pytest.raises(UserError, match=r"differing: steps_per_subtask \(there 360, here 100\)"):
        evaluate.roll_out_policy("random", tmp_path / "ours", options)


def test_rollout_stops_when_it_is_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = ["rollout", "--policy", "random", "--chains", 30, *FAST]
    (tmp_path / "expert").mkdir()
    said(capsys, *random[: -len(FAST)], "--out", tmp_path / "probe", *FAST, "--chains", 1)
    with Ledger(tmp_path / "probe" / LEDGER_FILE) as ledger:
        facts = {name: value for name, value in ledger.fingerprint.items() if not name.startswith("policy ")}
    with Ledger(tmp_path / "expert" / LEDGER_FILE, facts) as ledger:
        for chain_id in range(30):
            ledger.append(row(chain_id, "expert", 5))
    against = ["--against", tmp_path / "expert", "--early-stop", 0.05]
    record = said(capsys, *random, "--out", tmp_path / "ours", *against)
    comparison = record["comparison"]
    assert (comparison["decided"], comparison["stopped_early"], comparison["their_arm"]) == ("worse", True, "expert")
    assert comparison["pairs"] < 20
    assert comparison["interval"][1] < 0
    assert (record["chains"], record["missing"]) == (comparison["pairs"], 0)
    done = (tmp_path / "ours" / LEDGER_FILE).read_bytes()
    again = said(capsys, *random, "--out", tmp_path / "ours", *against)
    assert again["comparison"] == comparison
    assert (tmp_path / "ours" / LEDGER_FILE).read_bytes() == done


@pytest.mark.parametrize(
    ("gpus", "expected"), [({"GPU": 2.0, "CPU": 8.0}, ("actor", "cuda")), ({"CPU": 8.0}, ("local", "cpu"))]
)
def test_cluster_with_gpus_is_used_from_a_machine_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: dict[str, float], expected: tuple[str, str]
) -> None:
    class Cluster:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return gpus

    monkeypatch.setattr("bench.evaluate.device", lambda: "cpu")
    monkeypatch.setattr("bench.evaluate.start_ray", lambda address: Cluster)
    assert evaluate._where(str(tmp_path), RolloutOptions(ray_address="head:6379")) == expected
    assert evaluate._where("expert", RolloutOptions(ray_address="head:6379")) == ("local", "cpu")
    assert evaluate._where(str(tmp_path), RolloutOptions(workers=0, ray_address="head:6379")) == ("local", "cpu")
