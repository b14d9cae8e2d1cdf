"""The command line as a user meets it: help with an example, one line for a mistake, one JSON object at the end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import cli


def verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every parser below ``parser`` that does a job."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield parser
    for action in nested:
        for child in action.choices.values():
            yield from verbs(child)


VERBS = list(verbs(cli.build_parser()))


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.prog)
def test_every_verb_explains_itself_with_an_example_that_parses(verb: argparse.ArgumentParser) -> None:
    assert verb.epilog is not None
    example = verb.epilog.splitlines()[-1].split()
    assert example[0] == "wristbench"
    args = cli.build_parser().parse_args(example[1:])
    assert {"json", "quiet"} <= set(vars(args))
    assert verb.description


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.prog)
def test_a_word_where_a_whole_number_belongs_is_named_in_words(
    verb: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [one for one in verb._actions if getattr(one.type, "__name__", "") in ("whole", "seed", "_seeds")]
    words = verb.prog.split()[1:]
    for option in options:
        with pytest.raises(SystemExit) as ended:
            cli.build_parser().parse_args([*words, option.option_strings[0], "many"])
        assert ended.value.code == 2
        assert "expected a whole number from 0, got many" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "no-such-suite"],
        ["run", "calvin_debug", "--out", "{tmp}/run"],
        ["run", "calvin_debug", "--dataset", "{tmp}/nowhere", "--out", "{tmp}/run"],
        ["run", "demo", "--dataset", "{tmp}", "--out", "{tmp}/run"],
        ["demo", "--seed", "-1"],
        ["demo", "--renderer", "crayon"],
        ["collect", "--tasks", "fly", "--out", "{tmp}/data"],
        ["collect", "--scenes", "DX", "--out", "{tmp}/data"],
        ["rollout", "--policy", "{tmp}/no-checkpoint", "--out", "{tmp}/run"],
        ["rollout", "--policy", "random", "--chains", "1001", "--out", "{tmp}/run"],
        ["data", "info", "{tmp}"],
        ["data", "view", "{tmp}", "--out", "{tmp}/view"],
        ["parity", "--reference", "{tmp}/nowhere"],
        ["demo", "--seed", "9999999999"],
        ["demo", "--out", "/proc/x"],
        ["collect", "--tasks", "turn_on_led", "--out", "/proc/x"],
        ["rollout", "--policy", "random", "--chains", "1", "--workers", "0", "--out", "/proc/x"],
        ["rollout", "--policy", "random", "--workers", "0", "--calvin-assets", "{tmp}", "--out", "{tmp}/run"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.run([argument.format(tmp=tmp_path) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capfd.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("wristbench: ")
    assert err.count("\n") == 1
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"] == []


def test_doctor_prints_one_json_object(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert {"renderer", "gpu", "ray", "calvin_assets"} <= set(result["checks"])
    assert all(finding["ok"] or finding["remedy"] for finding in result["checks"].values())


def test_doctor_speaks_to_people_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor"]) == 0
    assert "renderer" in capfd.readouterr().out
