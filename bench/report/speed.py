"""The tables of what ``wristbench perf policy`` measured on several machines: an answer's latency, training's speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.tables import MISSING, number

LATENCY_COLUMNS = ("policy", "device", "batch 1 (ms)", "batch 16 (ms)", "batch 64 (ms)", "batch 64, each (ms)")
TRAINING_COLUMNS = (
    "policy", "device", "batch", "side by side", "samples/s", "launch", "GFLOP a sample", "of the device's products",
    "of its memory",
)  # fmt: skip


def latency_rows(measured: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row of :data:`LATENCY_COLUMNS` for each measurement that has latencies."""
    rows: list[tuple[str, ...]] = []
    for one in measured:
        given = one.get("latency_ms")
        if given:
            last = given.get("64")
            each = None if last is None else last / 64
            times = [number(given.get(size), 1) for size in ("1", "16", "64")]
            rows.append((_policy(one), _device(one), *times, number(each, 2)))
    return rows


def training_rows(measured: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row of :data:`TRAINING_COLUMNS` for each measurement of training; what failed has its reason."""
    rows: list[tuple[str, ...]] = []
    for one in measured:
        if "samples_per_s" in one:
            rows.append(
                (
                    _policy(one), _device(one), str(one["batch"]), str(one.get("parallel", 1)),
                    f"{one['samples_per_s']:,.0f}", str(one.get("launch", MISSING)),
                    number(one.get("gflop_per_sample"), 2), number(one.get("share_of_matmul"), 1, percent=True),
                    number(one.get("share_of_copy"), 1, percent=True),
                )
            )  # fmt: skip
        elif "train" in one.get("failed", {}):
            failed = str(one["failed"]["train"]).replace("|", "/")
            rows.append((_policy(one), _device(one), MISSING, MISSING, f"failed: {failed}", *[MISSING] * 4))
    return rows


def _policy(one: Mapping[str, Any]) -> str:
    changes = ", ".join(f"{name} {value}" for name, value in one.get("changes", {}).items())
    kind = one.get("kind", "flow")
    name = one["scale"] if kind == "flow" else f"{kind} {one['scale']}"
    return f"{name}{f' ({changes})' if changes else ''}"


def _device(one: Mapping[str, Any]) -> str:
    if one["device"] != "cpu" or not one.get("threads"):
        return str(one["device"])
    threads = one["threads"]
    return f"CPU, {threads} thread{'s' if threads != 1 else ''}"
