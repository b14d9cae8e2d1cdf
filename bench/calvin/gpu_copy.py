"""Pictures on their way from a GPU: copied by it into memory that the processor reads, and waited for without OpenGL.

Mapping an ordinary buffer makes a driver copy it once more, a second piece of work for which a process queues again
where many share a GPU.  So the buffer lies in the processor's memory from the start (OpenGL's persistent mapping), and
EGL's fence says when the copy is there; waiting for it takes no context, so other threads draw meanwhile.
moderngl has none of these calls: they are made by their names in the library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError

_COPY_READ_BUFFER = 0x8F36
_READ, _PERSISTENT, _COHERENT, _CLIENT_STORAGE = 0x0001, 0x0040, 0x0080, 0x0200
_VERSION = 440
"""OpenGL's, in hundreds."""
_FENCE, _SATISFIED = 0x30F9, 0x30F6
_PATIENCE_NS = 60 * 10**9

_SIGNATURES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "glBindBuffer": (None, ctypes.c_uint, ctypes.c_uint),
        "glBufferStorage": (None, ctypes.c_uint, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_uint),
        "glMapBufferRange": (ctypes.c_void_p, ctypes.c_uint, ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.c_uint),
        "eglGetCurrentDisplay": (ctypes.c_void_p,),
        "eglCreateSyncKHR": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p),
        "eglClientWaitSyncKHR": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64),
        "eglDestroySyncKHR": (ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
    }
)
"""Name -> type of the result and types of the arguments, as the headers of OpenGL 4.4 and EGL_KHR_fence_sync say."""


@cache
def _calls() -> dict[str, Any]:
    """Return the calls by name; fewer where the library lacks some."""
    try:
        library = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return {}
    address = library.eglGetProcAddress
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.c_char_p,)
    found = {name: address(name.encode()) for name in _SIGNATURES}
    return {name: ctypes.CFUNCTYPE(*_SIGNATURES[name])(place) for name, place in found.items() if place}


def supported(context: Any) -> bool:
    """Say whether moderngl's ``context`` and this machine's EGL have the calls."""
    return context.version_code >= _VERSION and len(_calls()) == len(_SIGNATURES)


class GpuCopy:
    """One picture's way to the processor, used again and again.

    Args:
        context: moderngl's, which must be current, as in every method but :meth:`wait`, and ``supported``.
        size: bytes at most.

    Raises:
        UserError: no memory that both reach.
    """

    def __init__(self, context: Any, size: int) -> None:
        self._context = context
        self.buffer = context.buffer(reserve=size, dynamic=True)
        calls, keep = _calls(), _READ | _PERSISTENT | _COHERENT
        calls["glBindBuffer"](_COPY_READ_BUFFER, self.buffer.glo)
        calls["glBufferStorage"](_COPY_READ_BUFFER, size, None, keep | _CLIENT_STORAGE)
        address = calls["glMapBufferRange"](_COPY_READ_BUFFER, 0, size, keep)
        calls["glBindBuffer"](_COPY_READ_BUFFER, 0)
        if address is None:
            raise UserError(
                f"renderer gl: expected {size} bytes that GPU and processor share, got none; "
                "free memory, or choose --renderer bullet-tiny"
            )
        self._memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._display: int | None = None
        self._fence: int | None = None

    def begun(self) -> None:
        """Remember that the copy into ``buffer`` is the last command so far."""
        self._drop()
        self._display = _calls()["eglGetCurrentDisplay"]()
        self._fence = _calls()["eglCreateSyncKHR"](self._display, _FENCE, None)
        if self._fence is None:  # fences are an extension
            self._context.finish()

    def wait(self) -> NDArray[np.uint8]:
        """Return the bytes when they are there; they hold until the next copy.

        Raises:
            UserError: the GPU does not come to it.
        """
        if self._fence is not None:
            answer = _calls()["eglClientWaitSyncKHR"](self._display, self._fence, 0, _PATIENCE_NS)
            if answer != _SATISFIED:
                raise UserError(
                    f"renderer gl: expected a picture within {_PATIENCE_NS // 10**9} s, got none from the GPU; "
                    "see what else it computes, or choose --renderer bullet-tiny"
                )
        return self._memory

    def _drop(self) -> None:
        if self._fence is not None:
            _calls()["eglDestroySyncKHR"](self._display, self._fence)
            self._fence = None

    def release(self) -> None:
        """Give the memory back."""
        self._drop()
        self.buffer.release()
