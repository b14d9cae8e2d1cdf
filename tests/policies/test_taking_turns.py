"""One process at a time does the same work; one that dies holds nobody up, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from policies import taking_turns
from policies.taking_turns import turn

HOLDER = """
import sys, time
from pathlib import Path
from policies.taking_turns import turn
with turn("compile", Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_killed_process_gives_its_turn_back(holder, tmp_path):
    with turn("another", tmp_path):
        pass
    holder.kill()
    with turn("compile", tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_where_no_lock_can_be_made_everybody_goes_ahead(tmp_path):
    with turn("compile", tmp_path / "nowhere"):
        pass


def test_a_turn_that_is_not_given_back_is_not_waited_for_for_ever(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(taking_turns, "LONGEST_WAIT_S", 0.5)
    began = time.monotonic()
    with turn("compile", tmp_path):
        assert time.monotonic() - began >= 0.5
