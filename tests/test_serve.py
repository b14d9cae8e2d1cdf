"""``wristbench serve`` as a user meets it, and its measurement."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from bench.cli import run
from bench.perf.serve import measure
from policies.addresses import connect
from policies.api import Observation
from policies.remote import TOKEN_VARIABLE
from policies.simple import RandomPolicy

SERVE = [sys.executable, "-c", "from bench.cli import main; main()", "serve", "--port", "0"]
VIEW = np.zeros((200, 200, 3), np.uint8)
OBSERVATION = Observation({"anchor": VIEW, "wrist": VIEW}, "x")


@pytest.mark.parametrize(
    ("policy", "number"), [("random", signal.SIGINT), ("policies.simple:RandomPolicy", signal.SIGTERM)]
)
def test_serves_until_it_is_told_to_stop(policy, number):
    served = subprocess.Popen(
        [*SERVE, "--policy", policy, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = served.stderr.readline()
        assert "serving random at openpi://127.0.0.1:" in line
        remote = connect(line.split(" at ")[1].partition(";")[0])
        np.testing.assert_array_equal(remote.act([OBSERVATION], [3]), RandomPolicy().act([OBSERVATION], [3]))
        served.send_signal(number)
        out, error = served.communicate(timeout=60)
        assert served.returncode == 0, error
        assert json.loads(out.splitlines()[-1])["answered"] == 1
    finally:
        served.kill()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--policy", "random", "--host", "0.0.0.0"], "give a token"),
        (["--policy", "random", "--token", "short"], "at least 16"),
        (["--policy", "nobody"], "no policy 'nobody'"),
        (["--policy", "policies.simple:Nobody"], "no attribute 'Nobody'"),
        (["--policy", "bench.rollout.sources:Expert"], "got a Expert, which remembers its subtask or reads"),
        (["--policy", "random", "--port", "99999"], "65535"),
    ],
)
def test_mistakes_are_one_line(arguments, complaint, capsys, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert run(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_its_measurement_answers_every_client():
    result = measure("random", protocol="vla-eval", clients=(1, 3), requests=9, device="cpu")
    assert [(row["clients"], row["answers"], row["hostile"]) for row in result["rows"]] == [
        (1, 9, False),
        (3, 9, False),
        (3, 9, True),
    ]
    assert result["server"]["answered"] >= 27
    json.dumps(result, allow_nan=False)
