"""Records side by side: a row for each arm and value, in order, and dashes where nothing is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench import cli
from bench.errors import UserError
from bench.report import curve, speed, write_curve
from bench.report.tables import MISSING

FIELD = "policy.demonstrations"


def record(arm: Callable[..., dict[str, Any]], demonstrations: int | None, *lengths: float | None) -> dict[str, Any]:
    arms = {}
    for name, length in zip(("anchor", "real"), lengths, strict=True):
        arms[name] = arm(
            length,
            interval=None if length is None else [length - 0.1, length + 0.2],
            seeds=[0, 1],
            demonstrations=demonstrations or 10_000,
            train_wrist={"real": 7, "generated": 0, "absent": 0},
            tasks={"open_drawer": {"attempts": 4, "successes": 1, "rate": 0.25, "interval": [0.1, 0.6]}},
            offline={"action_error": [0.2, 0.2], "action_error_shuffled": [0.3, 0.3], "gripper_accuracy": [1.0, 1.0],
                     "samples": 4},
        )  # fmt: skip
    suite = {"policy": {"demonstrations": demonstrations, "scale": "tiny"}, "data": {"episodes": 10_000}}
    return {"name": "gap", "arms": arms, "suite": suite}


@pytest.fixture
def records(arm: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    return [record(arm, None, 2.0, 3.5), record(arm, 1000, 0.5, 0.4), record(arm, 3000, None, 1.25)]


MEASURED = [
    {"scale": "small", "device": "NVIDIA H200", "threads": 1, "changes": {}, "batch": 512, "parallel": 3,
     "launch": "graph", "samples_per_s": 41234.5, "gflop_per_sample": 2.086,
     "share_of_matmul": 0.11, "share_of_copy": 0.16,
     "latency_ms": {"1": 2.125, "16": 3.0, "64": 6.4}, "failed": {}},
    {"scale": "small", "device": "cpu", "threads": 2, "changes": {"stem_stride": 2},
     "latency_ms": {"1": 60.0, "16": 300.0, "64": 1200.0}, "failed": {"train": "InductorError: no | kernel"}},
]  # fmt: skip


def test_there_is_a_row_for_each_arm_and_value_in_order(records):
    columns, rows = curve.rows(records, FIELD)
    assert columns[:4] == ("demonstrations", "arm", "average length", "95 % interval")
    assert [row[:3] for row in rows] == [
        ("1000", "anchor", "0.50"), ("1000", "real", "0.40"), ("3000", "anchor", MISSING), ("3000", "real", "1.25"),
        ("10000", "anchor", "2.00"), ("10000", "real", "3.50"),
    ]  # fmt: skip
    assert rows[1][-2:] == ("0.200", "0.300 (+50 %)")
    assert all(len(row) == len(columns) for row in rows)
    records[0]["gap"] = {
        "value": 1.504,
        "interval": [-0.001, 2.0],
        "chains": 16,
        "seeds": 2,
        "families": {},
        "tasks": {},
    }
    assert curve.gap_rows(records, FIELD) == [("1000", "-0.10", MISSING), ("10000", "+1.50", "+0.00 … +2.00")]


def test_all_demonstrations_of_a_record_without_their_number_are_its_episodes(records):
    del records[0]["arms"]["anchor"]["demonstrations"]
    assert curve.value_of(records[0], FIELD) == 7


def test_the_page_has_the_curve_the_subtasks_of_the_largest_set_and_the_speeds(records, tmp_path: Path) -> None:
    written = write_curve(records, FIELD, tmp_path, MEASURED)
    assert Image.open(written[0]).size[0] > 500
    page = written[-1].read_text()
    assert "## Subtasks at policy.demonstrations = 10000" in page
    assert "| open_drawer | 25 % of 4 | 25 % of 4 |" in page
    assert "| small | NVIDIA H200 | 2.1 | 3.0 | 6.4 | 0.10 |" in page
    assert "| small (stem_stride 2) | CPU, 2 threads | 60.0 | 300.0 | 1200.0 | 18.75 |" in page
    assert "| small | NVIDIA H200 | 512 | 3 | 41,234 | graph | 2.09 | 11.0 % | 16.0 % |" in page
    assert "failed: InductorError: no / kernel" in page
    assert len(speed.training_rows(MEASURED)[1]) == len(speed.TRAINING_COLUMNS)


def test_words_can_be_swept_too(arm, records, tmp_path: Path) -> None:
    first, other = records[1], record(arm, 1000, 1.0, None)
    other["suite"]["policy"]["scale"] = "small"
    assert [row[0] for row in curve.rows([first, other], "policy.scale")[1]] == ["tiny", "tiny", "small", "small"]
    write_curve([first, other], "policy.scale", tmp_path)
    assert "Inference" not in (tmp_path / "curve.md").read_text()


@pytest.mark.parametrize(
    ("chosen", "field", "complaint"),
    [
        ([1, 1], FIELD, "two records have policy.demonstrations=1000"),
        ([0, 1, 2], "policy.speed", "has no field 'policy.speed'"),
        ([0, 1, 2], "name.policy", "has no field 'name.policy'"),
    ],
)
def test_records_that_are_no_curve_are_refused(records, chosen, field, complaint):
    with pytest.raises(UserError, match=complaint):
        curve.rows([records[number] for number in chosen], field)


def test_the_verb_finds_the_records_of_runs_and_of_sweeps(records, tmp_path: Path, capsys) -> None:
    for name, one in zip(("a", "sweep/b", "sweep/c"), records, strict=True):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "record.json").write_text(json.dumps(one))
    perf = tmp_path / "h200.json"
    perf.write_text(json.dumps(MEASURED[0]))
    folders = [str(tmp_path / "sweep"), str(tmp_path / "a")]
    line = ["report", *folders, "--curve", FIELD, "--perf", str(perf), "--out", str(tmp_path / "out"), "--json"]
    assert cli.run(line) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(tmp_path / "out" / "curve.md")
    page = (tmp_path / "out" / "curve.md").read_text()
    assert page.index("| 1000 | anchor") < page.index("| 3000 | anchor") < page.index("| 10000 | real")
    assert cli.run(["report", "--perf", str(perf), "--out", str(tmp_path / "speed"), "--json"]) == 0
    assert "| small | NVIDIA H200 | 2.1 |" in (tmp_path / "speed" / "speed.md").read_text()
    capsys.readouterr()
    (tmp_path / "half.json").write_text('{"latency_ms": {"1": 2}}')
    for wrong, complaint in (
        (["report", "--perf", str(tmp_path / "half.json"), "--out", str(tmp_path / "speed")], "KeyError('scale')"),
        (["report", "--perf", str(perf)], "--perf FILE… --out DIR"),
        (["report"], "expected DIR alone"),
        (["report", *folders], "--curve"),
        (["report", str(tmp_path / "out"), "--curve", FIELD], "found no record.json"),
        (["report", *folders, "--curve", FIELD, "--perf", str(tmp_path / "none.json")], "none.json"),
    ):
        assert cli.run(wrong) == 2
        assert complaint in capsys.readouterr().err
