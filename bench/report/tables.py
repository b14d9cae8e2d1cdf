"""The tables of a run, as rows of text: one for the terminal, one for Markdown, from the same record.

A value that is missing is printed as an em dash, never as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.published import PUBLISHED

MISSING = "—"
GAP_COLUMN = "real − anchor (points, 95 %)"
ARM_COLUMNS = ("arm", "average length", "95 % interval", "1/5", "2/5", "3/5", "4/5", "5/5", "chains × seeds")


def number(value: float | None, digits: int = 2, percent: bool = False) -> str:
    """Return a number as text, or an em dash."""
    if value is None:
        return MISSING
    return f"{100 * value:.{digits}f} %" if percent else f"{value:.{digits}f}"


def interval(bounds: Sequence[float] | None, percent: bool = False) -> str:
    """Return an interval as text, or an em dash."""
    if bounds is None:
        return MISSING
    low, high = bounds
    return f"{100 * low:.1f} … {100 * high:.1f} %" if percent else f"{low:.2f} … {high:.2f}"


def signed(value: float, digits: int = 2) -> str:
    """Return a difference as text, with its sign."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # no minus before a rounded 0


def signed_interval(bounds: Sequence[float] | None, scale: float = 1.0, digits: int = 2) -> str:
    """Return the interval of a difference as text, or an em dash."""
    return MISSING if bounds is None else " … ".join(signed(scale * bound, digits) for bound in bounds)


def arm_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return one row of :data:`ARM_COLUMNS` for each arm, then for each bound."""
    rows = []
    for name, arm in [*record["arms"].items(), *record.get("bounds", {}).items()]:
        success = [number(share, 1, percent=True) for share in arm["chain_success"]]
        size = f"{arm['chains']} × {len(arm['seeds'])}"
        rows.append((name, number(arm["average_length"]), interval(arm["interval"]), *success, size))
    return rows


def missing_lines(record: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each arm with chains that could not be run: what its average length may have been."""
    lines = []
    for name, arm in [*record["arms"].items(), *record.get("bounds", {}).items()]:
        if arm.get("missing"):
            known = f"; with them the average length lies in {interval(arm['bounds'])}" if arm.get("bounds") else ""
            lines.append(f"`{name}`: {arm['missing']} chains could not be run and are in no number{known}.")
    return lines


def closure_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the gap, and one on each arm that may close it: how much it does, or why none is said."""
    lines = []
    gap = record.get("gap")
    if gap:
        size = f"{gap['chains']} chains, {gap['seeds']} seed{'s' if gap['seeds'] != 1 else ''}"
        bounds = signed_interval(gap["interval"])
        lines.append(f"Gap `real` − `anchor`: {signed(gap['value'])} subtasks (95 % interval {bounds}; {size}).")
    for name, closure in record["gap_closure"].items():
        if closure["value"] is None:
            lines.append(f"Gap closure of `{name}`: not printed, {closure['reason']}.")
        else:
            value, bounds = number(closure["value"], 1, percent=True), interval(closure["interval"], percent=True)
            lines.append(f"Gap closure of `{name}`: {value} (95 % interval {bounds}).")
    return lines


def subtask_table(record: Mapping[str, Any], key: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows of the success of subtasks that were attempted, by arm and bound, and the gap's.

    An arm attempts a subtask only where it solved those before it in the chain, so arms attempt different numbers: each
    cell says of how many.

    Args:
        record: the run's record.
        key: ``"families"`` or ``"tasks"``.
    """
    arms = {name: arm.get(key) or {} for name, arm in record["arms"].items()}
    bounds = {name: bound[key] for name, bound in record.get("bounds", {}).items() if bound.get(key)}
    names = sorted({name for scores in arms.values() for name in scores})
    columns: tuple[str, ...] = (key.removesuffix("s").replace("familie", "family"), *arms, *bounds)
    rows = [(name, *(_share(scores.get(name)) for scores in (*arms.values(), *bounds.values()))) for name in names]
    gap = record.get("gap")
    if gap:
        columns = (*columns, GAP_COLUMN)
        rows = [(*row, _points(gap[key].get(row[0]))) for row in rows]
    return columns, rows


def _points(difference: Mapping[str, Any] | None) -> str:
    """Return a difference of shares in percentage points, with its interval where there is one."""
    if difference is None or difference["value"] is None:
        return MISSING
    return f"{signed(100 * difference['value'], 0)} ({signed_interval(difference['interval'], 100, 0)})"


def _share(score: Mapping[str, Any] | None) -> str:
    if score is None or score["rate"] is None:
        return MISSING
    return f"{number(score['rate'], 0, percent=True)} of {score['attempts']}"


OFFLINE_COLUMNS = ("arm", "action error", "with another frame's wrist", "gripper right", "samples × seeds")


def offline_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return one row of :data:`OFFLINE_COLUMNS` for each arm: its policies on held-out demonstrations, mean over seeds.

    An arm without a wrist view has none that could be exchanged, and one that is shown a generated view was not scored:
    their cells are dashes.
    """
    rows: list[tuple[str, ...]] = []
    for name, arm in record["arms"].items():
        offline = arm.get("offline") or {}
        error, exchanged = _mean(offline.get("action_error")), _mean(offline.get("action_error_shuffled"))
        change = "" if not error or exchanged is None else f" ({signed(100 * (exchanged / error - 1), 0)} %)"
        size = f"{offline['samples']} × {len(offline['action_error'])}" if offline else MISSING
        right = number(_mean(offline.get("gripper_accuracy")), 1, percent=True)
        rows.append((name, number(error, 3), number(exchanged, 3) + change, right, size))
    return rows


def task_error_table(record: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows of the action error on held-out demonstrations by task and arm, mean over seeds."""
    arms = {name: (arm.get("offline") or {}).get("task_error") or {} for name, arm in record["arms"].items()}
    tasks = sorted({task for errors in arms.values() for task in errors})
    return ("task", *arms), [
        (task, *(number(_mean(errors.get(task)), 3) for errors in arms.values())) for task in tasks
    ]


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def video_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return (generator, psnr, ssim, frames) for the generator and each baseline, on validation episodes."""
    return [
        (name, number(scores["psnr"]), number(scores["ssim"], 3), str(scores["frames"]))
        for name, scores in record["video"].get("generators", {}).items()
    ]


def published_rows() -> list[tuple[str, ...]]:
    """Return the published comparisons as rows of text."""
    return [
        (p.method, p.split, number(p.anchor), number(p.generated), number(p.real), p.source.replace("|", "/"))
        for p in PUBLISHED
    ]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a GitHub table; every column but the first is aligned right when it holds numbers."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(["---"] * len(columns)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
