"""Procedural images: wood whose grain and tone come from a material's name, and a checker floor.

Not here: anything read from a file.  The same name gives the same image everywhere.  Wood follows the usual recipe of
solid texturing (Perlin, "An Image Synthesizer", SIGGRAPH 1985): distance from a tilted axis, disturbed by smooth
noise, gives rings; fine stretched noise gives pores.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError

SIZE = 256
TILE = 0.5
"""Metres that one wood image spans."""

_WOODS = {
    # early wood, late wood (RGB), rings a tile, waviness
    "dark_wood": ((132, 88, 58), (84, 50, 32), 9, 0.55),
    "light_wood": ((236, 196, 132), (206, 160, 98), 7, 0.45),
    "wood": ((180, 122, 72), (130, 80, 44), 11, 0.60),
    # Boards of the built-in scenes: their own tone of the wood that they are.
    "dark_wood_a": ((124, 66, 46), (88, 42, 30), 10, 0.50),
    "dark_wood_d": ((164, 122, 80), (120, 84, 52), 8, 0.65),
}


def _noise(rng: np.random.Generator, cells: tuple[int, int]) -> NDArray[np.float64]:
    """Return (SIZE, SIZE) smooth tileable noise in -1..1 with ``cells`` random values down and across."""
    grid = rng.uniform(-1, 1, cells)
    out = grid
    for axis in (0, 1):
        at = np.arange(SIZE) * (cells[axis] / SIZE)
        low = at.astype(int)
        mix = at - low
        mix = mix * mix * (3 - 2 * mix)
        shape = [1, 1]
        shape[axis] = SIZE
        mix = mix.reshape(shape)
        first = np.take(out, low % cells[axis], axis=axis)
        second = np.take(out, (low + 1) % cells[axis], axis=axis)
        out = first * (1 - mix) + second * mix
    return out


def _look(name: str) -> tuple[tuple[int, int, int], tuple[int, int, int], int, float]:
    """Return the row of ``_WOODS`` that a board's name begins with."""
    kind = next((kind for kind in sorted(_WOODS, key=len, reverse=True) if name.startswith(kind)), None)
    if kind is None:
        raise UserError(f"material: expected a name that begins with one of {sorted(_WOODS)}, got {name!r}")
    return _WOODS[kind]


@lru_cache(maxsize=16)
def wood(name: str) -> NDArray[np.uint8]:
    """Return the (SIZE, SIZE, 3) tileable image of a wood, grain along x.

    Args:
        name: ``dark_wood``, ``light_wood`` or ``wood``, followed by ``_`` and any name of the board.
    """
    early, late, rings, waviness = _look(name)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    down = np.arange(SIZE)[:, None] / SIZE
    bend = waviness * _noise(rng, (4, 2)) + 0.25 * _noise(rng, (8, 4))
    # Two sines of whole periods over the tile, so that it repeats without a seam.
    phase = 2 * np.pi * (rings * down + bend)
    ring = 0.5 + 0.35 * np.sin(phase) + 0.15 * np.sin(2 * phase + rng.uniform(0, 6))
    pores = 0.5 * _noise(rng, (128, 8)) + 0.5 * _noise(rng, (64, 4))
    boards = 0.12 * _noise(rng, (4, 1))
    share = np.clip(ring * 0.7 + 0.22 * pores + boards + 0.15, 0, 1)[..., None]
    tone = 1 + 0.03 * rng.uniform(-1, 1, 3)
    image = (np.array(early) * (1 - share) + np.array(late) * share) * tone
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def checker() -> NDArray[np.uint8]:
    """Return the (SIZE, SIZE, 3) image of the floor: two by two squares, white and pale grey."""
    half = np.arange(SIZE) < SIZE // 2
    same = half[:, None] == half[None, :]
    return np.where(same, 255, 222).astype(np.uint8)[..., None].repeat(3, axis=-1)


def material(name: str) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 image of a material, ``checker`` or a wood."""
    return checker() if name == "checker" else wood(name)


def shade(name: str, share: float) -> tuple[float, float, float]:
    """Return a wood's middle colour, 0..1, with ``share`` of its light: what a narrow groove in it shows."""
    early, late, *_ = _look(name)
    red, green, blue = ((one + other) / 510 * share for one, other in zip(early, late, strict=True))
    return red, green, blue
