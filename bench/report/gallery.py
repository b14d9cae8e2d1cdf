"""Pictures of generated wrist views: anchor | true wrist | condition map | generated, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench import atomic

PANELS = ("anchor", "true wrist", "condition map", "generated")
SIDE = 168
"""Pixels of one panel's side: twice CALVIN's wrist view."""
HEADER = 18
GAP = 4
BACKGROUND = (250, 250, 248)


@dataclass(frozen=True)
class GalleryClip:
    """The frames of one clip for the gallery.

    Attributes:
        title: episode and frames.
        panels: panel name to uint8 (T, H, W, 3); a missing panel is a missing key.
        psnr: mean PSNR of the generated frames in dB, or None.
    """

    title: str
    panels: dict[str, NDArray[np.uint8]]
    psnr: float | None = None

    def __len__(self) -> int:
        """Return T."""
        return min(len(frames) for frames in self.panels.values())


def _panel(clip: GalleryClip, name: str, time: int) -> Image.Image:
    if name not in clip.panels:
        missing = Image.new("RGB", (SIDE, SIDE), (230, 230, 228))
        ImageDraw.Draw(missing).text((SIDE // 2, SIDE // 2), "not recorded", fill=(120, 120, 120), anchor="mm")
        return missing
    return Image.fromarray(clip.panels[name][time]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def tile(clip: GalleryClip, time: int, header: bool = True) -> Image.Image:
    """Return one picture with the four panels of one moment."""
    top = HEADER if header else 0
    picture = Image.new("RGB", (len(PANELS) * (SIDE + GAP) - GAP, SIDE + top), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for column, name in enumerate(PANELS):
        left = column * (SIDE + GAP)
        if header:
            draw.text((left + SIDE // 2, HEADER // 2), name, fill=(40, 40, 40), anchor="mm")
        picture.paste(_panel(clip, name, time), (left, top))
    return picture


def still(clips: Sequence[GalleryClip], path: Path) -> None:
    """Write one PNG with the middle moment of each clip, a row each."""
    rows = [tile(clip, len(clip) // 2, header=index == 0) for index, clip in enumerate(clips)]
    width, height = rows[0].width, sum(row.height + GAP for row in rows) - GAP
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    atomic.write_bytes(path, buffer.getvalue())


def animation(clip: GalleryClip, frames_per_second: float = 10.0) -> bytes:
    """Return the clip as an animated WebP: the panels move together, because each moment is one picture."""
    pictures = [tile(clip, time, header=False) for time in range(len(clip))]
    buffer = io.BytesIO()
    pictures[0].save(buffer, format="WEBP", save_all=True, append_images=pictures[1:], loop=0, quality=80, method=4,
                     duration=round(1000 / frames_per_second))  # fmt: skip
    return buffer.getvalue()
