"""What a parquet file says of its own sizes, read without unpacking anything and without trusting Arrow to survive it.

Arrow 26 ends the process on some damaged footers when Python asks for a column chunk's metadata (an exception leaves
C++ uncaught), and a page of a hundred bytes may announce two thousand million values.  So footer and page headers are
read here first: they are Thrift structures in the compact protocol (apache/parquet-format ``parquet.thrift``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from bench.data.arrays import first_line
from bench.errors import UserError

_MAGIC = b"PAR1"
_MAX_FOOTER = 64 << 20
_MAX_PARTS = 5_000_000
_MAX_DEPTH = 24
_HEADER_ROOM = 1 << 16
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


@dataclass(frozen=True)
class Chunk:
    """One column of one row group.

    Attributes:
        values: how many it holds, all its pages together.
        unpacked: bytes of its pages before compression.
        start: where its pages begin in the file.
        packed: bytes of its pages in the file.
    """

    values: int
    unpacked: int
    start: int
    packed: int


@dataclass(frozen=True)
class Footer:
    """Sizes of a file.

    Attributes:
        rows: of every row group.
        chunks: of every row group, its chunks by the name of their top-level column.
    """

    rows: tuple[int, ...]
    chunks: tuple[dict[str, tuple[Chunk, ...]], ...]


def read_footer(path: Path) -> Footer:
    """Return a file's sizes; those of the files read last are remembered.

    Raises:
        UserError: missing, or no whole parquet file.
    """
    try:
        status = path.stat()
    except OSError:
        raise UserError(f"{path}: expected a table, got no such file; fetch the data set again") from None
    return _footer(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _footer(path: Path, size: int, changed: int) -> Footer:
    del changed  # a part of the cache's key alone
    try:
        with path.open("rb") as file:
            file.seek(max(size - 8, 0))
            tail = file.read(8)
            length = int.from_bytes(tail[:4], "little")
            if tail[4:] != _MAGIC or not 0 < length <= min(size - 12, _MAX_FOOTER):
                raise ValueError("no footer at its end")
            file.seek(size - 8 - length)
            told = _Compact(file.read(length)).struct()
        groups = [_group(group, size) for group in told[4]]
        return Footer(tuple(rows for rows, _ in groups), tuple(chunks for _, chunks in groups))
    except Exception as error:  # damage can end anywhere in the walk below
        raise UserError(f"cannot read {path}: no whole parquet file ({first_line(error)}); fetch it again") from None


def check_pages(path: Path, chunk: Chunk) -> None:
    """Compare what the pages of a chunk announce with what its footer does.

    Raises:
        UserError: they announce more values or bytes.
    """
    values = unpacked = 0
    try:
        with path.open("rb") as file:
            at = chunk.start
            while at < chunk.start + chunk.packed and values <= chunk.values:
                header, used = _page(file, at)
                if header[2] < 0 or header[3] < 0:
                    raise ValueError("a page of negative size")
                unpacked += header[2]
                told = [header[kind][1] for kind in (5, 8) if kind in header]
                if min(told, default=0) < 0:
                    raise ValueError("a page of fewer than no values")
                values += sum(told)
                if 7 in header and not 0 <= header[7][1] <= max(chunk.values, header[2]):
                    raise ValueError("a dictionary larger than its page")
                at += used + header[3]
    except Exception as error:
        raise UserError(f"cannot read {path}: damaged parquet ({first_line(error)}); fetch it again") from None
    if values > chunk.values or unpacked > 2 * chunk.unpacked + _HEADER_ROOM:
        raise UserError(
            f"{path}: expected {chunk.values} values in {chunk.unpacked} bytes as its footer says, got pages of "
            f"{values} in {unpacked}; refused to read it"
        )


def _page(file: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    file.seek(at)
    reader = _Compact(file.read(_HEADER_ROOM))
    return reader.struct(), reader.at


def _group(told: dict[int, Any], size: int) -> tuple[int, dict[str, tuple[Chunk, ...]]]:
    chunks: dict[str, tuple[Chunk, ...]] = {}
    for column in told[1]:
        meta = column[3]
        start = min(meta[9], meta.get(11) or meta[9])
        chunk = Chunk(meta[5], meta[6], start, meta[7])
        inside = 0 <= chunk.start <= chunk.start + chunk.packed <= size
        if 1 in column or not inside or chunk.values < 0 or chunk.unpacked < 0:
            raise ValueError("a column outside of the file")
        name = meta[3][0].decode()
        chunks[name] = (*chunks.get(name, ()), chunk)
    if told[3] < 0:
        raise ValueError("a negative number of rows")
    return told[3], chunks


class _Compact:
    """Reads Thrift's compact protocol: a structure becomes a dictionary of field number to value."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at, self._parts = data, 0, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Read the structure at the current place."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            kind, step = head & 15, head >> 4
            number = number + step if step else self._signed()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise ValueError("more parts than a table has")
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth + 1)
        if kind == _BINARY:
            return self._take(self._unsigned())
        if kind == _DOUBLE:
            return self._take(8)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        raise ValueError(f"unknown type {kind}")

    def _list(self, depth: int) -> list[Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._unsigned()
        if count > len(self._data) - self.at:
            raise ValueError("a list longer than the file")
        return [self._value(head & 15, depth) for _ in range(count)]

    def _byte(self) -> int:
        value = self._data[self.at]
        self.at += 1
        return value

    def _take(self, count: int) -> bytes:
        piece = self._data[self.at : self.at + count]
        if len(piece) != count:
            raise ValueError("cut short")
        self.at += count
        return piece

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            part = self._byte()
            value |= (part & 127) << shift
            if part < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number too long")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
