"""Reading ``.npy`` and ``.npz`` files that may be damaged or hostile: sizes are checked before anything is allocated.

Not here: pickles (:mod:`bench.data.calvin.unpickle`) and what the arrays mean.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from bench.errors import UserError

MAX_FILE_BYTES = 64 << 20
"""Largest frame file that is opened; a CALVIN frame with depth and touch is under 1 MB."""

_HEADER_ROOM = 1024
_BROKEN = (
    EOFError,
    KeyError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    SyntaxError,
    TypeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class ArraySpec:
    """What an array must be.

    Attributes:
        shape: its exact shape.
        dtypes: the names of the types it may have.
    """

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]

    @property
    def max_bytes(self) -> int:
        """Bytes of the array in its widest type."""
        return math.prod(self.shape) * max(np.dtype(name).itemsize for name in self.dtypes)

    def __str__(self) -> str:
        return f"{' or '.join(self.dtypes)} {self.shape}"


@lru_cache(maxsize=256)
def _parse_header(raw: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(raw)
    version = npy_format.read_magic(stream)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy_format.read_array_header_2_0(stream)
    raise ValueError(f"npy version {version}")


def read_npy_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Return (shape, dtype, Fortran order) of the ``.npy`` in ``stream``, left at the first byte of its data.

    Raises:
        UserError: it is not an ``.npy`` header, or one that no array needs.
    """
    try:
        raw = stream.read(10)
        if len(raw) == 10 and raw[6] == 2:
            raw += stream.read(2)
        length = int.from_bytes(raw[8:], "little")
        if len(raw) < 10 or length > 10_000:
            raise ValueError(f"header of {length} bytes")
        shape, fortran, dtype = _parse_header(raw + stream.read(length))
        if any(size < 0 for size in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # NumPy's header parser ends in Python's own tokenizer, which raises what it likes.
        raise UserError(f"cannot read {name}: not a whole .npy ({first_line(error)}); fetch it again") from None
    return shape, dtype, fortran


def printable(text: str, limit: int = 120) -> str:
    """Return text of a file that is not trusted, fit for one line of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit])


def first_line(error: BaseException) -> str:
    """Return an exception's type and the start of its words, on one line."""
    return f"{type(error).__name__}: {printable(str(error))}" if str(error) else type(error).__name__


def _read_values(
    stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, name: str
) -> NDArray[Any]:
    """Read exactly the values that the header announced; the caller has bounded their size."""
    wanted = math.prod(shape) * dtype.itemsize
    try:
        data = stream.read(wanted + 1)
    except _BROKEN as error:
        raise UserError(f"cannot read {name}: damaged ({first_line(error)}); fetch it again") from None
    if len(data) != wanted:
        came = f"{len(data)}" if len(data) < wanted else "more"
        raise UserError(f"cannot read {name}: expected {wanted} bytes of {dtype} {shape}, got {came}; fetch it again")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def load_npy(path: Path) -> NDArray[Any]:
    """Return a plain (never pickled) ``.npy`` array.

    Raises:
        UserError: missing, damaged, or an object array.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            shape, dtype, fortran = read_npy_header(stream, str(path))
            if dtype.hasobject:
                raise UserError(f"{path}: expected numbers, got an object array; objects are not read here")
            wanted = stream.tell() + math.prod(shape) * dtype.itemsize
            if wanted != size:
                raise UserError(f"{path}: expected {wanted} bytes for {dtype} {shape}, got {size}; fetch it again")
            return _read_values(stream, shape, dtype, fortran, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the data set's folder") from None


def _read_member(archive: zipfile.ZipFile, key: str, spec: ArraySpec, path: Path) -> NDArray[Any]:
    name = f"{path} [{key}]"
    try:
        member = archive.getinfo(f"{key}.npy")
    except KeyError:
        present = sorted(entry.removesuffix(".npy") for entry in archive.namelist())
        raise UserError(
            f"{path}: expected an array {key!r}, got {printable(', '.join(present), 200)}; this frame lacks it"
        ) from None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{name}: expected stored or deflated data, got zip method {member.compress_type}")
    if member.file_size > spec.max_bytes + _HEADER_ROOM:
        raise UserError(f"{name}: expected {spec}, got {member.file_size} bytes; refused to unpack it")
    try:
        with archive.open(member) as stream:
            shape, dtype, fortran = read_npy_header(stream, name)
            if shape != spec.shape or dtype.name not in spec.dtypes:
                raise UserError(f"{name}: expected {spec}, got {dtype} {shape}; record or fetch this frame again")
            return _read_values(stream, shape, dtype, fortran, name)
    except _BROKEN as error:
        raise UserError(f"cannot read {name}: damaged ({first_line(error)}); fetch it again") from None


def load_npz(path: Path, specs: Mapping[str, ArraySpec], *, max_bytes: int = MAX_FILE_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays named by ``specs`` from an ``.npz`` file; others in it are not even unpacked.

    Args:
        path: the file.
        specs: name to what the array must be.
        max_bytes: largest file that is opened.

    Raises:
        UserError: missing, truncated or hostile file; a missing array; another shape or type; NaN or infinity.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UserError(f"{path}: expected at most {max_bytes} bytes, got {size}; refused to open it")
        with zipfile.ZipFile(path) as archive:
            arrays = {key: _read_member(archive, key, spec, path) for key, spec in specs.items()}
    except FileNotFoundError:
        raise UserError(f"{path}: expected a frame, got no such file; fetch the data set again") from None
    except _BROKEN as error:
        raise UserError(f"cannot read {path}: truncated or damaged ({first_line(error)}); fetch it again") from None
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{path} [{key}]: expected finite numbers, got NaN or infinity; leave this frame out")
    return arrays


def list_npz(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in an ``.npz`` file, without unpacking any.

    Raises:
        UserError: missing, truncated or not a zip file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except _BROKEN as error:
        raise UserError(f"cannot read {path}: missing or damaged ({first_line(error)}); fetch it again") from None
