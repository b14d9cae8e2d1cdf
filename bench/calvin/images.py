"""What is laid over meshes, at all sizes: an image and its mipmap, from a file or from a material's name.

Not here: how a material looks (``bench.calvin.textures``).  The driver could compute mipmaps, but Mesa compiles
programs for that and keeps them.  Files are decoded once and kept in the user's cache: so a worker needs no decoder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.atomic import replacing
from bench.calvin import textures
from bench.calvin.mesh_files import cache_directory

Levels = list[NDArray[np.uint8]]
"""(H, W, 3) uint8, then half as high and wide again and again down to one pixel; first row at the bottom."""

_FORMAT = 1


def _halved(image: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    """Return an image with half as many pixels along an axis, rounded down, each the linear mean at its middle."""
    count = image.shape[axis]
    if count == 1:
        return image
    at = (np.arange(count // 2) + 0.5) * (count / (count // 2)) - 0.5
    low = at.astype(np.intp)
    mix = (at - low).astype(np.float32).reshape(-1, *[1] * (image.ndim - 1 - axis))
    means = image.take(low, axis) * (1 - mix) + image.take(low + 1, axis) * mix
    return (means + np.float32(0.5)).astype(np.uint8)


def mipmap(image: NDArray[np.uint8]) -> Levels:
    """Return an image (H, W, 3) and all its smaller ones."""
    levels = [image]
    while max(levels[-1].shape[:2]) > 1:
        levels.append(_halved(_halved(levels[-1], 1), 0))
    return levels


def levels_of(image: str | Path) -> Levels:
    """Return the levels of a material, by its name, or of an image file."""
    if isinstance(image, str):
        return mipmap(np.ascontiguousarray(textures.material(image)[::-1]))
    content = hashlib.sha256(image.read_bytes())
    content.update(f"format {_FORMAT}".encode())
    cached = cache_directory("images") / f"{content.hexdigest()[:32]}.npz"
    levels = _stored(cached)
    if levels is None:
        from PIL import Image as Pillow

        levels = mipmap(np.ascontiguousarray(np.asarray(Pillow.open(image).convert("RGB"))[::-1]))
        _store(cached, levels)
    return levels


def _stored(path: Path) -> Levels | None:
    try:
        with np.load(path, allow_pickle=False) as data:
            return [data[str(level)] for level in range(len(data.files))]
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _store(path: Path, levels: Levels) -> None:
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{str(number): level for number, level in enumerate(levels)})  # type: ignore[arg-type]
    except OSError:
        return  # A home that cannot be written costs some milliseconds at the next start, nothing else.
