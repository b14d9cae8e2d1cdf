"""The command line: one verb per job.

Here stand the words, the help and the way errors reach a user; the jobs themselves live in their rooms and are
imported when their verb is called, so that ``wristbench --help`` does not wait for torch.

Every verb takes ``--json`` (one JSON object, last on stdout).  A mistake the user can mend is one line on stderr and
exit code 2.  Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.errors import UserError

Handler = Callable[[argparse.Namespace], Mapping[str, Any]]
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that says how to get help."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"wristbench: {' '.join(message.split())}; see {self.prog} --help\n")
        raise SystemExit(EXIT_USER_ERROR)


def _say(line: str) -> None:
    sys.stderr.write(f"[wristbench] {line}\n")
    sys.stderr.flush()


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
        suite, args.out or Path("results") / suite.name, options, say=(lambda _: None) if args.quiet else _say
    )


def _doctor(_: argparse.Namespace) -> Mapping[str, Any]:
    from bench.doctor import examine

    return examine()


def _collect(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.demonstrations import CollectOptions, collect

    tasks = tuple(args.tasks.split(",")) if args.tasks != "all" else "all"
    options = CollectOptions(
        scenes=args.scenes,
        tasks=tasks,
        episodes=args.episodes,
        validation_episodes=args.validation_episodes,
        noise=args.noise,
        seed=args.seed,
        assets=args.calvin_assets,
        renderer=args.renderer,
    )
    return collect(args.out, options, workers=args.workers, progress=not args.quiet)


def _rollout(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.evaluate import RolloutOptions, roll_out_policy

    options = RolloutOptions(
        scene=args.scene,
        chains=args.chains,
        workers=args.workers,
        seed=args.seed,
        steps_per_subtask=args.steps_per_subtask,
        assets=args.calvin_assets,
        renderer=args.renderer,
        ray_address=args.ray_address,
        inference=args.inference,
        progress=not args.quiet,
    )
    return roll_out_policy(args.policy, args.out, options)


def _data_check(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.check import check

    return check(args.directory).to_json()


def _data_info(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.calvin import describe

    return describe(args.directory)


def _data_view(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.view import view

    return view(args.directory, args.out, split=args.split, episode=args.episode)


def _parity(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.calvin.parity import parity

    return parity(args.assets, args.reference, builtin=args.builtin, led_button=args.led_button)


def _perf_env(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.calvin.perf_env import measure, measure_many

    world = {"scene": args.scene, "assets": args.calvin_assets, "renderer": args.renderer}
    result = measure(args.steps, **world)
    if args.workers:
        result["crowd"] = [measure_many(workers, args.steps, **world) for workers in args.workers]
    return result


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text}")
    return value


def _seed(text: str) -> int:
    from bench.suite import MAX_SEED

    value = _whole(text)
    if value > MAX_SEED:
        raise argparse.ArgumentTypeError(f"expected a seed of at most {MAX_SEED}, got {text}")
    return value


def _add_world(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("world")
    group.add_argument("--calvin-assets", type=Path, metavar="DIR", help="a calvin_env checkout; default: built-in")
    group.add_argument("--renderer", choices=("auto", "gl", "bullet-egl", "bullet-tiny"), default="auto")


def _add_ray(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("parallel")
    group.add_argument("--workers", type=_whole, metavar="W", help="worker processes; 0: none; default: one a core")
    group.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster; default: this machine")


class _Verbs:
    """Adds verbs to a parser, each with its help, its example and the options that every verb has."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)

    def add(self, name: str, handler: Handler, about: str, example: str) -> argparse.ArgumentParser:
        parser = self.group(name, about, f"example:\n  wristbench {example}")
        parser.add_argument("--json", action="store_true", help="print one JSON object, last on stdout")
        parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
        parser.set_defaults(handler=handler, show=name)
        return parser

    def group(self, name: str, about: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return self._verbs.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )


def _add_main_job(verbs: _Verbs) -> None:
    demo = verbs.add("demo", _demo, "the whole main job at the tiny scale, nothing to download",
                     "demo --out results/demo")  # fmt: skip
    run = verbs.add("run", _run, "run a suite: demonstrations to gap closure; continues what an earlier run began",
                    "run calvin_debug --dataset task_D_D --out results/calvin_debug")  # fmt: skip
    run.add_argument("suite", help="a YAML file, or the name of one in bench/suites")
    run.add_argument("--dataset", type=Path, metavar="DIR", help="a data set in CALVIN's format")
    for parser in (demo, run):
        parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: results/SUITE")
        parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="added to every seed of the suite")
        _add_ray(parser)
        _add_world(parser)
    verbs.add("doctor", _doctor, "what this machine has and what is missing", "doctor --json")


def _add_parts(verbs: _Verbs) -> None:
    collect = verbs.add("collect", _collect, "collect demonstrations with scripted experts, in CALVIN's format",
                        "collect --scenes D --tasks open_drawer,close_drawer --episodes 20 --out demos")  # fmt: skip
    collect.add_argument("--scenes", default="D", metavar="ABCD")
    collect.add_argument("--tasks", default="all", metavar="TASK,…", help="all, or names separated by commas")
    collect.add_argument("--episodes", type=_whole, default=100, metavar="N", help="training demonstrations")
    collect.add_argument("--validation-episodes", type=_whole, default=10, metavar="N")
    collect.add_argument("--noise", type=float, default=0.0, help="DART noise, a share of the action limit")
    collect.add_argument("--seed", type=_seed, default=0, metavar="N")
    collect.add_argument("--out", type=Path, required=True, metavar="DIR")
    rollout = verbs.add("rollout", _rollout, "roll out a policy on CALVIN's chains",
                        "rollout --policy expert --chains 20 --workers 2 --out results/expert")  # fmt: skip
    rollout.add_argument("--policy", required=True, metavar="NAME|DIR", help="expert, random, or a checkpoint folder")
    rollout.add_argument("--scene", choices=tuple("ABCD"), default="D")
    rollout.add_argument("--chains", type=_whole, default=1000, metavar="N", help="the first N of the 1000")
    rollout.add_argument("--steps-per-subtask", type=_whole, default=360, metavar="N")
    rollout.add_argument("--seed", type=_seed, default=0, metavar="N")
    rollout.add_argument("--out", type=Path, required=True, metavar="DIR")
    rollout.add_argument("--inference", choices=("local", "actor"), default="local", help="where the policy runs")
    for parser in (collect, rollout):
        _add_ray(parser)
        _add_world(parser)


def _add_data(verbs: _Verbs) -> None:
    data = _Verbs(verbs.group("data", "look at a data set", "example:\n  wristbench data info task_D_D"))
    check = data.add("check", _data_check, "find a data set's defects; exit code 1 when there are any",
                     "data check task_D_D --json")  # fmt: skip
    info = data.add("info", _data_info, "what a data set holds", "data info task_D_D")
    view = data.add("view", _data_view, "an mp4 and a contact sheet of one episode",
                    "data view task_D_D --split validation --episode 0 --out look")  # fmt: skip
    for parser in (check, info, view):
        parser.add_argument("directory", type=Path, metavar="DIR")
    view.add_argument("--split", choices=("training", "validation"), default="training")
    view.add_argument("--episode", type=_whole, default=0, metavar="I")
    view.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_measurements(verbs: _Verbs) -> None:
    parity = verbs.add("parity", _parity, "compare this CALVIN world with recordings of the original",
                       "parity --assets calvin_env --reference recordings --json")  # fmt: skip
    parity.add_argument("--assets", type=Path, metavar="DIR", help="a calvin_env checkout (holds data/)")
    parity.add_argument("--reference", type=Path, required=True, metavar="DIR")
    parity.add_argument("--builtin", action="store_true", help="judge the built-in scenes instead of CALVIN's assets")
    parity.add_argument("--led-button", choices=("main", "pinned"), default="main", help="calvin_env's commit")
    perf = _Verbs(verbs.group("perf", "measure the speed of a hot path", "example:\n  wristbench perf env --json"))
    env = perf.add("env", _perf_env, "steps a second of the CALVIN world", "perf env --steps 300 --json")
    env.add_argument("--scene", choices=tuple("ABCD"), default="D")
    env.add_argument("--steps", type=_whole, default=300, metavar="N")
    env.add_argument("--workers", type=_whole, nargs="+", default=[], metavar="W", help="also with W processes at once")
    _add_world(env)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        prog="wristbench",
        description="How much of the anchor–wrist gap does a generated wrist view close?",
        epilog="example:\n  wristbench demo --out results/demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = _Verbs(parser)
    _add_main_job(verbs)
    _add_parts(verbs)
    _add_data(verbs)
    _add_measurements(verbs)
    return parser


def _calm_libraries() -> None:
    """Keep libraries' chatter off stderr: a user's error must be the one line that stands there."""
    # The networks of the CPU scale gain nothing from a second thread (stage 1: 10.1 s with one, 9.7 s with two, twice
    # the CPU time) and lose several times over beside other work; jobs run side by side instead.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _complain(message: object) -> int:
    sys.stderr.write(f"wristbench: {' '.join(str(message).split())}\n")
    return EXIT_USER_ERROR


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see ``wristbench --help``."""
    args = build_parser().parse_args(arguments)
    _calm_libraries()
    from bench.stages import disk_full
    from policies.api import PolicyError
    from worldmodel.api import WorldModelError

    try:
        result = args.handler(args)
    except (UserError, PolicyError, WorldModelError) as error:
        return _complain(error)
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept, run the same command again to continue")
        return EXIT_INTERRUPTED
    except OSError as error:
        if isinstance(error, (NotADirectoryError, FileExistsError, IsADirectoryError, PermissionError)):
            return _complain(f"cannot write {error.filename}: {error.strerror}; choose another --out")
        if not disk_full(error):
            raise
        return _complain("disk full; what was finished is kept: free some space and run the same command again")
    if args.json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        from bench.show import show

        show(args.show, result)
    sys.stdout.flush()
    return 1 if args.show == "check" and result["defects"] else 0


def main() -> NoReturn:
    """Console entry point."""
    sys.exit(run())
