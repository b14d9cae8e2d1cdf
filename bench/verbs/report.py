"""``wristbench report``: pages made again from finished runs, and pages on several of them side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.verbs.common import Verbs


def _report(args: argparse.Namespace) -> Mapping[str, Any]:
    folders, measured = args.directory, [_read(path, "what perf policy --json printed") for path in args.perf]
    with _readable([*folders, *args.perf]):
        if args.curve and folders:
            written = _curve(folders, args.curve, args.out or folders[0], measured)
        elif measured and args.out and not folders:
            from bench.report import write_speed

            written = write_speed(measured, args.out)
        elif len(folders) == 1 and not (args.curve or measured or args.out):
            from bench.report import write_report

            written = write_report(_read(folders[0] / "record.json", "a finished run's record"), [], folders[0])
        else:
            raise UserError("report: expected DIR alone, DIR… --curve FIELD, or --perf FILE… --out DIR; see --help")
    return {"report": str(written[-1]), "written": [str(one) for one in written]}


def _curve(folders: list[Path], field: str, out: Path, measured: list[dict[str, Any]]) -> list[Path]:
    from bench.report import write_curve

    runs = [run for folder in folders for run in _runs(folder)]
    return write_curve([_read(run / "record.json", "a run's record") for run in runs], field, out, measured)


def _runs(folder: Path) -> list[Path]:
    """Return the folder if it is a run's, else those of its folders that are."""
    if (folder / "record.json").exists():
        return [folder]
    inside = sorted(path.parent for path in folder.glob("*/record.json"))
    if not inside:
        raise UserError(f"{folder}: expected a run's folder or a sweep's, found no record.json; give a finished run's")
    return inside


def _read(path: Path, what: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: expected {what}, got none; give a finished one's") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: expected {what}, got {error!r}; restore it or make it again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected {what}, got {type(data).__name__}; restore it or make it again")
    return data


@contextmanager
def _readable(files: list[Path]) -> Iterator[None]:
    """Turn what a record or a measurement lacks into one line."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        named = ", ".join(map(str, files))
        raise UserError(f"{named}: expected what wristbench wrote there, got {error!r}; make it again") from None


def add(verbs: Verbs) -> None:
    """Add this file's verb."""
    report = verbs.add("report", _report, "write a finished run's report again, a curve over several, or speeds",
                       "report results/curve --curve policy.demonstrations --out results/policies")  # fmt: skip
    report.add_argument("directory", type=Path, nargs="*", metavar="DIR", help="a run's folder; for a curve, a sweep's")
    report.add_argument("--curve", metavar="FIELD", help="of the suites: average length against it")
    report.add_argument("--perf", type=Path, nargs="+", default=[], metavar="FILE", help="what perf policy --json said")
    report.add_argument("--out", type=Path, metavar="DIR", help="where a curve or speeds go; default: the first DIR")
