"""The command line: one verb per job.

Here stands the way results and errors reach a user.  The verbs, their words and their help are in ``bench/verbs/``; the
jobs themselves live in their rooms and are imported when their verb is called, so that ``wristbench --help`` does not
wait for torch.

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
from collections.abc import Sequence
from typing import NoReturn

from bench.errors import UserError
from bench.verbs import data, main_job, measure, parts, report, rollout, serve
from bench.verbs.common import EXIT_USER_ERROR, Parser, Verbs

EXIT_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="wristbench",
        description="How much of the anchor–wrist gap does a generated wrist view close?",
        epilog="example:\n  wristbench demo --out results/demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = Verbs(parser)
    for room in (main_job, report, parts, rollout, serve, data, measure):
        room.add(verbs)
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


if __name__ == "__main__":
    main()
