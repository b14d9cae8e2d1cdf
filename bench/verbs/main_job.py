"""``wristbench demo | run | doctor``: the whole main job, and what this machine has."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.verbs.common import Verbs, add_ray, add_world, say, seed


def _demo(args: argparse.Namespace) -> Mapping[str, Any]:
    args.suite = "demo"
    args.dataset = None
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
    return run_suite(
        suite, args.out or Path("results") / suite.name, options, say=(lambda _: None) if args.quiet else say
    )


def _report(args: argparse.Namespace) -> Mapping[str, Any]:
    import json

    from bench.errors import UserError
    from bench.report import write_report

    path = args.directory / "record.json"
    try:
        record = json.loads(path.read_text())
        written = write_report(record, [], args.directory)
    except FileNotFoundError:
        raise UserError(f"{path}: expected the record of a finished run, got none; give a run's folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a run's record, got {error!r}; restore it or run the suite again") from None
    return {"report": str(written[-1]), "written": [str(one) for one in written]}


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
    for parser in (demo, run):
        parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: results/SUITE")
        parser.add_argument("--seed", type=seed, default=0, metavar="N", help="added to every seed of the suite")
        add_ray(parser)
        add_world(parser)
    report = verbs.add("report", _report, "write a finished run's report again from its record, without the gallery",
                       "report results/gap_abc_d")  # fmt: skip
    report.add_argument("directory", type=Path, metavar="DIR", help="the run's folder")
    verbs.add("doctor", _doctor, "what this machine has and what is missing", "doctor --json")
