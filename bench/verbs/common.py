"""What all verbs share: the parser, how a verb is added, and the options that several of them have."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

Handler = Callable[[argparse.Namespace], Mapping[str, Any]]
EXIT_USER_ERROR = 2


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that says how to get help."""

    def error(self, message: str) -> NoReturn:
        """End with one line and exit code 2."""
        sys.stderr.write(f"wristbench: {' '.join(message.split())}; see {self.prog} --help\n")
        raise SystemExit(EXIT_USER_ERROR)


def say(line: str) -> None:
    """Tell the user, on stderr, what goes on."""
    sys.stderr.write(f"[wristbench] {line}\n")
    sys.stderr.flush()


def whole(text: str) -> int:
    """Read a whole number from 0."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text}")
    return value


def seed(text: str) -> int:
    """Read a seed."""
    from bench.suite import MAX_SEED

    value = whole(text)
    if value > MAX_SEED:
        raise argparse.ArgumentTypeError(f"expected a seed of at most {MAX_SEED}, got {text}")
    return value


def add_world(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which CALVIN world it is."""
    group = parser.add_argument_group("world")
    group.add_argument("--calvin-assets", type=Path, metavar="DIR", help="a calvin_env checkout; default: built-in")
    group.add_argument("--renderer", choices=("auto", "gl", "bullet-egl", "bullet-tiny"), default="auto",
                       help="who draws; default: gl, or bullet-tiny where there is no EGL")  # fmt: skip


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where jobs run."""
    group = parser.add_argument_group("parallel")
    group.add_argument("--workers", type=whole, metavar="W", help="worker processes; 0: none; default: one a core")
    group.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster; default: this machine")


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a rollout's policy runs."""
    group = parser.add_argument_group("inference")
    group.add_argument("--inference", choices=("local", "actor"), help="a policy in each worker, or batching actors "
                       "that all workers ask; default: actors where there is a GPU")  # fmt: skip
    group.add_argument(
        "--lanes", type=whole, metavar="N", help="chains side by side in a worker; as many as keep it at work"
    )
    group.add_argument("--servers", type=whole, metavar="N", help="batching actors; default: one per GPU")
    group.add_argument("--batch", type=whole, default=16, metavar="B", help="the actors' batch size, always padded to")


class Verbs:
    """Adds verbs to a parser, each with its help, its example and the options that every verb has."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)

    def add(self, name: str, handler: Handler, about: str, example: str) -> argparse.ArgumentParser:
        """Add a verb; its options are added to the parser that is returned."""
        parser = self.group(name, about, f"example:\n  wristbench {example}")
        parser.add_argument("--json", action="store_true", help="print one JSON object, last on stdout")
        parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
        parser.set_defaults(handler=handler, show=name)
        return parser

    def group(self, name: str, about: str, epilog: str | None = None) -> argparse.ArgumentParser:
        """Add a word under which verbs of one kind stand, or one verb without the usual options."""
        return self._verbs.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
