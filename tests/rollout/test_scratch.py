"""Temporary files of workers: gone when the rollout ends, whoever was killed, and never those of somebody who lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from rollout_doubles import TASKS, chains

from bench import scratch
from bench.rollout.sources import PolicySource
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions

SETTLE = """
import pathlib, sys, tempfile
from bench import scratch
folder = scratch.settle_in(sys.argv[1])
pathlib.Path(tempfile.mkdtemp(prefix="wristworld-scene-"), "robot.urdf").write_text("x" * 1000)
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of this test's own, here and in the processes it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def worker(run: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", SETTLE, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_folders_of_the_dead_go_and_those_of_the_living_stay(temporary: Path) -> None:
    (dead, left), (alive, kept) = worker("aaaa"), worker("bbbb")
    assert left.parent == kept.parent == temporary / f"wristbench-{os.getuid()}"
    assert left.parent.stat().st_mode & 0o777 == 0o700
    end(dead)
    assert list(left.glob("wristworld-scene-*/robot.urdf"))
    scratch.sweep("aaaa")
    assert not left.exists()
    scratch.sweep()
    assert list(kept.glob("wristworld-scene-*/robot.urdf"))
    end(alive)
    third, _ = worker("cccc")
    assert not kept.exists(), "who starts clears up after the dead"
    end(third)


JOBS = """
import json, os, pathlib, signal, tempfile
from bench import scratch
from bench.stages import parallel

def litter(job):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="wristworld-scene-"))
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return str(folder.parent)

if __name__ == "__main__":
    folders = parallel(litter, ["litter"] * 3, workers=2)
    assert all(os.path.isdir(folder) for folder in folders), "workers of one driver keep theirs while they live"
    try:
        parallel(litter, ["die"], workers=1)
    except Exception as lost:
        folders.insert(0, str(lost))
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(folders))
"""


def test_jobs_of_a_stage_leave_nothing_behind(temporary: Path) -> None:
    program, usual = temporary / "jobs.py", str(temporary.parents[2])
    program.write_text(JOBS)
    subprocess.run(
        [sys.executable, program], capture_output=True, check=True, timeout=120,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2]),
             "RAY_TMPDIR": usual},  # its sockets allow no long path
    )  # fmt: skip
    lost, *folders = json.loads((temporary / "jobs.json").read_text())
    assert "lost three times" in lost
    root = temporary / f"wristbench-{os.getuid()}"
    assert {Path(folder).parent for folder in folders} == {root}
    assert not list(root.iterdir())


def test_a_process_settles_once(temporary: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", "from bench import scratch\nprint(scratch.settle_in('a') == scratch.settle_in('b'))"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout.strip() == "True"


def test_somebody_elses_folder_is_not_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_settled", [])
    (temporary / "theirs").mkdir()
    (temporary / f"wristbench-{os.getuid()}").symlink_to(temporary / "theirs")
    assert scratch.settle_in("dddd") is None
    assert tempfile.gettempdir() == str(temporary)
    scratch.sweep()


@pytest.mark.parametrize("trouble", [{}, {1: "die", 3: "die"}])
def test_rollout_leaves_nothing_behind(
    ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: dict[int, str]
) -> None:
    mine = scratch.new_run()  # others may roll out on this machine
    monkeypatch.setattr(scratch, "new_run", lambda: mine)
    root = Path(tempfile.gettempdir()) / f"wristbench-{os.getuid()}"
    seen: set[str] = set()

    def look(_ledger: Any) -> bool:
        seen.update(path.parent.name for path in root.glob(f"{mine}-*/wristworld-scene-*"))
        return False

    roll_out(
        PolicySource("rollout_doubles:NoisyPolicy"), chains(6), arm="real", seed=3, workers=2, out=tmp_path,
        world=WorldOptions(factory="rollout_doubles:LitteringWorld", options={"trouble": trouble, "slow_s": 0.002}),
        steps_per_subtask=25, instructions={task: task for task in TASKS}, progress=False, until=look,
    )  # fmt: skip
    assert len(seen) >= 1, "the worlds' folders were there while they were needed"
    assert not list(root.glob(f"{mine}-*"))
