"""What the machine's cores give, and who uses them during a rollout: workers, inference actors, Ray, the driver.

Sixteen workers on sixteen cores leave none for the others; this says how many the others took.  Only processes that
this one started are seen: of a cluster, the driver alone.  And sixteen cores at work are slower, each of them, than one
that is at work alone: no number of workers can make up for that.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType

import psutil

EVERY_S = 1.0
DRIVER, OTHERS = "driver", "ray"
KINDS = {"ray::ChainWorker": "workers", "ray::InferenceActor": "inference", "ray::GeneratorActor": "generator"}
"""How a process calls itself while it is at work (Ray names it after the actor), and what it counts as."""

SPIN_S = 0.5
SPIN = """
import sys, time
began, count = float(sys.argv[1]), 0
while time.monotonic() < began:
    pass
while time.monotonic() < began + float(sys.argv[2]):
    for _ in range(1000):
        count += 1
print(count)
"""
"""Work that stays in a core's own caches; the clock is the machine's, so that all begin together."""


def own_speed(counts: Sequence[int]) -> dict[int, float]:
    """Return how fast one of so many processes works that do nothing but count, relative to one that is alone.

    It falls where cores share their parts or their clock, and where there are fewer cores than processes.
    """
    alone = _counted(1)
    return {count: _counted(count) / alone if count > 1 else 1.0 for count in dict.fromkeys(counts)}


def _counted(processes: int) -> float:
    begin = time.monotonic() + 0.3 + 0.03 * processes  # all have started by then
    command = [sys.executable, "-S", "-E", "-c", SPIN, str(begin), str(SPIN_S)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    return sum(int(process.communicate()[0]) for process in started) / processes


class CoreWatch:
    """Notes, once a second while it is entered, how much CPU time each kind of process has used."""

    def __init__(self) -> None:
        self._kinds: dict[int, str] = {}
        self._used: dict[int, float] = {}
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="core watch", daemon=True)

    def __enter__(self) -> CoreWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def cores(self, first: float, last: float) -> dict[str, float]:
        """Return how many cores each kind of process used between two times (``time.perf_counter``).

        Returns:
            kind (``workers``, ``inference``, ``generator``, ``driver``, ``ray``: everything else that was started) to
            cores; empty where the time was too short for two samples.
        """
        inside = [sample for sample in self._samples if first <= sample[0] <= last]
        if len(inside) < 2:
            return {}
        (began, before), (ended, after) = inside[0], inside[-1]
        return {kind: (used - before.get(kind, 0.0)) / (ended - began) for kind, used in sorted(after.items())}

    def _watch(self) -> None:
        while True:
            self._samples.append((time.perf_counter(), self._sample()))
            if self._over.wait(EVERY_S):
                return

    def _sample(self) -> dict[str, float]:
        """Return CPU seconds so far by kind; what ended processes had used stays counted."""
        me = psutil.Process()
        self._kinds[me.pid] = DRIVER
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it may end between any two of these lines
                times = process.cpu_times()
                self._used[process.pid] = times.user + times.system
                if self._kinds.setdefault(process.pid, OTHERS) == OTHERS:
                    self._kinds[process.pid] = _kind("".join(process.cmdline()[:1]))
        totals: dict[str, float] = {}
        for pid, used in self._used.items():
            totals[self._kinds[pid]] = totals.get(self._kinds[pid], 0.0) + used
        return totals


def _kind(title: str) -> str:
    return next((kind for prefix, kind in KINDS.items() if title.startswith(prefix)), OTHERS)
