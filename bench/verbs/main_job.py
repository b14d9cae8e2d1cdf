"""``wristbench demo | run | doctor``: the whole main job, and what this machine has."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.verbs.common import Verbs, add_ray, add_world, say, seed


def _demo(args: argparse.Namespace) -> Mapping[str, Any]:
    args.suite = "demo"
    args.dataset = args.sweep = None
    return _run(args)


def _run(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.main_job import Options
    from bench.pipeline import run_suite
    from bench.suite import load_suite

    options = Options(
        dataset=args.dataset,
        seed=args.seed,
        workers=args.workers,
        assets=args.calvin_assets,
        renderer=args.renderer,
        ray_address=args.ray_address,
        progress=not args.quiet,
    )
    suite = load_suite(args.suite)
    out, tell = args.out or Path("results") / suite.name, (lambda _: None) if args.quiet else say
    if args.sweep:
        from bench.sweep import Sweep, run_sweep

        args.show = "sweep"
        return run_sweep(suite, Sweep.parse(args.sweep), out, options, say=tell)
    return run_suite(suite, out, options, say=tell)


def _report(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.report import write_curve, write_report

    if args.curve:
        folders = [one for folder in args.directory for one in _runs(folder)]
        measured = [_read(path, "what perf policy --json printed") for path in args.perf]
        records = [_read(folder / "record.json", "a run's record") for folder in folders]
        with _readable(args.directory[0]):
            written = write_curve(records, args.curve, args.out or args.directory[0], measured)
    else:
        if len(args.directory) > 1 or args.perf or args.out:
            raise UserError("report: several folders, --perf and --out go with --curve FIELD; give one folder without")
        with _readable(args.directory[0]):
            record = _read(args.directory[0] / "record.json", "the record of a finished run")
            written = write_report(record, [], args.directory[0])
    return {"report": str(written[-1]), "written": [str(one) for one in written]}


def _runs(folder: Path) -> list[Path]:
    """Return the folder if it is a run's, else those of its folders that are."""
    if (folder / "record.json").exists():
        return [folder]
    inside = sorted(path.parent for path in folder.glob("*/record.json"))
    if not inside:
        raise UserError(f"{folder}: expected a run's folder or a sweep's, found no record.json; give a finished run's")
    return inside


def _read(path: Path, what: str) -> dict[str, Any]:
    import json

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
def _readable(folder: Path) -> Iterator[None]:
    """Turn what a record lacks into one line."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: expected a run's record, got {error!r}; restore it or run the suite again"
        ) from None


def _doctor(_: argparse.Namespace) -> Mapping[str, Any]:
    from bench.doctor import examine

    return examine()


def add(verbs: Verbs) -> None:
    """Add this file's verbs."""
    demo = verbs.add("demo", _demo, "the whole main job at the tiny scale, nothing to download",
                     "demo --out results/demo")  # fmt: skip
    run = verbs.add("run", _run, "run a suite: demonstrations to gap closure; continues what an earlier run began",
                    "run calvin_debug --dataset task_D_D --out results/calvin_debug")  # fmt: skip
    run.add_argument("suite", help="a YAML file, or the name of one in bench/suites")
    run.add_argument("--dataset", type=Path, metavar="DIR", help="a data set in CALVIN's format")
    run.add_argument("--sweep", metavar="FIELD=V,…", help="a run for each value, such as policy.demonstrations=100,300")
    for parser in (demo, run):
        parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: results/SUITE")
        parser.add_argument("--seed", type=seed, default=0, metavar="N", help="added to every seed of the suite")
        add_ray(parser)
        add_world(parser)
    report = verbs.add("report", _report, "write a finished run's report again, or a curve over several runs",
                       "report results/curve --curve policy.demonstrations --out results/policies")  # fmt: skip
    report.add_argument("directory", type=Path, nargs="+", metavar="DIR", help="a run's folder, or a sweep's")
    report.add_argument("--curve", metavar="FIELD", help="of the suites: average length against it")
    report.add_argument("--perf", type=Path, nargs="+", default=[], metavar="FILE", help="what perf policy --json said")
    report.add_argument("--out", type=Path, metavar="DIR", help="where the curve goes; default: the first DIR")
    verbs.add("doctor", _doctor, "what this machine has and what is missing", "doctor --json")
