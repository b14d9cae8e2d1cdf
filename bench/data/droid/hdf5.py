"""Arrays of HDF5 files that may be damaged or hostile: no link is followed, sizes are checked before reading.

An HDF5 file can name other files (external links, external storage, virtual data sets) and announce any size; such
parts are refused.  Not here: what the arrays mean.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.arrays import first_line, printable
from bench.errors import UserError

MAX_ROWS = 1_000_000
"""Most rows of an array: at 15 a second most of a day."""

_MAX_BYTES = 1 << 30
_MAX_NAMES = 5000
_MAX_DEPTH = 8
_BROKEN = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, MemoryError, IndexError)


def list_arrays(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the name (``"group/name"``) and shape of every array of numbers in a file.

    Raises:
        UserError: missing, damaged, or more arrays than any recording has.
    """
    found: dict[str, tuple[int, ...]] = {}
    seen = 0

    def visit(group: Any, prefix: str, depth: int) -> None:
        import h5py

        nonlocal seen
        for name in group:
            seen += 1  # names, not arrays: few groups that hold one another can be walked in very many ways
            if seen > _MAX_NAMES or depth > _MAX_DEPTH:
                raise UserError(
                    f"{path}: expected a recording's arrays, got over {_MAX_NAMES} or deeper groups; refused"
                )
            if type(group.get(name, getlink=True)) is not h5py.HardLink:
                continue
            item = group[name]
            if isinstance(item, h5py.Group):
                visit(item, f"{prefix}{name}/", depth + 1)
            elif isinstance(item, h5py.Dataset) and _plain(item):
                found[f"{prefix}{name}"] = tuple(item.shape)

    _opened(path, lambda file: visit(file, "", 0))
    return found


def read_arrays(path: Path, names: list[str], rows: slice) -> dict[str, NDArray[Any]]:
    """Return rows of arrays, as they are stored.

    Args:
        path: the file.
        names: which arrays.
        rows: which rows; a range with an end.

    Raises:
        UserError: missing, damaged, a link to elsewhere, no numbers, or too few rows.
    """
    return dict(_opened(path, lambda file: [(name, _read(file, path, name, rows)) for name in names]) or [])


def _read(file: Any, path: Path, name: str, rows: slice) -> NDArray[Any]:
    import h5py

    item = file
    for part in name.split("/"):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if type(link) is not h5py.HardLink:
            what = "no such array" if link is None else "a link to elsewhere"
            raise UserError(f"{path}: expected an array {printable(name)!r}, got {what}; fetch it again")
        item = item[part]
    if not isinstance(item, h5py.Dataset) or not _plain(item):
        raise UserError(f"{path} [{printable(name)}]: expected an array of numbers, got something else; refused")
    if not 0 <= rows.start < rows.stop <= item.shape[0]:
        raise UserError(f"{path} [{printable(name)}]: expected {rows.stop} rows, got {item.shape[0]}; cut short")
    return np.asarray(item[rows])


def _plain(item: Any) -> bool:
    """Whether a data set holds a sane number of numbers, in this very file."""
    if item.shape is None or item.dtype.kind not in "fiub" or not 1 <= len(item.shape) <= 4 or item.shape[0] > MAX_ROWS:
        return False
    sizes = [math.prod(item.shape) * item.dtype.itemsize]
    if item.chunks is not None:
        sizes.append(math.prod(item.chunks) * item.dtype.itemsize)
    return not item.is_virtual and not item.external and max(sizes) <= _MAX_BYTES


def _opened(path: Path, work: Any) -> Any:
    import h5py

    if not path.is_file():
        raise UserError(f"{path}: expected a recording, got no such file; fetch the data set again")
    try:
        with h5py.File(path, "r", locking=False) as file:
            return work(file)
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"cannot read {path}: no whole HDF5 file ({first_line(error)}); fetch it again") from None
