"""Columns of parquet files that may be damaged or hostile: sizes are bounded before anything is unpacked.

A parquet file of a few kilobytes can announce billions of values, so they are counted first
(:mod:`bench.data.lerobot.parquet_footer`).
No object in a file is ever built: columns become NumPy arrays of numbers or words.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.arrays import first_line, printable
from bench.data.lerobot.parquet_footer import Footer, check_pages, read_footer
from bench.errors import UserError

MAX_ROWS = 500_000_000
"""Most rows of a table; the largest public data set of this kind has a tenth."""

MAX_BYTES = 4 << 30
"""Most memory that one column of one file may take."""

_BATCH = 256


def count_rows(path: Path) -> int:
    """Return the number of rows of a file.

    Raises:
        UserError: missing, damaged, or too many rows.
    """
    rows = sum(read_footer(path).rows)
    if rows > MAX_ROWS:
        raise UserError(f"{path}: expected at most {MAX_ROWS} rows, got {rows}; refused to read it")
    return rows


def _open(path: Path) -> Any:
    """Return the opened file (``pyarrow.parquet.ParquetFile``); its sizes must have been checked."""
    import pyarrow.parquet as pq

    opened = _guarded(lambda: pq.ParquetFile(path), path)
    _guarded(lambda: opened.schema_arrow.names, path)
    return opened


def read_rows(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Return the columns of a small table as Python lists; those that it lacks are left out.

    Raises:
        UserError: missing, damaged, or too large.
    """
    count_rows(path)
    footer = read_footer(path)
    _bound(path, footer, columns, range(len(footer.rows)))
    opened = _open(path)
    present = [name for name in columns if name in opened.schema_arrow.names]
    table = _guarded(lambda: opened.read(columns=present), path)
    return {name: _guarded(table.column(name).to_pylist, path) for name in present}


def read_numbers(path: Path, column: str, start: int, stop: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return rows ``start:stop`` of a column as an array (T, *shape) of ``dtype``.

    Raises:
        UserError: missing, damaged, another type or shape, or an empty cell.
    """
    import pyarrow as pa

    cells = _cells(path, column, start, stop)
    values, width = cells, int(np.prod(shape, dtype=np.int64))
    while isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        values = _guarded(values.flatten, path)
    number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)
    if not number or values.null_count or cells.null_count or len(values) != (stop - start) * width:
        raise UserError(
            f"{path} [{printable(column)}]: expected {dtype} {shape} in each of {stop - start} rows, got "
            f"{len(values)} values of {printable(str(cells.type))}; the table disagrees with meta/info.json"
        )
    flat = _guarded(lambda: values.to_numpy(zero_copy_only=False), path)
    return np.asarray(flat).astype(dtype, copy=False).reshape(stop - start, *shape)


def read_cells(path: Path, column: str, start: int, stop: int) -> list[Any]:
    """Return rows ``start:stop`` of a column as Python values: words, bytes, or a mapping of them."""
    return list(_guarded(_cells(path, column, start, stop).to_pylist, path))


def _cells(path: Path, column: str, start: int, stop: int) -> Any:
    """Return rows ``start:stop`` of a column as one Arrow array, unpacking only the row groups they lie in."""
    import pyarrow as pa

    rows = count_rows(path)
    if not 0 <= start < stop <= rows:
        raise UserError(
            f"{path}: expected rows {start} to {stop - 1}, got {rows} rows; cut short or wrongly listed in meta/: "
            "fetch the data set again"
        )
    footer = read_footer(path)
    groups, first = _groups(footer.rows, start, stop)
    _bound(path, footer, [column], groups)
    opened = _open(path)
    if column not in opened.schema_arrow.names:
        present = printable(", ".join(opened.schema_arrow.names), 200)
        raise UserError(f"{path}: expected a column {printable(column)!r}, got {present}; fetch the file again")
    parts, row = [], first
    for batch in _guarded(lambda: _batches(opened, groups, column), path):
        low, high = max(start - row, 0), min(stop - row, batch.num_rows)
        if low < high:
            parts.append(batch.column(0).slice(low, high - low))
        row += batch.num_rows
    cells = _guarded(lambda: pa.concat_arrays(parts), path)
    if len(cells) != stop - start:
        raise UserError(f"{path}: expected {stop - start} rows, got {len(cells)}: damaged; fetch it again")
    _guarded(cells.validate, path)
    return cells


def _groups(rows: Sequence[int], start: int, stop: int) -> tuple[list[int], int]:
    """Return the row groups that rows ``start:stop`` lie in, and the first row of the first of them."""
    chosen: list[int] = []
    first = before = 0
    for group, count in enumerate(rows):
        if before < stop and before + count > start:
            first = before if not chosen else first
            chosen.append(group)
        before += count
    return chosen, first


def _batches(opened: Any, groups: list[int], column: str) -> list[Any]:
    kept, held = [], 0
    size = 65536 if not _is_bulky(opened, column) else _BATCH
    for batch in opened.iter_batches(batch_size=size, row_groups=groups, columns=[column]):
        held += batch.nbytes
        if held > MAX_BYTES:
            raise UserError(f"column {printable(column)!r}: expected at most {MAX_BYTES} bytes, got more; refused")
        kept.append(batch)
    return kept


def _is_bulky(opened: Any, column: str) -> bool:
    """Whether a cell has no fixed size: words, pictures."""
    import pyarrow as pa

    kind = opened.schema_arrow.field(column).type
    return bool(pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_string(kind))


def _bound(path: Path, footer: Footer, columns: Sequence[str], groups: Iterable[int]) -> None:
    """Refuse columns that would not fit in memory, before anything is unpacked."""
    for group in groups:
        for column in columns:
            for chunk in footer.chunks[group].get(column, ()):
                size = max(chunk.values * 8, chunk.unpacked)
                if size > MAX_BYTES:
                    raise UserError(f"{path}: expected columns of at most {MAX_BYTES} bytes, got {size}; refused")
                check_pages(path, chunk)


def _guarded(work: Callable[[], Any], path: Path) -> Any:
    try:
        return work()
    except UserError:
        raise
    except Exception as error:  # Arrow has its own errors beside Python's, and damage can end in any of them.
        raise UserError(f"cannot read {path}: damaged parquet ({first_line(error)}); fetch it again") from None


class ColumnCache:
    """Columns of whole row ranges that were used last, within a bound of memory; any thread may ask."""

    def __init__(self, limit: int = 128 << 20) -> None:
        self._limit, self._held = limit, 0
        self._arrays: OrderedDict[tuple[Any, ...], NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the arrays behind when a data set goes to another process."""
        return {"limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start empty in the other process."""
        self.__init__(state["limit"])  # type: ignore[misc]

    def numbers(
        self, path: Path, column: str, start: int, stop: int, shape: tuple[int, ...], dtype: str
    ) -> NDArray[Any]:
        """Return :func:`read_numbers`, read before or now; the array must not be written to."""
        key = (path, column, start, stop, shape, dtype)
        with self._lock:
            found = self._arrays.get(key)
            if found is not None:
                self._arrays.move_to_end(key)
                return found
        array = read_numbers(path, column, start, stop, shape, dtype)
        array.flags.writeable = False
        with self._lock:
            if key not in self._arrays and array.nbytes <= self._limit:
                self._arrays[key] = array
                self._held += array.nbytes
                while self._held > self._limit:
                    _, oldest = self._arrays.popitem(last=False)
                    self._held -= oldest.nbytes
        return array
