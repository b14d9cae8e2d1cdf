"""Training stage 1: first depth from the anchors, then the wrist camera's pose from pixel pairs.

Not here: the network (``vggt/``, ``wrist_head.py``), what a step computes (``stage1_steps.py``), and what is done with
the result (``stage1_model.py``).  The method is WristWorld's (arXiv 2510.07313).  Where pretrained VGGT weights are
used (scale ``paper``) the aggregator and the dense heads are frozen, and only the wrist head and the camera head
learn.  From scratch (``tiny``, ``small``) all learn: depth first, from the anchors' own depth images and intrinsics;
then, in the second phase, the points of all pairs are computed once and stay fixed, as they would under a frozen
point head.  Wrist poses are never labels, except in the ablation ``pose_supervision``.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import checkpoint, geometry
from worldmodel.api import ClipSource, WorldModelError
from worldmodel.stage1_config import Stage1Config
from worldmodel.stage1_data import Frames, gather_frames
from worldmodel.stage1_model import Scene, Stage1, Stage1Prediction
from worldmodel.stage1_steps import Lesson, clip_gradients, optimizer_of
from worldmodel.tracks import SimulatorTracker, Tracker
from worldmodel.vggt.loading import load_pretrained
from worldmodel.vggt.model import Vggt

__all__ = ["Stage1", "Stage1Config", "Stage1Prediction", "train_stage1"]

STATE = "training"
"""Subfolder of the training state; gone when the stage is finished."""

SAVE_SECONDS = 30.0
"""Time between two training states."""

LOG_EVERY = 10
"""Steps between two entries of the history."""

Show = Callable[[str, int, int, str], None]


def train_stage1(
    clips: ClipSource,
    config: Stage1Config,
    directory: Path | str,
    *,
    seed: int = 0,
    device: str = "cpu",
    steps: int | None = None,
    time_limit_s: float | None = None,
    progress: bool = True,
) -> Stage1:
    """Train stage 1, or go on with it, or read it if it is finished.

    Args:
        clips: paired clips: anchors and wrist.  The scales ``tiny`` and ``small`` need depth and camera matrices too.
        config: what to train.
        directory: where the finished stage goes; ``training/`` in it keeps the state of an unfinished one.
        seed: the only source of randomness: the same seed, clips and number of threads give the same weights,
            unless a time limit cuts the run.
        device: torch device.
        steps: steps of the second phase instead of ``config.steps``; the first is shortened in proportion.
        time_limit_s: both schedules end when this time is used up, if the steps are not done before.
        progress: whether to show progress on stderr.

    Raises:
        WorldModelError: the clips lack something, or ``directory`` holds another run.
    """
    directory = Path(directory)
    if steps is not None:
        first = math.ceil(config.geometry_steps * steps / config.steps)
        config = replace(config, steps=steps, geometry_steps=first)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), _bars(progress) as show:
        torch.manual_seed(seed)
        model = Vggt(config.vggt)
        loaded = load_pretrained(model, config.pretrained).to_json() if config.pretrained else None
        model.to(device)
        tracker = _tracker(config, model, device)
        frames = gather_frames(
            clips,
            model.image_shape,
            tracker,
            max_frames=config.max_frames,
            minimum_confidence=config.tracks_confidence,
            progress=lambda what, done, total: show(what, done, total, ""),
        )
        _check(config, frames)
        identity = {"config": config.to_json(), "seed": seed, "data": frames.digest}
        finished = _finished(directory, identity, device)
        if finished is not None:
            return finished
        lesson = Lesson(config, model, frames, _scene(config, frames), device, np.random.default_rng(seed))
        run = _Run(lesson, directory / STATE, identity, time_limit_s, show)
        run.train()
        provenance = {"tracks": tracker.name if tracker else "none", "frames": len(frames), "pretrained": loaded}
        extra = {"identity": identity, "provenance": provenance, "history": run.history, "seconds": run.elapsed}
        stage = Stage1(config, model, lesson.scene, extra, device)
        stage.save(directory)
        shutil.rmtree(directory / STATE, ignore_errors=True)
        return stage


@dataclass
class _Run:
    """A training run: where it stands, and how it goes on from there."""

    lesson: Lesson
    folder: Path
    identity: dict[str, Any]
    limit: float | None
    show: Show
    phase: str = "geometry"
    step: int = 0
    elapsed: float = 0.0
    phase_start: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    latest: dict[str, float] = field(default_factory=dict)

    def train(self) -> None:
        """Run both phases, from wherever the last training state was."""
        lesson, config = self.lesson, self.lesson.config
        state = checkpoint.load_training_state(self.folder)
        if state is None:
            self.phase = "geometry" if config.geometry_steps else "wrist"
            if config.vggt.depth_activation == "linear":
                _start_cameras(lesson)
        else:
            self._continue(state)
        while True:
            if self.phase == "wrist":
                self._fix_points()
            optimizer = optimizer_of(lesson.model, config)
            if state is not None:
                state.restore_optimizer(optimizer)
                state.restore_rng(lesson.random)
                state = None
            self._run_phase(optimizer)
            if self.phase == "wrist":
                return
            self.phase, self.step, self.phase_start, self.latest = "wrist", 0, self.elapsed, {}

    def _continue(self, state: checkpoint.TrainingState) -> None:
        if state.config != self.identity:
            raise WorldModelError(
                f"{self.folder} holds an unfinished run of another configuration, seed or data: "
                "name a new folder, or remove this one"
            )
        extra = state.extra
        self.phase, self.step, self.history = extra["phase"], extra["step"], extra["history"]
        self.elapsed, self.phase_start, self.latest = extra["elapsed"], extra["phase_start"], extra["latest"]
        self.lesson.model.load_state_dict(state.tensors)

    def _fix_points(self) -> None:
        """Take the points of all pairs from this run's folder, or compute them and the pose to start from."""
        lesson, kept = self.lesson, self.folder / "points"
        if lesson.config.spc_weight <= 0:
            return
        if self.step > 0:
            lesson.points = checkpoint.load(kept)[1]["points"]
            return
        self.show("placing pixel pairs", 0, 1, "")
        lesson.points = lesson.pair_points()
        checkpoint.save(kept, {}, {"points": lesson.points}, {})
        if lesson.config.start_pose:
            lesson.model.wrist_head.start_from(lesson.start_pose())
        self.show("placing pixel pairs", 1, 1, "")

    def _run_phase(self, optimizer: torch.optim.Optimizer) -> None:
        lesson, config = self.lesson, self.lesson.config
        steps = config.geometry_steps if self.phase == "geometry" else config.steps
        lesson.model.train()
        saved = before = time.monotonic()
        while (done := self._progress(steps)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _schedule(done, config.warm_up)
            losses = lesson.geometry_step() if self.phase == "geometry" else lesson.wrist_step(self.step, done)
            total = lesson.total(losses)
            optimizer.zero_grad()
            total.backward()
            clip_gradients(lesson.model, config.clip)
            optimizer.step()
            self.step += 1
            now = time.monotonic()
            self.elapsed, before = self.elapsed + now - before, now
            if "depth" in losses:
                self.latest["depth"] = float(losses["depth"].detach())
            if self.step % LOG_EVERY == 0 or self._progress(steps) >= 1:
                self._log(total, losses, steps)
            if now - saved > SAVE_SECONDS:
                self.save(optimizer)
                saved = before = time.monotonic()

    def _progress(self, steps: int) -> float:
        """Return how much of the phase is done, by steps or by time, whichever is further."""
        by_steps = self.step / steps
        if self.limit is None:
            return by_steps
        config = self.lesson.config
        whole = config.geometry_steps + config.steps
        end = self.limit * (config.geometry_steps / whole if self.phase == "geometry" else 1.0)
        return max(by_steps, (self.elapsed - self.phase_start) / max(end - self.phase_start, 1e-3))

    def _log(self, total: torch.Tensor, losses: dict[str, torch.Tensor], steps: int) -> None:
        # Depth is rehearsed now and then only: its last value stands until the next.
        values = self.latest | {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(float(total.detach())):
            raise WorldModelError(
                f"stage 1 diverged in step {self.step} of phase {self.phase!r} ({values}): "
                "lower learning_rate or set robust=0.1"
            )
        entry = {name: round(value, 5) for name, value in values.items()}
        self.history.append({"phase": self.phase, "step": self.step, "seconds": round(self.elapsed, 2), **entry})
        self.show(f"stage 1 {self.phase}", self.step, steps, f"loss {float(total.detach()):.3f}")

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """Write the training state."""
        extra = {
            "phase": self.phase,
            "step": self.step,
            "elapsed": self.elapsed,
            "phase_start": self.phase_start,
            "history": self.history,
            "latest": self.latest,
        }
        checkpoint.save_training_state(
            self.folder,
            self.identity,
            self.lesson.model.state_dict(),
            extra,
            optimizer=optimizer,
            numpy_generator=self.lesson.random,
        )


def _schedule(done: float, warm_up: float) -> float:
    """Return the learning rate's factor: linear warm-up, then a cosine to 0."""
    if done < warm_up:
        return (done + 1e-3) / (warm_up + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _finished(directory: Path, identity: dict[str, Any], device: str) -> Stage1 | None:
    if not (directory / checkpoint.INDEX).is_file():
        return None
    stage = Stage1.load(directory, device)
    if stage.extra.get("identity") != identity:
        raise WorldModelError(f"{directory} holds a stage 1 of another configuration, seed or data: name a new folder")
    return stage


def _tracker(config: Stage1Config, model: Vggt, device: str) -> Tracker | None:
    if config.spc_weight <= 0:
        return None
    if config.tracks == "vggt":
        from worldmodel.vggt.tracker import VggtTracker

        return VggtTracker(model, device=device, count=config.tracks_grid)
    return SimulatorTracker(
        count=config.tracks_grid, tolerance_m=config.tracks_tolerance_m, noise_px=config.tracks_noise_px
    )


def _check(config: Stage1Config, frames: Frames) -> None:
    """Refuse clips from which this configuration cannot learn."""
    if config.geometry_steps and (frames.depth is None or frames.intrinsics is None):
        raise WorldModelError(
            f"scale {config.scale!r} learns depth from the anchors' own depth and intrinsics, which these clips lack: "
            "record depth, or use the scale 'paper' with pretrained VGGT weights"
        )
    if config.recorded_points and (frames.depth is None or frames.intrinsics is None or frames.poses is None):
        raise WorldModelError(
            "recorded_points needs the anchors' depth and camera matrices, which these clips lack: record them, or "
            "set recorded_points=False"
        )
    if not frames.wrist_intrinsics[:, 0, 0].all() or min(frames.wrist_size) < 1:
        raise WorldModelError("stage 1 needs wrist images and the wrist camera's intrinsics: train on paired clips")
    if config.pose_supervision and frames.wrist_poses is None:
        raise WorldModelError(
            "pose_supervision needs true wrist poses, which these clips lack: leave it off and use the SPC loss"
        )
    if config.spc_weight > 0 and len(frames.paired) == 0:
        raise WorldModelError("no pixel pair was found in any frame: check the camera matrices or the tolerance")


def _scene(config: Stage1Config, frames: Frames) -> Scene:
    """Return the similarity that puts the middle of the anchors' depth at 0 and its spread near 1."""
    if config.vggt.depth_activation == "exp" or frames.depth is None:
        return Scene()
    known = frames.depth[:, 0][frames.depth[:, 0] > 0]
    middle = float(known.median())
    spread = float((known - middle).abs().median())
    return Scene(depth_m=round(middle, 4), scale_m=round(max(2 * spread, 1e-3), 4))


def _start_cameras(lesson: Lesson) -> None:
    """Start the camera head at the first anchor's known place and the mean field of view."""
    frames = lesson.frames
    assert frames.intrinsics is not None, "checked before training"
    size = (frames.anchors.shape[-2], frames.anchors.shape[-1])
    fov = geometry.fov_from_intrinsics(frames.intrinsics, size).mean(dim=(0, 1))
    lesson.model.camera_head.start_from(geometry.encode_pose(lesson.scene.pose_to_scene(torch.eye(4)), fov))


@contextmanager
def _bars(enabled: bool) -> Iterator[Show]:
    """Give a function that shows progress on stderr, one bar for each thing that is named."""
    if not enabled:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars = Progress(*columns, console=Console(file=sys.stderr), expand=True)
    tasks: dict[str, Any] = {}
    with bars:

        def show(what: str, done: int, total: int, note: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note="")
            bars.update(tasks[what], completed=done, note=note)

        yield show
