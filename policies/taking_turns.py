"""Processes that are about to compile the same thing take turns: the first compiles, the others find it in the cache.

``torch.compile`` keeps what it made on disk (measured on a CPU: 104 s the first time, 6 s in the next process), but
trainings of several seeds that start together all miss it and slow one another down.  Not here: any compiling.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_WAIT_S = 300.0
"""After this the others go ahead: who holds the turn may be stuck."""

POLL_S = 0.2


@contextmanager
def turn(what: str, folder: Path | None = None) -> Iterator[None]:
    """Hold the turn for ``what`` on this machine while the block runs; a process that dies gives it back.

    Args:
        what: the same text in every process that would do the same work.
        folder: where the lock file is for that time; None for the system's temporary folder.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    name = hashlib.blake2b(what.encode(), digest_size=8).hexdigest()
    path = (folder or Path(tempfile.gettempdir())) / f"wristbench-turn-{os.getuid()}-{name}.lock"
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield  # a temporary folder that cannot be written to: everybody for himself
        return
    with os.fdopen(number, "w") as handle:
        until = time.monotonic() + LONGEST_WAIT_S
        while time.monotonic() < until:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(POLL_S)
        try:
            yield
        finally:
            # Whoever waits holds the file by its handle; one that comes now makes a new one, and finds the cache full.
            with suppress(FileNotFoundError):
                path.unlink()
