"""What a verb's result looks like in a terminal.  ``--json`` prints the same data without this file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

TERMINAL_COLUMNS = ("arm", "length", "95 %", "1/5", "2/5", "3/5", "4/5", "5/5", "chains")
"""Heads of ``tables.ARM_COLUMNS`` that fit 80 characters."""

MOST_COLUMNS = 8


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
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "part", "found", "what to do"):
        table.add_column(column, overflow="fold")  # a command that is cut off cannot be typed
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


def _rollout(console: Console, record: Mapping[str, Any]) -> None:
    success = " · ".join(f"{100 * share:.0f}" for share in record["chain_success"])
    console.print(
        f"{escape(record['arm'])}: average length {record['average_length']:.2f} (95 % {_from_to(record['interval'])}) "
        f"over {record['chains']} chains; % of them that solved 1 … 5 in a row: {success}"
    )
    table = Table("family", "solved", "of", "%", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name, one in record["families"].items():
        table.add_row(escape(name), str(one["successes"]), str(one["attempts"]), f"{100 * one['rate']:.0f}")
    console.print(table)
    if record["missing"]:
        console.print(f"{record['missing']} chains could not be run and are in no number; with them the average length "
                      f"lies in {_from_to(record['bounds'])}")  # fmt: skip
    if "comparison" in record:
        _comparison(console, record["comparison"])
    console.print(f"record: {escape(record['out'])}/record.json")


def _comparison(console: Console, said: Mapping[str, Any]) -> None:
    other = f"against {escape(said['against'])} ({escape(said['their_arm'])}/{said['their_seed']})"
    whole = said["over_all"]
    if whole is not None:
        needed = whole["chains_needed"]
        more = "" if needed is None else f"; about {needed} chains would show a difference of this size"
        spread = "no interval" if whole["interval"] is None else f"95 % {_from_to(whole['interval'])}"
        difference = f"{whole['value']:+.2f} ({spread})"
        console.print(f"{other}: {difference} on {whole['chains']} chains that both have{more}")
        return
    difference = "no pair" if said["mean_difference"] is None else f"{said['mean_difference']:+.2f}"
    console.print(f"{other}: {said['decided'] or 'not decided'}{', stopped early' if said['stopped_early'] else ''}; "
                  f"{difference} ({_from_to(said['interval'])} at error level {said['error_level']:g}) on "
                  f"{said['scored']} pairs")  # fmt: skip


def _from_to(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.2f} … {bounds[1]:.2f}"


def _train_policy(console: Console, result: Mapping[str, Any]) -> None:
    heads = ("policy", "seconds", "loss", "action error", "wrist exchanged", "gripper %")
    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name, one in result["policies"].items():
        held_out, exchanged = one["validation"] or {}, one["wrist_shuffled"] or {}
        gripper = held_out.get("gripper_accuracy")
        table.add_row(
            escape(name),
            f"{one['seconds']:.0f}",
            _cell(held_out.get("loss")),
            _cell(held_out.get("action_error")),
            _cell(exchanged.get("action_error")),
            _cell(None if gripper is None else 100 * gripper),
        )
    console.print(table)
    console.print("of the validation split; wrist exchanged: with the wrist views of other frames")
    console.print(f"policies, loss.png and training.json: {escape(result['out'])}")


def _plain(console: Console, result: Mapping[str, Any]) -> None:
    listed = {name: value for name, value in result.items() if _is_table(value)}
    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines({name: value for name, value in result.items() if name not in listed}):
        table.add_row(escape(name), escape(text))
    console.print(table)
    for name, rows in listed.items():
        console.print(escape(name))
        table = Table(*map(escape, rows[0]), box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for row in rows:
            table.add_row(*(escape(_cell(value)) for value in row.values()))
        console.print(table)


def _is_table(value: Any) -> bool:
    """Say whether a value is a list of measurements of the same few things."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(row, Mapping) for row in value) or not value:
        return False
    flat = not any(isinstance(one, (Mapping, list, tuple)) for row in value for one in row.values())
    return flat and len({tuple(row) for row in value}) == 1 and len(value[0]) <= MOST_COLUMNS


def _lines(result: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield a line for each value, those of mappings within indented below their name."""
    for name, value in result.items():
        indented = f"{'  ' * depth}{name}"
        if isinstance(value, Mapping) and value:
            yield indented, ""
            yield from _lines(value, depth + 1)
        elif isinstance(value, (list, tuple)) and any(isinstance(one, Mapping) for one in value):
            for number, one in enumerate(value, 1):
                yield from _lines({f"{name} {number}": one}, depth)
        else:
            yield indented, _cell(value)


def _cell(value: Any) -> str:
    """Return a number, a text or a list of them as a person would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "none"
    return "none" if value == {} else str(value)


_SHOWN = {
    "demo": _record,
    "run": _record,
    "doctor": _doctor,
    "check": _check,
    "experts": _experts,
    "watch": _watch,
    "perf rollout": _perf_rollout,
    "rollout": _rollout,
    "train-policy": _train_policy,
}


def show(verb: str, result: Mapping[str, Any]) -> None:
    """Print ``result`` for a person, on stdout."""
    _SHOWN.get(verb, _plain)(Console(highlight=False), result)
