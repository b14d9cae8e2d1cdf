"""One suite run for several values of one of its fields: learning curves and ablations.

Each value has a folder with its own record and report.  They share their stages, so what does not depend on the field
(demonstrations, the world model) is made once.  What is drawn of their records is in ``bench/report/curve.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bench import atomic
from bench.errors import UserError
from bench.main_job import Options
from bench.pipeline import run_suite
from bench.report import write_curve
from bench.suite import Suite


@dataclass(frozen=True)
class Sweep:
    """The values that one field of a suite takes.

    Attributes:
        field: its name with the parts above it, such as ``policy.demonstrations``.
        values: what it is set to, one after the other.
    """

    field: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """Read ``FIELD=VALUE,VALUE,…``.

        Raises:
            UserError: not of that form, or a value twice.
        """
        field, _, listed = text.partition("=")
        values = tuple(yaml.safe_load(value) for value in listed.split(",") if value.strip())
        if not field or not values or len(set(map(str, values))) != len(values):
            raise UserError(
                f"sweep {text!r}: expected FIELD=VALUE,VALUE,… with each value once; give policy.demonstrations=100,300"
            )
        return cls(field, values)

    def suites(self, suite: Suite) -> dict[str, Suite]:
        """Return the suite for each value, by the name of its folder.

        Raises:
            UserError: a suite has no such field, or not with that value.
        """
        *parents, name = self.field.split(".")
        made = {}
        for value in self.values:
            data = suite.to_json()
            place: Any = data
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if not isinstance(place, dict) or name not in place or isinstance(place[name], dict):
                raise UserError(f"sweep: a suite has no field {self.field!r}; bench/suite.py documents each")
            place[name] = value
            try:
                made[f"{name}-{value}"] = Suite.model_validate(data)
            except ValidationError as error:
                said = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise UserError(f"sweep: {self.field}={value}: {said}; give other values") from None
        return made


def run_sweep(suite: Suite, sweep: Sweep, out: Path, options: Options, say: Callable[[str], object]) -> dict[str, Any]:
    """Run a suite for each value of a sweep, or go on with what an earlier run left, and draw the curve.

    Args:
        suite: the experiment.
        sweep: what is varied.
        out: gets a folder for each value, ``stages/``, ``curve.md`` and ``figures/curve.png``.
        options: as for :func:`bench.pipeline.run_suite`.
        say: takes one line about each stage.

    Returns:
        ``sweep``, ``runs`` (folder to arm to average length) and ``report``.
    """
    suites = sweep.suites(suite)
    lengths, records = {}, []
    with atomic.locked(out):
        for name, changed in suites.items():
            say(f"{sweep.field}: {name.rpartition('-')[2]}")
            records.append(run_suite(changed, out / name, options, say, stages=out / "stages"))
            lengths[name] = {arm: entry["average_length"] for arm, entry in records[-1]["arms"].items()}
        page = write_curve(records, sweep.field, out)[-1]
    return {"sweep": sweep.field, "runs": lengths, "report": str(page)}
