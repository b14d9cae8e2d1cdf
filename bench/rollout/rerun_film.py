"""A chain as a Rerun recording: both views, what the robot was told and what it solved, on one time line to scroll in.

Made in the worker's memory like ``film.py``'s MP4.  Rerun is no dependency: install rerun-sdk where it is wanted.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.rollout.chain import GRIPPER_CAMERA, STATIC_CAMERA

JPEG_QUALITY = 90


class RerunFilm:
    """Takes a chain's frames (a ``chain.Recorder``) and gives back an ``.rrd`` file.

    Raises:
        UserError: rerun-sdk is not installed.
    """

    def __init__(self) -> None:
        try:
            self._rerun: Any = importlib.import_module("rerun")
        except ImportError:
            raise UserError("film format rrd: expected the package rerun-sdk; pip install rerun-sdk") from None
        self._recording = self._rerun.RecordingStream("wristbench")
        self._memory = self._rerun.memory_recording(recording=self._recording)
        self._step, self._told = 0, ""

    def frame(self, views: Mapping[str, NDArray[np.uint8]], instruction: str, subtask: int, done: bool) -> None:
        """Add one step."""
        log = self._recording.log
        self._recording.set_time("step", sequence=self._step)
        self._step += 1
        for name, camera in (("anchor", STATIC_CAMERA), ("wrist", GRIPPER_CAMERA)):
            log(name, self._rerun.Image(views[camera]).compress(jpeg_quality=JPEG_QUALITY))
        told = f"{subtask + 1}. {instruction}"
        if told != self._told:
            log("instruction", self._rerun.TextLog(told))
            self._told = told
        log("solved", self._rerun.Scalars(float(subtask + done)))

    def finish(self) -> bytes:
        """Return the whole recording; no frame can follow."""
        recorded: bytes = self._memory.drain_as_bytes()
        return recorded
