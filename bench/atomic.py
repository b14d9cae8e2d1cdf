"""Writing files so that a half-written one can never be taken for a whole one.

Every write goes beside its target, is flushed to disk and then renamed over it.  Reading is not done here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import UserError


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    """Return a new hidden name in the same folder; unlike ``tempfile``'s, with the user's usual permissions."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")


def make_directory(path: Path) -> Path:
    """Make a folder that results go into, with its parents, and return it.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}; choose another --out") from None
    if not os.access(path, os.W_OK):
        raise UserError(f"cannot write to {path}: permission denied; choose another --out")
    return path


@contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """Hold a folder for this process; a second one is refused, and a dead one's lock is gone with it.

    Gives the lock's file, for whoever wants no trace of it in a finished folder.

    Raises:
        UserError: another process holds it.
    """
    lock = make_directory(directory) / ".lock"
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise UserError(f"{directory} is in use by another run; wait for it or choose another --out") from None
        yield lock


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well, sync it and rename it over ``path``."""
    make_directory(path.parent)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON to ``path``, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory beside ``path``; when the block ends well, rename it to ``path``.

    An existing ``path`` is replaced only then; on an exception nothing but the temporary directory is removed.
    """
    make_directory(path.parent)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _sync_directory(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
