"""Are the experts' successes counted right, whoever did the work, and can a failed start be found again?"""

from __future__ import annotations

import json

import pytest

from bench.cli import run
from bench.errors import UserError
from bench.perf import experts as perf_experts
from bench.perf.experts import RateJob, measure, try_starts


def test_a_start_is_the_same_however_the_work_is_dealt_out() -> None:
    together = try_starts(RateJob("D", "turn_on_led", (0, 1, 2), 0, 0.0, None))
    alone = [try_starts(RateJob("D", "turn_on_led", (number,), 0, 0.0, None))[0] for number in (2, 0, 1)]
    assert together == [alone[1], alone[2], alone[0]]
    assert all(together)


def test_successes_are_counted_by_task_and_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(job: RateJob) -> list[int | None]:
        share = {"stack_block": 11, "turn_on_led": 12}[job.task] if job.scene == "B" else 1
        return [None if number % share == 3 else 10 + number for number in job.starts]

    monkeypatch.setattr(perf_experts, "try_starts", some)
    result = measure("AB", 25, tasks="stack_block,turn_on_led", workers=0)
    assert (result["attempts"], result["solved"]) == (100, 96)
    assert result["failed"] == {"stack_block": {"B": [3, 14]}, "turn_on_led": {"B": [3, 15]}}
    stack = result["tasks"]["stack_block"]["B"]
    assert (stack["attempts"], stack["solved"], stack["success_rate"]) == (25, 23, 0.92)
    assert stack["interval"][0] < 0.92 < stack["interval"][1]
    assert result["below_target"] == ["turn_on_led in B"], "less is asked of stacking"
    assert result["lowest"] == 0.92
    json.dumps(result, allow_nan=False)


def test_the_verb_prints_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    command = "perf experts --scenes D --starts 1 --tasks turn_on_led,turn_off_led --workers 0 --quiet"
    assert run([*command.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["attempts"], result["world"]) == (2, "built-in")
    assert run(command.split()) == 0
    assert "turn_off_led" in capsys.readouterr().out


@pytest.mark.parametrize(("scenes", "starts", "word"), [("E", 1, "scenes"), ("AA", 1, "scenes"), ("A", 0, "starts")])
def test_what_cannot_be_measured_is_refused(scenes: str, starts: int, word: str) -> None:
    with pytest.raises(UserError, match=word):
        measure(scenes, starts, workers=0)
