"""A hash over files of any format: says whether a folder still holds the same, without reading all of it.

Not here: CALVIN's recordings, frame by frame (:mod:`bench.data.calvin.fingerprint`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from bench.errors import UserError

_TAIL = 64 << 10


def files_hash(root: Path, paths: Iterable[Path]) -> str:
    """Return a SHA-256 over files of a folder: name, size and last 64 KB of each.

    The end of an mp4 or a parquet file is its table of contents, which changes with almost any change of the content.

    Raises:
        UserError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - _TAIL, 0))
                digest.update(f"{path.relative_to(root)}:{size}:".encode() + hashlib.sha256(file.read(_TAIL)).digest())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; check the data set's folder") from None
    return digest.hexdigest()
