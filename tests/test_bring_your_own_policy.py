"""The README's "Bring your own policy", tried word for word."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from policies.addresses import parse_address
from policies.api import CALVIN_ACTIONS
from policies.lerobot import LeRobotDeclaration

ROOT = Path(__file__).resolve().parents[1]
SECTION = (ROOT / "README.md").read_text().split("## Bring your own policy\n")[1].split("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def test_its_policy_takes_ten_lines_and_rolls_out(tmp_path):
    (code,), (command,) = blocks("python"), blocks("bash")
    lines = code.splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith("#")]) <= 10
    (tmp_path / lines[0].removeprefix("# ")).write_text(code)
    words = shlex.split(command)
    assert words[:2] == ["PYTHONPATH=.", "wristbench"]
    shorter = [*words[2:], "--chains", "1", "--steps-per-subtask", "2", "--workers", "0", "--renderer", "bullet-tiny"]
    done = subprocess.run(
        [sys.executable, "-c", "from bench.cli import main; main()", *shorter, "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["arm"] == "mine"
    assert (tmp_path / "results" / "mine" / "record.json").is_file()


def test_its_address_and_its_declaration_can_be_read(tmp_path):
    (address,) = re.findall(r"'(openpi://[^']+)'", SECTION)
    remote = parse_address(address.replace("HOST", "127.0.0.1").replace("PORT", "8000"))
    assert remote.declared is not None
    assert remote.declared.actions == CALVIN_ACTIONS
    (more,) = re.findall(r"`(&gripper_open[^`]+)`", SECTION)
    converted = parse_address(address.replace("HOST", "127.0.0.1").replace("PORT", "8000") + more)
    assert converted.convert_to == CALVIN_ACTIONS
    (declared,) = re.findall(r"`(\{.*?\})`", SECTION)
    (tmp_path / "wristbench.json").write_text(declared)
    assert LeRobotDeclaration.read(tmp_path) == LeRobotDeclaration()


@pytest.mark.parametrize("name", re.findall(r"`(policies\.\w+)\.(\w+)", SECTION))
def test_what_it_names_is_there(name):
    module, thing = name
    assert hasattr(__import__(module, fromlist=[thing]), thing)
