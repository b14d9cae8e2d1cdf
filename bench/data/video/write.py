"""Videos of recordings: small ones for looking and training, lossless ones where every bit must come back.

Key frames are frequent and no frame refers to a later one, so that any frame is found and decoded quickly.  Not here:
what a video belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.errors import UserError


@dataclass(frozen=True)
class Codec:
    """How pictures are encoded.

    Attributes:
        encoder: FFmpeg's name of the encoder.
        name: the name that LeRobot's ``info.json`` gives the format.
        pixels: FFmpeg's name of the stored pixel format.
        shown: the pixel format that readers find.
        quality: option and value that set the quality.
        exact: whether every bit comes back.
    """

    encoder: str
    name: str
    pixels: str
    shown: str
    quality: tuple[str, str]
    exact: bool = False


CODECS = MappingProxyType(
    {
        "h264": Codec("libx264", "h264", "yuv420p", "yuv420p", ("crf", "18")),
        "av1": Codec("libsvtav1", "av1", "yuv420p", "yuv420p", ("crf", "30")),
        "lossless": Codec("libx264rgb", "h264", "rgb24", "gbrp", ("qp", "0"), exact=True),
    }
)
"""``av1`` is what LeRobot itself writes; ``lossless`` is H.264 in RGB, several times larger."""

_KEY_EVERY = "2"
"""Frames between key frames, LeRobot's own choice (its ``video_utils.py``): random access decodes two at most."""


def encode(path: Path, frames: Iterable[NDArray[np.uint8]], rate: int, codec: Codec, crf: int | None = None) -> int:
    """Write batches of frames as one mp4, whole or not at all, and return their number.

    Args:
        path: the file.
        frames: batches uint8 (T, H, W, 3) of one even size.
        rate: frames per second.
        codec: one of :data:`CODECS`.
        crf: quality, 0 to 51, lower is better; None takes the codec's own.  A lossless codec takes none.

    Raises:
        UserError: no frames, odd sides, or a quality for a lossless codec.
    """
    import av

    if crf is not None and codec.exact:
        raise UserError(f"video: expected no quality for a lossless video, got crf {crf}; leave it out")
    option, value = codec.quality
    options = {"g": _KEY_EVERY, option: value if crf is None else str(crf)}
    if codec.encoder.startswith("libx264"):
        options |= {"bf": "0", "preset": "veryfast"}
    elif codec.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it writes its settings to stderr otherwise
        options |= {"preset": "8"}
    count = 0
    with atomic.replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream: Any = None
        for batch in frames:
            if stream is None:
                height, width = batch.shape[1:3]
                if height % 2 or width % 2:
                    raise UserError(f"{path.name}: expected frames with even sides, got {(height, width)}; pad them")
                stream = container.add_stream(codec.encoder, rate=rate, options=options)
                stream.height, stream.width, stream.pix_fmt = height, width, codec.pixels
                stream.codec_context.thread_count = 1
            for frame in batch:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
                count += 1
        if stream is None:
            raise UserError(f"{path.name}: expected at least one frame, got none")
        container.mux(stream.encode(None))
    return count
