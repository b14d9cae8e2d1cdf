"""Pictures on their way from a GPU: copied by it into memory that the processor reads, and waited for without OpenGL.

Mapping an ordinary buffer makes a driver copy it once more, a second piece of work for which a process queues again
where many share a GPU.  So the buffer lies in the processor's memory from the start (OpenGL's persistent mapping), and
EGL's fence says when the copy is there; waiting for it takes no context, so other threads draw meanwhile.  Where a
driver has no such memory the buffer is mapped.
"""

from __future__ import annotations

import ctypes
import os
import time
import timeit
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin import gl
from bench.calvin.gl_calls import SIGNATURES, calls
from bench.errors import UserError

_COPY_READ_BUFFER = 0x8F36
_READ, _PERSISTENT, _COHERENT, _CLIENT_STORAGE = 0x0001, 0x0040, 0x0080, 0x0200
_FENCE, _SATISFIED = 0x30F9, 0x30F6
_CACHED_S = 1e-3
"""Seconds within which a picture's memory is read: it takes a twentieth, unless a driver keeps it from the cache."""
_PATIENCE_NS = 60 * 10**9
SPIN_S = 0.005
"""How long a fence is asked again and again before this process sleeps, and may wake up later than the picture came."""


def _pinned(context: Any, buffer: Any) -> NDArray[np.uint8] | None:
    """Give a moderngl buffer memory that GPU and processor reach; return it, or None where there is no such thing."""
    call = calls()
    # Asked for OpenGL 3.3, NVIDIA gives that version and newer parts as extensions, Mesa the newest version.
    if "GL_ARB_buffer_storage" not in context.extensions or len(call) < len(SIGNATURES):
        return None
    keep = _READ | _PERSISTENT | _COHERENT
    call["glBindBuffer"](_COPY_READ_BUFFER, buffer.glo)
    call["glBufferStorage"](_COPY_READ_BUFFER, buffer.size, None, keep | _CLIENT_STORAGE)
    address = call["glMapBufferRange"](_COPY_READ_BUFFER, 0, buffer.size, keep)
    memory = None
    if address is not None:
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * buffer.size).from_address(address))
        if min(timeit.repeat(memory.copy, number=1, repeat=3)) > _CACHED_S:
            memory = None
            call["glUnmapBuffer"](_COPY_READ_BUFFER)
    call["glBindBuffer"](_COPY_READ_BUFFER, 0)
    return memory


class GpuCopy:
    """One picture's way to the processor, used again and again.

    Args:
        context: moderngl's, which must be current, as in every method but :meth:`wait`.
        size: bytes at most.
    """

    def __init__(self, context: Any, size: int) -> None:
        self._context = context
        self.buffer = context.buffer(reserve=size, dynamic=True)
        self._memory = _pinned(context, self.buffer)
        self._display: int | None = None
        self._fence: int | None = None

    def begun(self) -> None:
        """Remember that the copy into ``buffer`` is the last command so far."""
        self._drop()
        if self._memory is None:
            return
        self._display = calls()["eglGetCurrentDisplay"]()
        self._fence = calls()["eglCreateSyncKHR"](self._display, _FENCE, None)
        if self._fence is None:  # fences are an extension
            self._context.finish()

    def wait(self) -> NDArray[np.uint8]:
        """Return the bytes when they are there; they hold until the next copy.

        Raises:
            UserError: the GPU does not come to it.
        """
        if self._memory is None:
            with gl.LOCK, self._context:
                return np.frombuffer(self.buffer.read(), np.uint8)
        if self._fence is not None:
            look, until = calls()["eglClientWaitSyncKHR"], time.perf_counter() + SPIN_S
            answer = look(self._display, self._fence, 0, 0)
            while answer != _SATISFIED and time.perf_counter() < until:
                os.sched_yield()
                answer = look(self._display, self._fence, 0, 0)
            if answer != _SATISFIED and look(self._display, self._fence, 0, _PATIENCE_NS) != _SATISFIED:
                raise UserError(
                    f"renderer gl: expected a picture within {_PATIENCE_NS // 10**9} s, got none from the GPU; "
                    "see what else it computes, or choose --renderer bullet-tiny"
                )
        return self._memory

    def _drop(self) -> None:
        if self._fence is not None:
            calls()["eglDestroySyncKHR"](self._display, self._fence)
            self._fence = None

    def release(self) -> None:
        """Give the memory back."""
        self._drop()
        self.buffer.release()
