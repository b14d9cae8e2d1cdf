"""Frames of a video by their number: seek-accurate, safe on damaged files, cached.

The presentation times of all frames are read once from the container, without decoding; frame ``n`` is the one with
the ``n``-th time.  A read seeks to the key frame before it and decodes until it comes; reading on from where the last
read ended does not seek.  Not here: which frame belongs to which episode, and writing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.arrays import first_line
from bench.errors import UserError

MAX_SIDE = 8192
"""Widest or highest picture that is decoded."""

MAX_FRAMES = 20_000_000
"""Most frames that one file may hold: at 30 a second a week."""

_OPEN_FILES = 48
_AHEAD = 2
"""Frames that are decoded and dropped rather than sought past, where a key frame lies between."""

_BACKWARDS = 3


@dataclass(frozen=True)
class _Index:
    """Presentation times of a file's frames, in its own clock.

    Attributes:
        times: int64 (N,), ascending.
        keys: int64 (K,), those of the frames that decode without others, ascending.
        seconds: length of one tick.
        height: of a picture.
        width: of a picture.
        times_s: float64 (N,), ``times`` in seconds.
    """

    times: NDArray[np.int64]
    keys: NDArray[np.int64]
    seconds: float
    height: int
    width: int
    times_s: NDArray[np.float64]


class VideoFile:
    """One open video; calls from several threads take turns.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Read the container's index; no picture is decoded.

        Raises:
            UserError: no such file, no mp4, no picture in it, or pictures of an impossible size.
        """
        self.path = path
        self._lock = threading.Lock()
        self._container: Any = None
        self._converter: Any = None
        self._frames: Any = None
        self._next = 0
        try:
            self._index = _read_index(path)
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{path}: expected a video, got no such file; fetch the data set again") from None
        except Exception as error:  # FFmpeg has an error for everything, and some are of no common kind.
            raise UserError(f"cannot read {path}: no whole mp4 ({first_line(error)}); fetch it again") from None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._index.times)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self._index.height, self._index.width

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds of every frame from the start of the file's clock, (N,)."""
        return self._index.times_s

    def numbers_at(self, seconds: NDArray[np.float64], tolerance: float) -> NDArray[np.int64]:
        """Return the numbers of the frames shown at ``seconds`` (T,).

        Raises:
            UserError: no frame lies within ``tolerance`` seconds of one of them.
        """
        times = self.times
        right = np.clip(np.searchsorted(times, seconds), 0, len(times) - 1)
        left = np.maximum(right - 1, 0)
        nearest = np.where(np.abs(times[left] - seconds) <= np.abs(times[right] - seconds), left, right)
        apart = np.abs(times[nearest] - seconds)
        if not (apart <= tolerance).all():
            worst = int(np.nanargmax(apart)) if np.isfinite(apart).any() else 0
            raise UserError(
                f"{self.path}: expected a frame at {seconds[worst]:.4f} s, got the nearest of {len(self)} at "
                f"{times[nearest[worst]]:.4f} s; the video is cut or its times are wrong: fetch it again"
            )
        return np.asarray(nearest, dtype=np.int64)

    def read(
        self, numbers: Sequence[int] | NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Return frames as uint8 (T, H, W, 3).

        Args:
            numbers: which, in any order, also repeated.
            size: (height, width) to scale to while decoding; None keeps the file's.

        Raises:
            UserError: a number is out of range, or the file is damaged there.
        """
        wanted = np.asarray(numbers, dtype=np.int64)
        if len(wanted) == 0 or wanted.min() < 0 or wanted.max() >= len(self):
            span = f"{wanted.min()} to {wanted.max()}" if len(wanted) else "none"
            raise UserError(f"{self.path}: expected frames 0 to {len(self) - 1}, got {span}; the video is too short")
        height, width = size or self.size
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        rows: dict[int, list[int]] = {}
        for row, number in enumerate(wanted.tolist()):
            rows.setdefault(number, []).append(row)
        with self._lock:
            try:
                for number in sorted(rows):
                    out[rows[number]] = self._picture(number, (height, width))
            except UserError:
                self._close()
                raise
            except Exception as error:
                self._close()
                raise UserError(f"cannot read {self.path}: damaged ({first_line(error)}); fetch it again") from None
        return out

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = self._converter = self._frames = None

    def _picture(self, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        time = int(self._index.times[number])
        for back in range(_BACKWARDS):
            frame = self._decode_to(number, time, back)
            if frame is not None:
                break
        else:
            raise UserError(f"cannot read {self.path}: frame {number} does not decode: damaged; fetch it again")
        if (frame.height, frame.width) != self.size:
            raise UserError(
                f"{self.path}: expected pictures of {self.size}, got {(frame.height, frame.width)} at frame {number}; "
                "the file changes its size: fetch it again"
            )
        # One converter for all frames: setting one up takes longer than converting a small picture.
        method = None if size == self.size else "AREA"
        shown = self._converter(frame, width=size[1], height=size[0], format="rgb24", interpolation=method)
        picture: NDArray[np.uint8] = shown.to_ndarray()
        return picture

    def _decode_to(self, number: int, time: int, back: int) -> Any:
        """Return the frame of that time, or None where decoding from the key frame chosen passes it by."""
        key = max(int(np.searchsorted(self._index.keys, time, side="right")) - 1 - back, 0)
        if self._frames is None or back or not self._is_near(number, key):
            self._seek(key)
        for frame in self._frames:
            if frame.pts is None or frame.pts < time:
                continue
            if frame.pts > time:
                self._frames = None
                return None
            self._next = number + 1
            return frame
        self._frames = None
        return None

    def _is_near(self, number: int, key: int) -> bool:
        """Whether decoding on reaches a frame sooner than seeking to the key frame before it."""
        if number < self._next:
            return False
        keys = self._index.keys
        return number - self._next <= _AHEAD or len(keys) == 0 or keys[key] <= self._index.times[self._next]

    def _seek(self, key: int) -> None:
        if self._container is None:
            self._container, self._converter = _open(self.path), _converter()
        stream = self._container.streams.video[0]
        if len(self._index.keys):
            self._container.seek(int(self._index.keys[key]), stream=stream, backward=True, any_frame=False)
        self._frames = self._container.decode(stream)


def _open(path: Path) -> Any:
    """Open a file as nothing but an mp4: other formats may name further files to be read."""
    import av

    container = av.open(str(path), format="mp4", options={"protocol_whitelist": "file"})
    if not container.streams.video or container.streams.video[0].codec_context is None:
        container.close()
        raise UserError(f"{path}: expected a video that can be decoded, got a file without one; fetch it again")
    container.streams.video[0].codec_context.thread_count = 1
    return container


def _converter() -> Callable[..., Any]:
    """Return what turns decoded frames into RGB, on one thread: on small pictures more threads only wait."""
    from av.video.reformatter import VideoReformatter

    convert: Callable[..., Any] = VideoReformatter().reformat
    # Not every PyAV knows the option, and what is written in Cython tells its parameters nowhere else.
    return partial(convert, threads=1) if "threads" in (convert.__doc__ or "") else convert


def _read_index(path: Path) -> _Index:
    if not path.is_file():
        raise FileNotFoundError
    with _open(path) as container:
        stream = container.streams.video[0]
        height, width = stream.codec_context.height, stream.codec_context.width
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            raise UserError(f"{path}: expected pictures of 1 to {MAX_SIDE} pixels a side, got {height} x {width}")
        if not stream.time_base:
            raise UserError(f"{path}: expected a video with a clock, got none; fetch it again")
        times, keys = [], []
        for packet in container.demux(stream):
            if packet.pts is None or packet.is_discard:
                continue
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
            if len(times) > MAX_FRAMES:
                raise UserError(f"{path}: expected at most {MAX_FRAMES} frames, got more; refused to read it")
        if not times:
            raise UserError(f"{path}: expected frames, got none: cut short; fetch it again")
        ordered, seconds = np.unique(np.array(times, np.int64)), float(stream.time_base)
        in_seconds = np.asarray(ordered * seconds, dtype=np.float64)
        return _Index(ordered, np.unique(np.array(keys, np.int64)), seconds, height, width, in_seconds)


class VideoCache:
    """The videos that were used last, open; any thread may ask."""

    def __init__(self, limit: int = _OPEN_FILES) -> None:
        self._files: OrderedDict[Path, VideoFile] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind when a data set goes to another process."""
        return {"limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start empty in the other process."""
        self.__init__(state["limit"])  # type: ignore[misc]

    def open(self, path: Path) -> VideoFile:
        """Return the video, opened before or now.

        Raises:
            UserError: see :class:`VideoFile`.
        """
        with self._lock:
            found = self._files.get(path)
            if found is not None:
                self._files.move_to_end(path)
                return found
        video = VideoFile(path)
        with self._lock:
            self._files[path] = video
            while len(self._files) > self._limit:
                _, oldest = self._files.popitem(last=False)
                oldest.close()
        return video
