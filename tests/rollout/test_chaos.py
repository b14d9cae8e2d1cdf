"""Workers and the inference actor are killed at random; the rows come out as if nothing had happened."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from rollout_doubles import TASKS, chains

from bench.rollout.ledger import Ledger
from bench.rollout.sources import PolicySource
from bench.rollout.workers import LEDGER_FILE, roll_out
from bench.rollout.world import WorldOptions

CHAINS = 200


def run(out: Path, workers: int, slow_s: float = 0.0, **options: Any) -> Any:
    return roll_out(
        PolicySource("rollout_doubles:NoisyPolicy"),
        chains(CHAINS),
        arm="real",
        seed=1,
        workers=workers,
        out=out,
        world=WorldOptions(factory="rollout_doubles:PointWorld", options={"slow_s": slow_s}),
        steps_per_subtask=25,
        instructions={task: task for task in TASKS},
        progress=False,
        **options,
    )


class Reaper(threading.Thread):
    """Kills one of this session's Ray actors every now and then, never one of another session."""

    def __init__(self, prefixes: tuple[str, ...], kills: int, ledger: Path) -> None:
        super().__init__(daemon=True)
        self.prefixes, self.left, self.ledger = prefixes, kills, ledger
        self.done = threading.Event()
        self.killed = 0

    def run(self) -> None:
        dice = random.Random(0)
        while self.left and not self.done.wait(dice.uniform(0.05, 1.0)):
            if not self.ledger.exists() or self.ledger.read_bytes().count(b"solved") <= self.killed:
                continue  # nothing was finished since the last kill; a machine that bad is another test's
            found = [p for p in psutil.Process().children(recursive=True) if self._is_victim(p)]
            if found:
                dice.choice(found).kill()
                self.left, self.killed = self.left - 1, self.killed + 1

    def _is_victim(self, process: psutil.Process) -> bool:
        try:
            return "".join(process.cmdline()).startswith(self.prefixes)
        except psutil.Error:
            return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefixes", "kills", "options"),
    [
        (("ray::ChainWorker.run",), 12, {}),
        (("ray::ChainWorker.run", "ray::InferenceActor"), 8, {"inference": "actor", "max_batch": 4, "lanes": 2}),
    ],
)
def test_rows_after_random_kills_are_those_of_a_quiet_run(
    ray_session: Any, tmp_path: Path, prefixes: tuple[str, ...], kills: int, options: dict[str, Any]
) -> None:
    quiet = run(tmp_path / "quiet", 0, **options)
    reaper = Reaper(prefixes, kills, tmp_path / "wild" / LEDGER_FILE)
    reaper.start()
    rows = run(tmp_path / "wild", 3, slow_s=0.003, **options)
    reaper.done.set()
    reaper.join()
    assert reaper.killed > 0
    with Ledger(tmp_path / "wild" / LEDGER_FILE) as ledger:
        lost = {chain_id for _, _, chain_id in ledger.missing()}
    assert rows == [row for row in quiet if row.chain_id not in lost]
    assert run(tmp_path / "wild", 0, **options) == quiet
