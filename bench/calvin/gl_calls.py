"""OpenGL's and EGL's calls that moderngl lacks, by their names in the library.

Not here: what they are for.  They act on the context that is current.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

SIGNATURES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "glReleaseShaderCompiler": (None,),
        "glTexStorage2D": (None, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_int, ctypes.c_int),
        "glTexSubImage2D": (None, ctypes.c_uint, *[ctypes.c_int] * 5, ctypes.c_uint, ctypes.c_uint, ctypes.c_char_p),
        "glBindBuffer": (None, ctypes.c_uint, ctypes.c_uint),
        "glBufferStorage": (None, ctypes.c_uint, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_uint),
        "glMapBufferRange": (ctypes.c_void_p, ctypes.c_uint, ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.c_uint),
        "glUnmapBuffer": (ctypes.c_ubyte, ctypes.c_uint),
        "eglGetCurrentDisplay": (ctypes.c_void_p,),
        "eglCreateSyncKHR": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p),
        "eglClientWaitSyncKHR": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64),
        "eglDestroySyncKHR": (ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
    }
)
"""Name -> type of the result and types of the arguments, as the headers of OpenGL 4.4 and EGL_KHR_fence_sync say."""


@cache
def calls() -> dict[str, Any]:
    """Return the calls by name; fewer where the library lacks some."""
    try:
        library = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return {}
    address = library.eglGetProcAddress
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.c_char_p,)
    found = {name: address(name.encode()) for name in SIGNATURES}
    return {name: ctypes.CFUNCTYPE(*SIGNATURES[name])(place) for name, place in found.items() if place}
