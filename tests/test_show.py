"""What a result looks like in a terminal: no Python in it, and nothing that matters left out."""

from __future__ import annotations

from typing import Any

import pytest

from bench.show import show

SCORE = {"attempts": 4, "successes": 3, "rate": 0.75, "interval": [0.3, 0.95]}
ROLLOUT: dict[str, Any] = {
    "arm": "mine",
    "average_length": 2.5,
    "interval": [1.25, 3.5],
    "chain_success": [1.0, 0.75, 0.5, 0.25, 0.0],
    "families": {"drawer": SCORE},
    "chains": 4,
    "missing": 0,
    "bounds": [2.5, 2.5],
    "fingerprint": {"world": "built-in"},
    "out": "results/mine",
}
COMPARISON = {
    "decided": "worse",
    "pairs": 4,
    "scored": 3,
    "of": 9,
    "mean_difference": -1.5,
    "interval": [-2.0, -0.5],
    "error_level": 0.05,
    "against": "results/other",
    "their_arm": "real",
    "their_seed": 0,
    "stopped_early": True,
    "over_all": None,
}


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")

    def on_one_line(verb: str, result: dict[str, Any]) -> str:
        show(verb, result)
        return " ".join(capsys.readouterr().out.split())

    return on_one_line


def test_a_rollout_is_its_average_length_its_chains_and_its_families(shown):
    text = shown("rollout", ROLLOUT)
    assert "mine: average length 2.50 (95 % 1.25 … 3.50) over 4 chains" in text
    assert "100 · 75 · 50 · 25 · 0" in text
    assert "drawer 3 4 75" in text
    assert "could not be run" not in text
    assert "{" not in text


def test_chains_that_are_missing_are_said_with_their_bounds(shown):
    assert "2 chains could not be run" in shown("rollout", ROLLOUT | {"missing": 2})
    assert "lies in 1.00 … 3.00" in shown("rollout", ROLLOUT | {"missing": 2, "bounds": [1.0, 3.0]})


def test_a_comparison_that_stopped_says_its_verdict_and_on_how_many_pairs_it_stands(shown):
    text = shown("rollout", ROLLOUT | {"comparison": COMPARISON})
    assert "(real/0): worse, stopped early; -1.50 (-2.00 … -0.50 at error level 0.05) on 3 pairs" in text
    unpaired = COMPARISON | {"mean_difference": None, "decided": None, "stopped_early": False}
    assert "not decided; no pair" in shown("rollout", ROLLOUT | {"comparison": unpaired})


def test_one_that_ran_to_its_end_says_the_difference_and_what_would_show_it(shown):
    whole = {"value": 0.25, "interval": [-0.1, 0.6], "chains": 40, "chains_needed": 310}
    text = shown("rollout", ROLLOUT | {"comparison": COMPARISON | {"over_all": whole}})
    assert "(real/0): +0.25 (95 % -0.10 … 0.60) on 40 chains that both have; about 310 chains would show" in text
    few = whole | {"interval": None, "chains_needed": None}
    assert "+0.25 (no interval) on 40" in shown("rollout", ROLLOUT | {"comparison": COMPARISON | {"over_all": few}})
    shows = whole | {"chains_needed": None}
    assert "would show" not in shown("rollout", ROLLOUT | {"comparison": COMPARISON | {"over_all": shows}})


def test_trained_policies_are_a_row_each_and_what_was_not_measured_is_a_dash(shown):
    scores = {"loss": 0.5, "action_error": 0.25, "gripper_accuracy": 0.875}
    policies = {
        "real-0": {"seconds": 61.4, "validation": scores, "wrist_shuffled": scores | {"action_error": 0.375}},
        "anchor-0": {"seconds": 60.0, "validation": scores, "wrist_shuffled": None},
        "generated-loop-0": {"seconds": 60.0, "validation": None, "wrist_shuffled": None},
    }
    text = shown("train-policy", {"out": "policies", "policies": policies})
    assert "real-0 61 0.5 0.25 0.375 87.5" in text
    assert "anchor-0 60 0.5 0.25 – 87.5" in text
    assert "generated-loop-0 60 – – – –" in text


def test_anything_else_is_a_line_for_each_value(shown):
    result = {"steps": 12, "rate": 123456.7, "ok": True, "none": None, "empty": {}, "list": [1, 2.5],
              "inner": {"a": {"b": [0.123456]}},
              "rows": [{"n": {"m": 1}}, {"n": {"m": 2}}], "text": "[bold]"}  # fmt: skip
    assert shown("collect", result) == (
        "steps 12 rate 123457 ok yes none – empty none list 1, 2.5 inner a b 0.1235 "
        "rows 1 n m 1 rows 2 n m 2 text [bold]"
    )


def test_measurements_of_the_same_things_are_a_table(shown):
    rows = [{"workers": 1, "steps_per_s": 271.5}, {"workers": 2, "steps_per_s": None}]
    head, *lines = shown("env", {"steps": 5, "crowd": rows, "none": []}).split(" crowd ")
    assert head == "steps 5 none none"
    assert lines[0].startswith("workers steps_per_s")
    assert lines[0].endswith("1 271.5 2 –")
