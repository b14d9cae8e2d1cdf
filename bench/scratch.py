"""A worker's temporary files, and getting rid of those of workers that were killed.

What a killed process leaves in the temporary folder nobody removes.  So each worker puts its temporary files into a
folder of its own and holds a lock on it for as long as it lives: a folder that nobody holds is rubbish, whoever finds
it.  Workers look for such folders when they start, and the driver when a rollout, or the driver itself, ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

LOCK = "held"
PATIENCE_S = 5.0
"""How long killed workers may take to be gone."""

_held: list[IO[bytes]] = []
_settled: list[Path] = []


def new_run() -> str:
    """Return a name for the folders of some workers."""
    return secrets.token_hex(4)


@functools.cache
def this_run() -> str:
    """Return the name for the folders of workers that serve this driver, one job after the other, to its end."""
    return new_run()


def settle_in(run: str) -> Path | None:
    """Give this process, a worker of ``run``, a temporary folder of its own; what others left behind goes.

    A process that has settled already stays where it is.

    Returns:
        the folder, or None where there is no place for one: the temporary folder is then used as it is.
    """
    if not _settled:
        sweep()
        folder = own_folder(run)
        if folder is None:
            return None
        _settled.append(folder)
        tempfile.tempdir = str(folder)
    return _settled[0]


def own_folder(run: str) -> Path | None:
    """Return a new folder that goes when this process has ended, or None where there is no place for one.

    Nobody but this user can look into it.
    """
    root = _root()
    if root is None:
        return None
    name = f"{os.getpid()}_{secrets.token_hex(4)}"
    fresh = root / f"new_{name}"  # not yet held, and not yet looked at by others
    fresh.mkdir()
    held = (fresh / LOCK).open("wb")
    fcntl.flock(held, fcntl.LOCK_EX)
    _held.append(held)
    return fresh.rename(root / f"{run}-{name}")


def sweep(run: str = "", patience_s: float = 0.0) -> None:
    """Remove the folders on this machine that no living process holds.

    Args:
        run: only those of this rollout; all by default.
        patience_s: how long to wait for those that are still held.
    """
    root, until = _root(), time.monotonic() + patience_s
    if root is None:
        return
    while True:
        left = [folder for folder in root.glob(f"{run}*-*") if not _removed(folder)]
        if not left or time.monotonic() >= until:
            return
        time.sleep(0.1)


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError), (folder / LOCK).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _root() -> Path | None:
    """Return this user's folder for all workers' folders; None where somebody else has it."""
    if _settled:  # the temporary folder is this worker's own by now
        return _settled[0].parent
    root = Path(tempfile.gettempdir()) / f"wristbench-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        mine = root.stat(follow_symlinks=False).st_uid == os.getuid() and not root.is_symlink()
    except OSError:
        return None
    return root if mine else None
