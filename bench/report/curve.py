"""Several records side by side: average length against one field of their suites, a line for each arm.

For learning curves (``policy.demonstrations``) and ablations.  Reads records and computes nothing; how they were made
is in ``bench/sweep.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.report import plots, tables

DEMONSTRATIONS = "policy.demonstrations"
LOG_FROM = 5
"""A field whose largest value is this many times its smallest is drawn on a logarithmic axis."""
STEP = 0.015
"""Distance of two arms' points, as a share of the axis."""


@dataclass(frozen=True)
class Point:
    """One arm in one record.

    Attributes:
        value: the field's value.
        arm: the arm's name.
        record: the record, for its numbers.
    """

    value: Any
    arm: str
    record: Mapping[str, Any]

    @property
    def entry(self) -> Mapping[str, Any]:
        """The arm's numbers."""
        return self.record["arms"][self.arm]


def value_of(record: Mapping[str, Any], field: str) -> Any:
    """Return a field of a record's suite; "all demonstrations" as their number.

    Raises:
        UserError: the suite has no such field.
    """
    place: Any = record.get("suite")
    for name in field.split("."):
        if not isinstance(place, Mapping) or (name not in place and field != DEMONSTRATIONS):
            raise UserError(f"curve: the suite of record {record.get('name')!r} has no field {field!r}")
        place = place.get(name)
    if place is None and field == DEMONSTRATIONS:
        arm = next(iter(record["arms"].values()))
        return arm.get("demonstrations") or sum(arm["train_wrist"].values())
    return place


def points(records: Sequence[Mapping[str, Any]], field: str) -> list[Point]:
    """Return a point for each arm of each record, ordered by value and then as the arms are.

    Raises:
        UserError: two records have the same value, or one has no such field.
    """
    by_value: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    for record in records:
        value = value_of(record, field)
        if str(value) in by_value:
            raise UserError(f"curve: two records have {field}={value}; give one for each value")
        by_value[str(value)] = (value, record)
    found = list(by_value.values())
    if all(_is_number(value) for value, _ in found):
        found.sort(key=lambda pair: pair[0])
    return [Point(value, arm, record) for value, record in found for arm in record["arms"]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def rows(records: Sequence[Mapping[str, Any]], field: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the columns and one row for each point."""
    columns = (field.rpartition(".")[2], *tables.ARM_COLUMNS, *tables.OFFLINE_COLUMNS[1:3])
    lines = []
    for point in points(records, field):
        one = {"arms": {point.arm: point.entry}}
        lines.append((str(point.value), *tables.arm_rows(one)[0], *tables.offline_rows(one)[0][1:3]))
    return columns, lines


def gap_rows(records: Sequence[Mapping[str, Any]], field: str) -> list[tuple[str, str, str]]:
    """Return (value, ``real`` − ``anchor``, its interval) of each record that has both arms."""
    shown = []
    for point in points(records, field):
        anchor, real = (point.record["arms"].get(name, {}).get("average_length") for name in ("anchor", "real"))
        if point.arm == "real" and anchor is not None and real is not None:
            gap = point.record.get("gap") or {"value": real - anchor, "interval": None}
            shown.append((str(point.value), tables.signed(gap["value"]), tables.signed_interval(gap["interval"])))
    return shown


def draw(records: Sequence[Mapping[str, Any]], field: str, path: Path) -> None:
    """Draw average length with its 95 % interval against the field, and the error on held-out demonstrations.

    A line for each arm; where no policy was scored on held-out demonstrations there is one panel only.

    Args:
        records: the records.
        field: the field of their suites.
        path: the file to write; its suffix decides the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = points(records, field)
    values = list(dict.fromkeys(point.value for point in found))
    numbers = all(_is_number(value) for value in values)
    at = {str(value): float(value) if numbers else float(place) for place, value in enumerate(values)}
    logarithmic = numbers and min(at.values()) > 0 and max(at.values()) >= LOG_FROM * min(at.values())
    scored = any(point.entry.get("offline") for point in found)
    figure, panels = pyplot.subplots(1, 1 + scored, figsize=(9.5 if scored else 6.4, 3.8), layout="constrained",
                                     squeeze=False)  # fmt: skip
    arms = list(dict.fromkeys(point.arm for point in found))
    for number, arm in enumerate(arms):
        line = [point for point in found if point.arm == arm]
        beside = _beside(at, logarithmic, number - (len(arms) - 1) / 2)
        colour = plots.COLOURS.get(arm, plots.OTHER)
        _lengths(panels[0, 0], line, beside, colour)
        if scored:
            _errors(panels[0, 1], line, beside, colour)
    for axes in panels[0]:
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xticks(list(at.values()), list(at))
        axes.minorticks_off()
        axes.set_xlabel(field.rpartition(".")[2].replace("_", " "))
        axes.set_ylim(0, max(0.5 if axes is panels[0, 0] else 0.0, 1.05 * axes.get_ylim()[1]))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("average length (0 … 5), 95 % interval")
    panels[0, -1].set_ylabel("action error, held out (1 = 2 cm, 0.05 rad)" if scored else panels[0, 0].get_ylabel())
    handles = [pyplot.Line2D([], [], color=plots.COLOURS.get(arm, plots.OTHER), marker="o") for arm in arms]
    figure.legend(handles, arms, loc="outside upper right", frameon=False, ncols=len(arms))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _beside(at: Mapping[str, float], logarithmic: bool, steps: float) -> dict[str, float]:
    """Return the places moved a little to the side, so that one arm's interval does not hide another's."""
    low, high = min(at.values()), max(at.values())
    if logarithmic:
        return {name: x * (high / low) ** (STEP * steps) for name, x in at.items()}
    return {name: x + (high - low or 1.0) * STEP * steps for name, x in at.items()}


def _lengths(axes: Any, line: Sequence[Point], at: Mapping[str, float], colour: str) -> None:
    line = [point for point in line if point.entry["average_length"] is not None]
    x, y = [at[str(point.value)] for point in line], [point.entry["average_length"] for point in line]
    bounds = [point.entry["interval"] or (length, length) for point, length in zip(line, y, strict=True)]
    low = [max(0.0, one - least) for one, (least, _) in zip(y, bounds, strict=True)]
    high = [max(0.0, most - one) for one, (_, most) in zip(y, bounds, strict=True)]
    axes.errorbar(x, y, [low, high], fmt="o-", capsize=4, linewidth=1.4, color=colour)


def _errors(axes: Any, line: Sequence[Point], at: Mapping[str, float], colour: str) -> None:
    """Draw the mean over seeds, and a small point for each where there are several."""
    line = [point for point in line if point.entry.get("offline")]
    x, each = [at[str(point.value)] for point in line], [point.entry["offline"]["action_error"] for point in line]
    axes.plot(x, [sum(errors) / len(errors) for errors in each], "o-", linewidth=1.4, color=colour)
    for place, errors in zip(x, each, strict=True):
        if len(errors) > 1:
            axes.plot([place] * len(errors), errors, ".", markersize=4, color="black", zorder=3)
