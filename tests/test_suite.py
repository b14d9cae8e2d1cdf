from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bench.errors import UserError
from bench.policy_training import policy_config
from bench.suite import SUITES, load_suite, parse_arm, policy_part


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({"name": "x", **changes}))
    return path


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_suite_loads_by_file_and_by_name(path: Path) -> None:
    suite = load_suite(path)
    assert suite == load_suite(path.stem)
    assert suite.name == path.stem


def test_generated_is_not_the_loop_and_mixed_says_its_share() -> None:
    assert parse_arm("generated").test == "real"
    assert parse_arm("generated-loop").test == "generated"
    assert parse_arm("mixed-0.5").share == 0.5


def test_generators_are_named_once(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, arms=["anchor", "generated", "generated-loop", "projection"]))
    assert suite.generators == ("wristworld", "projection")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": ["anchr"]}, "did you mean 'anchor'"),
        ({"arms": ["anchor", "anchor"]}, "named twice"),
        ({"arms": ["mixed-0.1"], "data": {"paired_share": 0.2}}, "needs a share above"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"seeds": [True]}, "seeds.0"),
        ({"seeds": [2**40]}, "seeds.0"),
        ({"data": {"tasks": ["open_the_drawer"]}}, "open_drawer"),
        ({"data": {"paired_share": 1.5}}, "data.paired_share"),
        (
            {"policy": {"demonstrations": 9}, "data": {"episodes": 8}},
            "policy.demonstrations is 9, but data collects at most 8",
        ),
        ({"policy": {"scale": "huge"}}, "'small', 'base' or 'paper'"),
        ({"policy": {"kind": "vpp", "scale": "base"}}, "'vpp' has the scales tiny, small, paper, got 'base'"),
        ({"policy": {"scale": "paper"}}, "'flow' has the scales tiny, small, base, got 'paper'"),
        ({"policy": {"video_steps": 9}}, "'flow' at 'tiny' trains no video predictor"),
        ({"polcy": {}}, "polcy"),
        ({"rollout": {"chains": 2000}}, "1000"),
    ],
)
def test_a_wrong_suite_is_refused_in_one_line(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as error:
        load_suite(write(tmp_path, **changes))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00"])
def test_what_is_not_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_suite(path)
    assert "\n" not in str(error.value)


def test_a_missing_suite_names_the_shipped_ones() -> None:
    with pytest.raises(UserError, match="demo"):
        load_suite("no-such-suite")


def test_recolouring_and_chains_are_settings_of_a_suite(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, data={"chain_length": 5}, policy={"recolour": 0.4, "scale": "small"}))
    assert suite.data.chain_length == 5
    assert policy_config(suite.policy).training.recolour == 0.4


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"recolour": 3.0}, "policy: recolour: Input should be less than or equal to 1, got 3.0"),
        ({"kind": "vpp", "recolour": 0.3}, "policy: recolour: 'vpp' has none; leave it out"),
        ({"kind": "vpp", "scale": "base"}, "policy: 'vpp' has the scales tiny, small, paper, got 'base'"),
    ],
)
def test_a_command_s_policy_is_refused_as_a_suite_s_in_one_line(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as refused:
        policy_part(**settings)
    assert str(refused.value) == says


def test_a_folder_of_a_suites_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_suite("demo").name == "demo"
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"expected a YAML suite, got .*directory"):
        load_suite("other")
