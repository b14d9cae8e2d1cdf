"""What a verb's result looks like in a terminal.  ``--json`` prints the same data without this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

TERMINAL_COLUMNS = ("arm", "length", "95 %", "1/5", "2/5", "3/5", "4/5", "5/5", "chains")
"""Heads of ``tables.ARM_COLUMNS`` that fit 80 characters."""


def _record(console: Console, record: Mapping[str, Any]) -> None:
    from bench.report import tables

    console.print(
        f"{escape(record['name'])}: average length (0–5), % of chains that solved 1, 2, … 5 subtasks in a row"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in TERMINAL_COLUMNS:
        table.add_column(column, no_wrap=True, justify="left" if column == "arm" else "right")
    for row in tables.arm_rows(record):
        table.add_row(*(cell.removesuffix(" %") for cell in row))
    console.print(table)
    for line in [*tables.missing_lines(record), *tables.closure_lines(record)]:
        console.print(escape(line.replace("`", "")))
    for name, psnr, ssim, frames in tables.video_rows(record):
        console.print(f"{name}: PSNR {psnr} dB, SSIM {ssim} over {frames} generated validation frames")
    console.print(f"report: {escape(record['report'])}")


def _doctor(console: Console, result: Mapping[str, Any]) -> None:
    table = Table("", "part", "found", "what to do")
    for name, finding in result["checks"].items():
        table.add_row("✓" if finding["ok"] else "–", escape(name), escape(finding["found"]), escape(finding["remedy"]))
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
    console.print(", ".join(f"{name} {value or 'absent'}" for name, value in result["packages"].items()))


def _check(console: Console, result: Mapping[str, Any]) -> None:
    for defect in result["defects"]:
        console.print(
            escape(f"{defect['file']} {'' if defect['frame'] is None else defect['frame']}: {defect['what']}")
        )
    console.print(f"{result['frames']} frames, {result['episodes']} episodes, {result['windows']} windows, "
                  f"{len(result['defects'])} defects")  # fmt: skip


def _experts(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(*("task", *result["scenes"]), box=box.SIMPLE_HEAD, pad_edge=False)
    for task, scenes in result["tasks"].items():
        cells = [f"{one['solved']}/{one['attempts']}" for one in (scenes[scene] for scene in result["scenes"])]
        table.add_row(escape(task), *cells)
    console.print(table)
    console.print(f"{result['solved']} of {result['attempts']} attempts in {result['seconds']} s; the lowest rate is "
                  f"{result['lowest']:.0%}; below target: {', '.join(result['below_target']) or 'none'}")  # fmt: skip


def _watch(console: Console, state: Mapping[str, Any]) -> None:
    from bench.rollout.watch import picture

    console.print(picture(state))


def _perf_rollout(console: Console, result: Mapping[str, Any]) -> None:
    from bench.perf.rollout import rows

    lines = rows(result)
    table = Table(*lines[0], box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for line in lines[1:]:
        table.add_row(*(escape(cell) for cell in line))
    console.print(table)
    console.print(f"policy {escape(result['policy'])} on {result['device']}, {result['cpus']} cores here; "
                  f"rows in common are {'the same' if result['same_rows'] else 'DIFFERENT'}")  # fmt: skip


def _plain(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(show_header=False)
    for name, value in result.items():
        table.add_row(escape(str(name)), escape(str(value)))
    console.print(table)


_SHOWN = {
    "demo": _record,
    "run": _record,
    "doctor": _doctor,
    "check": _check,
    "experts": _experts,
    "watch": _watch,
    "perf rollout": _perf_rollout,
}


def show(verb: str, result: Mapping[str, Any]) -> None:
    """Print ``result`` for a person, on stdout."""
    _SHOWN.get(verb, _plain)(Console(highlight=False), result)
