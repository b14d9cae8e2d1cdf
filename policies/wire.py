"""msgpack with NumPy arrays, as robot policy servers speak it, read as if a stranger had written it.

Three forms of array are understood: openpi's (``b"__ndarray__"``, keys as bytes), vla-eval's (``"__ndarray__"``) and
vla-eval's pictures (``"__image__"``: raw, JPEG or PNG).  Nothing is unpickled, no object array is made, and what would
cost more than the limits say is refused: a byte of msgpack can stand for far more than a byte of memory.
Formats: openpi ``openpi_client/msgpack_numpy.py``; vla-eval ``protocol/numpy_codec.py``, ``protocol/image_codec.py``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

DTYPES = frozenset({"|b1", "|u1", "|i1", *(f"<{kind}{size}" for kind in "iu" for size in (2, 4, 8)),
                    *(f"<f{size}" for size in (2, 4, 8))})  # fmt: skip
"""Booleans, whole numbers and floats, little-endian: what holds no reference to anything."""
MAX_DIMENSIONS = 4


class WireError(ValueError):
    """What came over the wire is no message, or is larger than the limits allow.  One line."""


@dataclass(frozen=True)
class Limits:
    """How much one message may cost.

    Attributes:
        message_bytes: largest message.
        items: entries of all its lists and maps together; arrays count as one.
        pixels: of all its JPEG and PNG pictures together, once decoded.
        text: characters of one string.
    """

    message_bytes: int = 4 * 2**20
    items: int = 4096
    pixels: int = 2**21
    text: int = 10_000


LIMITS = Limits()


def pack_openpi(message: Any) -> bytes:
    """Return ``message`` as msgpack, arrays in openpi's form."""
    return _pack(message, _openpi_array)


def pack_vla_eval(message: Any) -> bytes:
    """Return ``message`` as msgpack, arrays in vla-eval's form; pictures are sent raw."""
    return _pack(message, _vla_eval_array)


def _pack(message: Any, default: Callable[[Any], Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(message, default=default, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"cannot be sent: {error}") from error
    return packed


def _openpi_array(value: Any) -> Any:
    array = _sendable(value)
    if isinstance(array, np.generic):
        return array.item()
    return {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": array.dtype.str,
        b"shape": array.shape,
    }


def _vla_eval_array(value: Any) -> Any:
    array = _sendable(value)
    if isinstance(array, np.generic):
        return array.item()
    return {"__ndarray__": True, "data": array.tobytes(), "dtype": array.dtype.str, "shape": list(array.shape)}


def _sendable(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"a {type(value).__name__} has no place in a message")
    if value.dtype.str not in DTYPES:
        raise TypeError(f"an array of {value.dtype} has no place in a message")
    return value


def unpack(data: bytes | str, limits: Limits = LIMITS) -> Any:
    """Return the message in ``data``, its arrays read-only.

    Raises:
        WireError: text, no msgpack, something after its end, a forbidden or false array, or past a limit.
    """
    if isinstance(data, str):
        raise WireError("expected a binary msgpack message, got text")
    if len(data) > limits.message_bytes:
        raise WireError(f"message of {len(data)} bytes; at most {limits.message_bytes} are read")
    reader = _Reader(limits)
    try:
        return msgpack.unpackb(
            data,
            object_hook=reader.a_map,
            list_hook=reader.a_list,
            raw=False,
            strict_map_key=True,
            max_str_len=limits.text,
            max_array_len=limits.items,
            max_map_len=limits.items,
            max_ext_len=0,
        )
    except WireError:
        raise
    except Exception as error:  # msgpack raises half a dozen kinds, some of them bare
        raise WireError(f"no msgpack message: {type(error).__name__} {_short(error)}".rstrip()) from None


class _Reader:
    """Counts what a message is made of while it is read, and turns its maps into arrays where they stand for some."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._left, self._pixels = limits, limits.items, limits.pixels

    def a_list(self, entries: list[Any]) -> list[Any]:
        self._count(len(entries))
        return entries

    def a_map(self, entries: dict[Any, Any]) -> Any:
        self._count(len(entries))
        if "__image__" in entries:
            return self._image(entries)
        for mark in ("__ndarray__", b"__ndarray__"):
            if mark in entries:
                return _array({_text(key): value for key, value in entries.items()})
        if b"__npgeneric__" in entries:
            return _number({_text(key): value for key, value in entries.items()})
        return entries

    def _count(self, entries: int) -> None:
        self._left -= entries + 1
        if self._left < 0:
            raise WireError(f"message of more than {self._limits.items} entries")

    def _image(self, entries: Mapping[str, Any]) -> NDArray[np.generic]:
        kind, data = entries.get("format"), entries.get("data")
        if kind == "raw":
            return _array(entries)
        if kind not in ("jpeg", "png") or not isinstance(data, bytes):
            raise WireError(f"picture: expected format raw, jpeg or png and bytes, got {kind!r}")
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as picture:
                self._pixels -= picture.width * picture.height
                if self._pixels < 0:
                    raise WireError(
                        f"picture of {picture.width}×{picture.height}; at most {self._limits.pixels} pixels of all "
                        "pictures together are read"
                    )
                return np.asarray(picture)
        except WireError:
            raise
        except Exception as error:  # a decoder's errors are as many as there are broken files
            raise WireError(f"picture: not a whole {kind} ({type(error).__name__})") from None


def _array(entries: Mapping[str, Any]) -> NDArray[np.generic]:
    data, dtype, shape = entries.get("data"), _text(entries.get("dtype")), entries.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"array of dtype {_short(dtype)}; only booleans, whole numbers and floats are read")
    if not isinstance(data, bytes) or not isinstance(shape, (list, tuple)) or len(shape) > MAX_DIMENSIONS:
        raise WireError(f"array: expected bytes and a shape of at most {MAX_DIMENSIONS} dimensions")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise WireError(f"array of shape {_short(shape)}; sides are whole numbers from 0")
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if wanted != len(data):
        raise WireError(f"array of shape {_short(list(shape))} and dtype {dtype} needs {wanted} bytes, got {len(data)}")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _number(entries: Mapping[str, Any]) -> Any:
    dtype, value = _text(entries.get("dtype")), entries.get("data")
    if not isinstance(dtype, str) or dtype not in DTYPES or not isinstance(value, (bool, int, float)):
        raise WireError(f"number of dtype {_short(dtype)}; only booleans, whole numbers and floats are read")
    return value


def _text(value: Any) -> Any:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
