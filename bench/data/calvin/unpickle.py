"""Reading object ``.npy`` files without trusting them.

CALVIN keeps its scene table and its language annotations as pickles inside ``.npy`` files, and a pickle is a program.
This one is run on stand-ins: the only names it may ask for are the four that NumPy's own arrays and numbers need, each
answered by a small object that checks what it is given and copies bytes.  Nothing is imported, nothing is called, and
the opcodes are checked before the first of them runs.

Not here: the meaning of what was read; see :mod:`bench.data.calvin.reader`.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from bench.data.arrays import first_line, printable, read_npy_header
from bench.errors import UserError

MAX_BYTES = 1 << 30
"""Largest object file that is read; the annotations of the whole ABCD split are under 0.1 GB."""

_MAX_DEPTH = 64

_OPCODE_NAMES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL "
    "REDUCE BUILD"
)
_OPCODES = frozenset(_OPCODE_NAMES.split())
_MEMO_WRITES = frozenset(("BINPUT", "LONG_BINPUT"))


class _RefusedError(Exception):
    """The pickle asked for something that data does not need."""


def _refuse(what: str) -> NoReturn:
    raise _RefusedError(printable(what, 240))


class _Dtype:
    """Stands for a pickled ``numpy.dtype``: a plain number, string or object, never a record."""

    __slots__ = ("code", "value")

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        del align, copy
        if not isinstance(code, str) or len(code) > 16 or code.lstrip("<>|=")[:1] not in tuple("biufcUSO"):
            _refuse(f"an array of type {str(code)[:40]!r}")
        self.code = code
        self.value = np.dtype("O") if code == "O8" else np.dtype(code)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            _refuse("an array of records")
        if state[1] not in ("<", ">", "|", "="):
            _refuse("an array of unknown byte order")
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands for a pickled ``numpy.ndarray`` until :func:`_settle` puts the real one in its place."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            _refuse("an array whose state is not five values")
        _version, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran is True else "C")


def _build(data: object, dtype: object, shape: object, order: str) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or len(shape) > 8:
        _refuse("an array without a plain type and shape")
    if not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape):
        _refuse(f"an array of shape {str(shape)[:60]}")
    count = math.prod(shape)
    if dtype.value.hasobject:
        if not isinstance(data, list) or len(data) != count:
            _refuse(f"an object array of shape {shape} whose values do not fit")
        objects = np.empty(count, dtype=object)
        for index, value in enumerate(data):
            objects[index] = value
        return objects.reshape(shape)
    if not isinstance(data, bytes | bytearray) or len(data) != count * dtype.value.itemsize:
        _refuse(f"an array of shape {shape} whose bytes do not fit")
    flat = np.frombuffer(data, dtype=dtype.value, count=count) if count else np.empty(0, dtype=dtype.value)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


class _Callable:
    """A name that a pickle may call.  Without attributes, so that no opcode can change it."""

    __slots__ = ("_answer",)
    _answer: Callable[..., Any]

    def __init__(self, answer: Callable[..., Any]) -> None:
        object.__setattr__(self, "_answer", answer)

    def __setattr__(self, name: str, value: object) -> None:
        _refuse(f"a change of {name!r}")

    def __setstate__(self, state: object) -> None:
        _refuse("a change of a NumPy function")

    def __call__(self, *arguments: Any) -> Any:
        return self._answer(*arguments)


def _reconstruct(subtype: object, shape: object, code: object) -> _Array:
    if subtype is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
        _refuse("an array of a foreign class")
    return _Array()


def _scalar(dtype: object, data: object = b"") -> Any:
    if not isinstance(dtype, _Dtype) or dtype.value.hasobject:
        _refuse("a number without a plain type")
    return _build(data, dtype, (), "C")[()]


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> NDArray[Any]:
    return _build(data, dtype, shape, "F" if order == "F" else "C")


def _never(*_arguments: object) -> NoReturn:
    _refuse("a call of numpy.ndarray")


_NDARRAY = _Callable(_never)
_ADMITTED: dict[tuple[str, str], _Callable] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Callable(_Dtype),
    **{
        (f"numpy.{core}.{module}", name): _Callable(answer)
        for core in ("core", "_core")
        for module, name, answer in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for an admitted name, refuse any other."""
        found = _ADMITTED.get((module, name))
        if found is None:
            _refuse(f"foreign code ({module[:80]}.{name[:80]})")
        return found

    def persistent_load(self, pid: object) -> NoReturn:
        """Refuse references to anything outside the file."""
        _refuse(f"a reference to outside data ({str(pid)[:40]})")


def _scan(data: bytes) -> None:
    """Refuse opcodes that data does not need, before any opcode runs."""
    strings: list[str] = ["?", "?"]
    for count, (opcode, argument, _position) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if name not in _OPCODES:
            named = str(argument).replace(" ", ".") if name == "INST" else ".".join(strings[-2:])
            _refuse(f"foreign code ({named[:160]}, opcode {name})")
        if name in _MEMO_WRITES and isinstance(argument, int) and argument > count:
            _refuse("a memo index out of range")
        if isinstance(argument, str):
            if name == "GLOBAL" and tuple(argument.split(" ", 1)) not in _ADMITTED:
                _refuse(f"foreign code ({argument.replace(' ', '.')[:160]})")
            strings = [strings[-1], argument] if name != "GLOBAL" else argument.split(" ", 1)


def _settle(value: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """Return ``value`` with every stand-in replaced by its array; shared parts are visited once."""
    if depth > _MAX_DEPTH:
        _refuse(f"data nested deeper than {_MAX_DEPTH}")
    if id(value) in done:
        return done[id(value)][1]
    result: Any
    if isinstance(value, _Array):
        if value.value is None:
            _refuse("an array without values")
        result = _settle(value.value, done, depth + 1)
    elif isinstance(value, _Dtype | _Callable):
        _refuse("a NumPy type or function where data was expected")
    elif isinstance(value, dict):
        if not all(isinstance(key, str | int | float | np.generic) for key in value):
            _refuse("a dictionary whose keys are not words or numbers")
        result = {key: _settle(entry, done, depth + 1) for key, entry in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(_settle(entry, done, depth + 1) for entry in value)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        result = value
        flat = value.reshape(-1)
        for index in range(flat.size):
            flat[index] = _settle(flat[index], done, depth + 1)
    else:
        return value
    done[id(value)] = (value, result)
    return result


def loads(data: bytes, name: str = "pickle") -> Any:
    """Return the data in a pickle made of NumPy arrays, dicts, lists, tuples, strings and numbers.

    Args:
        data: the pickle.
        name: what to call it in an error.

    Raises:
        UserError: it is damaged, or holds anything else; nothing foreign has been imported or run by then.
    """
    try:
        _scan(data)
        return _settle(_Unpickler(io.BytesIO(data)).load(), {})
    except _RefusedError as refusal:
        raise UserError(
            f"refused to load {name}: expected arrays, words and numbers, but it contains {refusal}"
        ) from None
    except Exception as error:
        # What a damaged pickle raises inside the C unpickler is not documented; any of it means the same here.
        raise UserError(f"cannot read {name}: damaged pickle ({first_line(error)}); fetch it again") from None


def load_object_npy(path: Path) -> Any:
    """Return the content of an object ``.npy`` file; a 0-d array is returned as the value inside it.

    Raises:
        UserError: missing, too large, damaged, or with anything but data inside.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"refused to load {path}: expected at most {MAX_BYTES} bytes, got {path.stat().st_size}")
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the data set's folder") from None
    stream = io.BytesIO(raw)
    shape, dtype, _fortran = read_npy_header(stream, str(path))
    if not dtype.hasobject:
        raise UserError(f"{path}: expected an object array, got {dtype} {shape}; this is not a CALVIN index file")
    value = loads(raw[stream.tell() :], str(path))
    if not isinstance(value, np.ndarray) or value.shape != shape:
        raise UserError(
            f"{path}: expected an object array of shape {shape}, got {type(value).__name__}; fetch it again"
        )
    return value.item() if value.shape == () else value
