"""A packed split, written part by part as it is collected: nothing is compressed and nothing is written twice.

What a packed split is stands in :mod:`bench.data.calvin.packed`; unpacking an existing data set, in
:mod:`bench.data.calvin.pack`.
"""

from __future__ import annotations

from pathlib import Path

from bench import atomic
from bench.data.arrays import read_npy_header
from bench.data.calvin.packed import PLAN_FILE, Layout, make_plan, shard_name
from bench.data.calvin.reader import FRAME_ARRAYS
from bench.data.calvin.split_writer import SplitWriter


class PackWriter(SplitWriter):
    """Writes one split whose parts become the shards."""

    form = "packed"

    def _take(self, folder: Path) -> None:
        """Give the part's arrays the names of a shard."""
        shard = list(self._parts).index(folder.name)
        for path in folder.glob("*.npy"):
            path.rename(self._partial / shard_name(path.stem, shard))

    def _complete(self) -> None:
        """Write the plan: every part is a shard and every episode a stretch."""
        rows = dict.fromkeys(self._parts, 0)
        for entry in self._entries:
            rows[entry["part"]] += entry["frames"]
        stretches = [(entry["first"], entry["first"] + entry["frames"] - 1) for entry in self._entries]
        atomic.write_json(self._partial / PLAN_FILE, make_plan(self._layout(), stretches, list(rows.values()), None))

    def _layout(self) -> Layout:
        layout: Layout = {}
        for key in FRAME_ARRAYS:
            path = self._partial / shard_name(key, 0)
            if path.is_file():
                with path.open("rb") as stream:
                    (_rows, *shape), dtype, _fortran = read_npy_header(stream, str(path))
                layout[key] = (dtype, tuple(shape))
        return layout
