"""``wristbench data …``: looking at data sets, checking them, packing them, writing them in other formats."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.bars import counting
from bench.verbs.common import Verbs, whole

BEST_CRF, WORST_CRF = 0, 51
"""x264's scale of quality; AV1's goes further, to what nobody wants."""

_FORMATS = "a CALVIN, packed, LeRobot or raw DROID folder"


def _data_check(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.opening import check_dataset, count_frames

    with counting("check", lambda: count_frames(args.directory), "frames", show=not args.quiet) as each:
        return check_dataset(args.directory, mapping=args.mapping, each=each).to_json()


def _data_info(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.opening import describe

    return describe(args.directory, args.mapping)


def _data_view(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.view import view

    return view(
        args.directory,
        args.out,
        split=args.split,
        episode=args.episode,
        overlay=args.overlay,
        mapping=args.mapping,
    )


def _data_pack(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.calvin.pack import PACKED_KEYS, pack_dataset
    from bench.data.opening import CALVIN, count_frames, describe, detect
    from bench.errors import UserError

    kind = detect(args.directory)
    if kind != CALVIN:
        raise UserError(
            f"{args.directory}: expected a CALVIN data set to pack, got a {kind} one, which is read as it is"
        )
    keys = tuple(args.keys.split(",")) if args.keys else PACKED_KEYS
    with counting("pack", lambda: count_frames(args.directory), "frames", show=not args.quiet) as each:
        pack_dataset(
            args.directory, args.out, keys=keys, windows_only=args.windows_only, workers=args.workers, each=each
        )
    return describe(args.out)


def _data_export(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.data.export import export_lerobot
    from bench.data.opening import open_dataset
    from bench.data.overlay import Overlay

    dataset = open_dataset(args.directory, args.split, mapping=args.mapping, workers=2)
    overlay = Overlay.open(args.overlay, dataset.hash()) if args.overlay else None
    with counting("export", lambda: len(dataset), "frames", show=not args.quiet) as each:
        return export_lerobot(
            dataset,
            args.out,
            overlay=overlay,
            codec=args.codec,
            crf=args.crf,
            windows_only=args.windows_only,
            each=each,
        )


def _crf(text: str) -> int:
    value = whole(text)
    if not BEST_CRF <= value <= WORST_CRF:
        raise argparse.ArgumentTypeError(f"expected {BEST_CRF} (best) to {WORST_CRF}, got {text}")
    return value


def add(verbs: Verbs) -> None:
    """Add this file's verbs."""
    data = Verbs(verbs.group("data", "look at a data set, check, pack or export it",
                             "example:\n  wristbench data info task_D_D"))  # fmt: skip
    check = data.add("check", _data_check, "find a data set's defects; exit code 1 when there are any",
                     "data check task_D_D --json")  # fmt: skip
    info = data.add("info", _data_info, "what a data set holds", "data info task_D_D")
    view = data.add("view", _data_view, "an mp4 and a contact sheet of one episode",
                    "data view task_D_D --split validation --episode 0 --out look")  # fmt: skip
    pack = data.add("pack", _data_pack, "unpack a CALVIN data set, for training at memory speed; goes on after a kill",
                    "data pack task_ABC_D --windows-only --out packed")  # fmt: skip
    export = data.add("export", _data_export, "write a data set as LeRobot v3.0; goes on after a kill",
                      "data export task_D_D --format lerobot --overlay views --out lerobot")  # fmt: skip
    for parser in (check, info, view, pack, export):
        parser.add_argument("directory", type=Path, metavar="DIR", help=_FORMATS)
    for parser in (check, info, view, export):
        parser.add_argument("--mapping", type=Path, metavar="YAML",
                            help="names anchors and wrist; default: DIR/rig.yaml, or guess")  # fmt: skip
    for parser in (view, export):
        parser.add_argument("--split", choices=("training", "validation"), default="training", help="of a CALVIN set")
        parser.add_argument("--overlay", type=Path, metavar="DIR", help="generated wrist views of this data set")
    for parser in (view, pack, export):
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets what is written")
    for parser in (pack, export):
        parser.add_argument("--windows-only", action="store_true", help="leave out frames of no language window")
    view.add_argument("--episode", type=whole, default=0, metavar="I", help="its number, from 0")
    pack.add_argument("--keys", metavar="KEY,…", help="which arrays; default: what a policy reads")
    pack.add_argument("--workers", type=whole, default=2, metavar="W", help="threads that unpack")
    export.add_argument("--format", choices=("lerobot",), default="lerobot")
    export.add_argument("--codec", choices=("h264", "av1", "lossless"), default="h264",
                        help="of the videos; lossless brings every bit back and is several times larger")  # fmt: skip
    export.add_argument("--crf", type=_crf, metavar="0-51", help="quality of the videos; lower is better")
