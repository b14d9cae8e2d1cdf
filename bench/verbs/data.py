"""``wristbench data …``: looking at data sets."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.verbs.common import Verbs, whole


def _data_check(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.check import check

    return check(args.directory).to_json()


def _data_info(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.calvin import describe

    return describe(args.directory)


def _data_view(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.view import view

    return view(args.directory, args.out, split=args.split, episode=args.episode)


def add(verbs: Verbs) -> None:
    """Add this file's verbs."""
    data = Verbs(verbs.group("data", "look at a data set", "example:\n  wristbench data info task_D_D"))
    check = data.add("check", _data_check, "find a data set's defects; exit code 1 when there are any",
                     "data check task_D_D --json")  # fmt: skip
    info = data.add("info", _data_info, "what a data set holds", "data info task_D_D")
    view = data.add("view", _data_view, "an mp4 and a contact sheet of one episode",
                    "data view task_D_D --split validation --episode 0 --out look")  # fmt: skip
    for parser in (check, info, view):
        parser.add_argument("directory", type=Path, metavar="DIR")
    view.add_argument("--split", choices=("training", "validation"), default="training")
    view.add_argument("--episode", type=whole, default=0, metavar="I")
    view.add_argument("--out", type=Path, required=True, metavar="DIR")
