"""Pages on several runs or measurements: a curve over records, and how fast policies are on several machines.

One run's own report is written by ``bench/report/write.py``.  All numbers come from the records and measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import atomic
from bench.report import curve, speed, tables
from bench.report.write import SUBTASKS

LATENCY = "One call: pictures at camera size in, a chunk of actions out."
TRAINING = (
    "Samples a second of all trainings on one device, both views, and which share that is of what the device's matrix "
    "products and its memory allow: the operations of a sample, and the bytes that its convolutions and products move."
)


def write_curve(
    records: Sequence[Mapping[str, Any]], field: str, directory: Path, measured: Sequence[Mapping[str, Any]] = ()
) -> list[Path]:
    """Write ``curve.md`` and ``figures/curve.png``: records of one suite, side by side by one of its fields.

    Args:
        records: records that differ in the field.
        field: a field of their suites, such as ``policy.demonstrations``.
        directory: where to write.
        measured: what ``wristbench perf policy`` measured of such policies, for the tables of speed.

    Returns:
        The files written, the page last.

    Raises:
        UserError: the records do not have the field, or two have the same value.
    """
    columns, rows = curve.rows(records, field)
    picture = directory / "figures" / "curve.png"
    with atomic.replacing(picture) as temporary:
        curve.draw(records, field, temporary)
    last = curve.points(records, field)[-1]
    by_family, by_task = (tables.subtask_table(last.record, key) for key in ("families", "tasks"))
    gaps = curve.gap_rows(records, field)
    parts = [
        f"# {last.record['name']}: average length by {field}",
        "![Average length with its interval, a line for each arm](figures/curve.png)",
        tables.markdown(columns, rows),
        tables.markdown((columns[0], "real − anchor", "95 % interval"), gaps) if gaps else "",
        f"## Subtasks at {field} = {last.value}\n\n{SUBTASKS}" if by_task[1] else "",
        tables.markdown(*by_family) if by_family[1] else "",
        tables.markdown(*by_task) if by_task[1] else "",
        *_speeds(measured),
    ]
    return [picture, _page(directory / "curve.md", parts)]


def write_speed(measured: Sequence[Mapping[str, Any]], directory: Path) -> list[Path]:
    """Write ``speed.md``: latency and training speed of policies, a row for each measurement.

    Args:
        measured: what ``wristbench perf policy`` measured.
        directory: where to write.
    """
    return [_page(directory / "speed.md", ["# Speed of the policies", *_speeds(measured)])]


def _speeds(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    answers, trained = speed.latency_rows(measured), speed.training_rows(measured)
    latency = [f"## Inference latency\n\n{LATENCY}", tables.markdown(speed.LATENCY_COLUMNS, answers)]
    training = [f"## Training speed\n\n{TRAINING}", tables.markdown(speed.TRAINING_COLUMNS, trained)]
    return [*(latency if answers else []), *(training if trained else [])]


def _page(path: Path, parts: Sequence[str]) -> Path:
    atomic.write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path
