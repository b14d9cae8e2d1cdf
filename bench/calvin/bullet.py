"""PyBullet without its chatter: importing it prints its build time, connecting with options prints them.

C code writes to the descriptors themselves, so they are turned away for the moment; whoever reads a verb's ``--json``
or a one-line error would otherwise find Bullet's words in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silence() -> Iterator[None]:
    """Send what C code writes to stdout and stderr nowhere while the block runs."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


with silence():
    import pybullet as pybullet

__all__ = ["pybullet", "silence"]
