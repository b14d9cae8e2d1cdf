"""A chain as a film: both views side by side, what the robot was told, and a green frame where a subtask was solved.

The film is made in the worker's memory and travels home with the result, so it works on a cluster without a shared
disk.  Filming draws every step; it changes nothing but the time that a chain takes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.rollout.api import Recorder
from bench.rollout.chain import GRIPPER_CAMERA, STATIC_CAMERA, ChainResult

Films = Literal["none", "failures", "successes", "all"] | int
"""Which chains are kept as films; a success solved all its subtasks, a number means the chains below it."""

FilmFormat = Literal["mp4", "rrd"]
"""A film to play, or a Rerun recording to scroll in."""

SIDE, LINE = 200, 24
"""Pixels: height and width of a view, height of the line of text."""
FRAMES_PER_S = 30
GREEN = (40, 200, 80)
SOLVED_FRAMES = 15


class Footage(Recorder, Protocol):
    """A recorder that gives back a file's content."""

    def finish(self) -> bytes:
        """Return the whole film; no frame can follow."""
        ...


class Film:
    """Takes a chain's frames (a ``chain.Recorder``) and gives back an MP4."""

    def __init__(self) -> None:
        import av

        self._file = io.BytesIO()
        self._container: Any = av.open(self._file, "w", format="mp4")
        self._stream: Any = self._container.add_stream("libx264", rate=FRAMES_PER_S)
        self._stream.width, self._stream.height, self._stream.pix_fmt = 2 * SIDE, SIDE + LINE, "yuv420p"
        self._stream.codec_context.thread_count = 1

    def frame(self, views: Mapping[str, NDArray[np.uint8]], instruction: str, subtask: int, done: bool) -> None:
        """Add one step; the step that solves a subtask stands still for half a second in a green frame."""
        import av

        picture = composed(views, f"{subtask + 1}. {instruction}", done)
        for _ in range(SOLVED_FRAMES if done else 1):
            for packet in self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                self._container.mux(packet)

    def finish(self) -> bytes:
        """Return the whole film as MP4; no frame can follow."""
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        return self._file.getvalue()


def composed(views: Mapping[str, NDArray[np.uint8]], caption: str, done: bool) -> NDArray[np.uint8]:
    """Return one picture, uint8 (SIDE + LINE, 2 * SIDE, 3): anchor view, wrist view, caption below."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (2 * SIDE, SIDE + LINE))
    for column, name in enumerate((STATIC_CAMERA, GRIPPER_CAMERA)):
        view = Image.fromarray(views[name]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        sheet.paste(view, (column * SIDE, 0))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, SIDE + 6), caption, fill=GREEN if done else (255, 255, 255))
    if done:
        draw.rectangle((0, 0, 2 * SIDE - 1, SIDE - 1), outline=GREEN, width=4)
    return np.asarray(sheet)


def is_filmed(films: Films, chain_id: int) -> bool:
    """Return whether a chain must be filmed because it may be kept."""
    return chain_id < films if isinstance(films, int) else films != "none"


def is_kept(films: Films, result: ChainResult) -> bool:
    """Return whether a chain that ended like this is kept as a film."""
    whole = result.solved == len(result.tasks)
    if isinstance(films, int):
        return result.chain_id < films
    return films == "all" or (films == "successes" and whole) or (films == "failures" and not whole)


def new_film(film_format: FilmFormat) -> Footage:
    """Return what takes a chain's frames.

    Raises:
        UserError: the format needs a package that is not installed.
    """
    if film_format == "mp4":
        return Film()
    from bench.rollout.rerun_film import RerunFilm

    return RerunFilm()


def film_name(result: ChainResult, film_format: FilmFormat = "mp4") -> str:
    """Return the film's file name: arm, seed, chain and how many subtasks were solved."""
    return f"{result.arm}-seed{result.seed}-chain{result.chain_id:04d}-solved{result.solved}.{film_format}"
