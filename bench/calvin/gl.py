"""The one OpenGL context of this process, over EGL: a GPU's, or Mesa's llvmpipe where there is none.

Not here: anything that is drawn.  One context serves all renderers of a process, because a context costs half a
second and tens of megabytes; each renderer enters it for a draw and leaves it, so that PyBullet's own may live beside.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.errors import UserError

_MEND = (
    "install Mesa's or the GPU driver's EGL (Debian: apt install libegl1 libgl1-mesa-dri), "
    "or choose --renderer bullet-tiny"
)
LOCK = threading.RLock()
"""Held while the context is current: a context may be current in one thread at a time."""


@lru_cache(maxsize=1)
def _context_of(process: int) -> tuple[Any, str]:
    # One core a worker is the rule here; without this llvmpipe starts a thread for every core of the machine.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import moderngl

        options: dict[str, Any] = {"backend": "egl"}
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
        # EGL takes the first GPU for everybody; workers spread over all of them by their process numbers.
        spread: dict[str, Any] = {"device_index": process % gpus} if gpus > 1 else {}
        try:
            context = moderngl.create_context(standalone=True, require=330, **options, **spread)
        except Exception:
            if not spread:
                raise
            # EGL sees fewer of them than /dev does.
            context = moderngl.create_context(standalone=True, require=330, **options)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"renderer gl: expected an EGL device with OpenGL 3.3, got: {reason}; {_MEND}") from None
    return context, str(context.info["GL_RENDERER"])


def context() -> Any:
    """Return this process's moderngl context, made at the first call.

    Raises:
        UserError: there is no EGL with OpenGL 3.3 here; the message says what to install.
    """
    return _context_of(os.getpid())[0]


def device_name() -> str:
    """Return the name of what draws, ``"llvmpipe (LLVM 15.0.6, 256 bits)"`` for instance; makes the context."""
    return _context_of(os.getpid())[1]


def on_cpu() -> bool:
    """Say whether a processor draws, Mesa's llvmpipe or softpipe, and no GPU."""
    return device_name().startswith(("llvmpipe", "softpipe"))


def gl_available() -> tuple[bool, str]:
    """Return whether the renderer can run here, and what draws (``"llvmpipe (LLVM 15.0.6, 256 bits)"``) or why not."""
    try:
        return True, device_name()
    except UserError as error:
        return False, str(error)
