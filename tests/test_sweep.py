"""A suite run for several values of a field: what does not depend on it is made once, and the curve is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from bench import cli
from bench.errors import UserError
from bench.suite import Suite
from bench.sweep import Sweep

SUITE = {
    "name": "curve",
    "data": {"source": "collect", "tasks": ["turn_on_led", "close_drawer"], "episodes": 4, "validation_episodes": 2},
    "policy": {"scale": "tiny", "steps": 2, "batch": 2},
    "arms": ["anchor", "real"],
    "rollout": {"chains": 1, "steps_per_subtask": 2},
}


@pytest.mark.slow
def test_a_learning_curve_is_one_command_and_goes_on_where_it_stopped(tmp_path: Path, capfd) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump(SUITE))
    out = tmp_path / "out"
    command = ["run", str(suite), "--sweep", "policy.demonstrations=2,4", "--out", str(out), "--workers", "0", "--json"]
    assert cli.run(command) == 0
    said = capfd.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert set(result["runs"]) == {"demonstrations-2", "demonstrations-4"}
    assert result["runs"]["demonstrations-2"].keys() == {"anchor", "real"}
    assert said.err.count("collect: done") == 1
    assert "collect: already done" in said.err
    for count in (2, 4):
        record = json.loads((out / f"demonstrations-{count}" / "record.json").read_text())
        assert record["arms"]["real"]["train_wrist"] == {"real": count, "generated": 0, "absent": 0}
        assert record["arms"]["real"]["offline"]["action_error_shuffled"]
        assert record["arms"]["anchor"]["offline"]["action_error_shuffled"] is None
    page = (out / "curve.md").read_text()
    assert "| 2 | anchor | " in page
    assert "| 4 | real | " in page
    assert Image.open(out / "figures" / "curve.png").size[0] > 500
    assert cli.run(command) == 0
    again = capfd.readouterr().err
    assert "done in" not in again
    (out / "curve.md").unlink()
    assert cli.run(["report", str(out), "--curve", "policy.demonstrations", "--json"]) == 0
    assert (out / "curve.md").read_text() == page


@pytest.mark.parametrize(
    ("text", "values"),
    [("policy.demonstrations=1000,3000", (1000, 3000)), ("policy.scale=tiny,small", ("tiny", "small"))],
)
def test_values_are_read_as_yaml_and_each_makes_a_suite(text, values):
    sweep = Sweep.parse(text)
    assert sweep.values == values
    suites = sweep.suites(Suite.model_validate(SUITE | {"data": {"episodes": 5000}}))
    assert list(suites) == [f"{sweep.field.rpartition('.')[2]}-{value}" for value in values]
    assert [getattr(suite.policy, sweep.field.rpartition(".")[2]) for suite in suites.values()] == list(values)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("policy.demonstrations", "expected FIELD=VALUE"),
        ("policy.steps=3,3", "each value once"),
        ("policy.demonstrations=9", "demonstrations=9: policy.demonstrations is 9, but data collects at most 4"),
        ("policy.speed=9", "no field 'policy.speed'"),
        ("policy=9", "no field 'policy'"),
        ("name.first=9", "no field 'name.first'"),
        ("policy.steps=many", "steps=many: .*integer"),
    ],
)
def test_what_cannot_be_swept_is_refused(text, complaint):
    with pytest.raises(UserError, match=complaint):
        Sweep.parse(text).suites(Suite.model_validate(SUITE))
