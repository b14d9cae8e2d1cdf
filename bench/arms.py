"""What each arm's policy is trained on: the same demonstrations, in the same order, with other wrist views.

``bench/suite.py`` names the arms; this file turns an arm into arrays.  Nothing is trained here, and the arrays of two
arms differ in the wrist view and in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.data.calvin import CalvinDataset
from bench.data.clips import split_paired
from bench.data.episode import Episode
from bench.errors import UserError
from bench.subset import first_demonstrations
from bench.suite import Arm
from policies.api import ACTION_DIM, ANCHOR, PROPRIO_DIM, WRIST
from policies.data import PolicyArrays, resize_frames

ANCHOR_SIZE, WRIST_SIZE = (200, 200), (84, 84)
"""Height and width of CALVIN's cameras; what a policy of these arms must be shown at test."""

WristSource = Literal["real", "generated", "absent"]
READERS = 8
STATIC, GRIPPER, EXECUTED = "rgb_static", "rgb_gripper", "executed_actions"


class GeneratedWrist(Protocol):
    """Generated wrist views by episode: ``bench.data.overlay.Overlay``."""

    def load(self, episode: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Return uint8 (T, H, W, 3)."""
        ...


@dataclass(frozen=True)
class WristPlan:
    """Where each training episode's wrist view comes from, for one arm.

    Attributes:
        arm: the arm.
        sources: episode id to its source.
    """

    arm: Arm
    sources: Mapping[str, WristSource]

    def counts(self) -> dict[str, int]:
        """Return how many episodes have each source."""
        return {source: sum(s == source for s in self.sources.values()) for source in ("real", "generated", "absent")}

    def of(self, episodes: Sequence[Episode]) -> WristPlan:
        """Return the same plan for these episodes alone."""
        return WristPlan(self.arm, {episode.id: self.sources[episode.id] for episode in episodes})


def plan_wrist(arm: Arm, episodes: Sequence[Episode], paired_share: float, seed: int) -> WristPlan:
    """Decide every episode's wrist source; episodes are taken whole, never by frame.

    Args:
        arm: the arm.
        episodes: the training episodes.
        paired_share: share with wrist recordings: the world model's training data, real in every arm that has any.
        seed: of the split; the same for all arms of a run.
    """
    share = {"none": None, "real": 1.0, "paired": paired_share, "filled": paired_share, "mixed": arm.share}[arm.train]
    rest: WristSource = "generated" if arm.generator else "absent"
    recorded: set[str] = set()
    if share == 1.0:
        recorded = {episode.id for episode in episodes}
    elif share is not None:
        recorded = set(split_paired(episodes, share, seed)[0])
    return WristPlan(arm, {episode.id: "real" if episode.id in recorded else rest for episode in episodes})


def _frames_of(episode: Episode) -> NDArray[np.int64]:
    """Return the frames that lie in any window, once each, in order."""
    used = np.zeros(len(episode), dtype=bool)
    for window in episode.windows:
        used[window.start : window.stop] = True
    return np.flatnonzero(used)


def _stretches(frames: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (start, stop) of each unbroken run of frames."""
    breaks = np.flatnonzero(np.diff(frames) > 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(frames, breaks)]


def training_arrays(
    dataset: CalvinDataset,
    plan: WristPlan,
    generated: GeneratedWrist | None,
    sizes: tuple[int, int],
    device: str = "cpu",
    demonstrations: int | None = None,
) -> PolicyArrays:
    """Read the language windows of a data set as one arm sees them.

    Args:
        dataset: the demonstrations.
        plan: the arm's wrist sources; an episode that it does not name has an absent wrist view.
        generated: the overlay, where the plan needs one.
        sizes: side of the anchor and of the wrist image that the network reads, in pixels.
        device: where images are resized.
        demonstrations: how many of the windows, the first in the order of ``bench/subset.py``; None for all.

    Labels are the actions that were executed, where the recording has them, else CALVIN's ``rel_actions``.

    Raises:
        UserError: the data set has no language windows, or the plan needs an overlay that is not there.
    """
    if not dataset.windows:
        raise UserError(
            f"{dataset.directory}: no language windows, policies need them; give a data set with lang_annotations"
        )
    episodes = first_demonstrations(dataset.episodes, demonstrations)
    frames_of = {episode.id: _frames_of(episode) for episode in episodes}
    total = sum(map(len, frames_of.values()))
    labels = EXECUTED if EXECUTED in dataset.episodes[0].keys else "rel_actions"
    arrays = _Arrays(total, sizes, device)
    windows, window_sentence, window_task, sentences = [], [], [], {}  # type: ignore[var-annotated]
    stretches: list[tuple[int, Episode, WristSource, int, int]] = []
    offset = 0
    for episode in episodes:
        frames, source = frames_of[episode.id], plan.sources.get(episode.id, "absent")
        if not len(frames):
            continue
        row_of = np.full(len(episode) + 1, -1, dtype=np.int64)
        row_of[frames] = offset + np.arange(len(frames))
        stretches += [(int(row_of[start]), episode, source, start, stop) for start, stop in _stretches(frames)]
        for window in episode.windows:
            first = row_of[window.start]
            windows.append((first, first + window.stop - window.start))
            window_sentence.append(sentences.setdefault(window.instruction, len(sentences)))
            window_task.append(window.task)
        offset += len(frames)

    def read(row: int, episode: Episode, source: WristSource, start: int, stop: int) -> None:
        loaded = episode.load([STATIC, labels, "robot_obs", *([GRIPPER] if source == "real" else [])], start, stop)
        wrist = loaded.get(GRIPPER)
        if source == "generated":
            if generated is None:
                raise UserError(f"episode {episode.id}: the arm needs generated wrist views and there is no overlay")
            wrist = generated.load(episode.id, start, stop)
        arrays.put(slice(row, row + stop - start), loaded, labels, wrist)

    # Side by side, because a GPU that waits for ten gigabytes of pictures costs more than the training's first minute.
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(lambda stretch: read(*stretch), stretches):
            pass
    return PolicyArrays(
        anchor=arrays.anchor,
        wrist=arrays.wrist,
        wrist_present=arrays.present,
        actions=arrays.actions,
        windows=np.array(windows, dtype=np.int64),
        window_sentence=np.array(window_sentence, dtype=np.int64),
        sentences=tuple(sentences),
        window_task=tuple(window_task),
        proprio=arrays.proprio,
        view_sizes={ANCHOR: ANCHOR_SIZE, WRIST: WRIST_SIZE},
    )


class _Arrays:
    """The frames of all windows, each array made once: a large data set must not lie in memory twice."""

    def __init__(self, frames: int, sizes: tuple[int, int], device: str) -> None:
        anchor, wrist = sizes
        self.device = device
        self.anchor = np.empty((frames, anchor, anchor, 3), np.uint8)
        self.wrist = np.zeros((frames, wrist, wrist, 3), np.uint8)
        self.present = np.zeros(frames, np.bool_)
        self.actions = np.empty((frames, ACTION_DIM), np.float32)
        self.proprio = np.empty((frames, PROPRIO_DIM), np.float32)

    def put(self, rows: slice, loaded: Mapping[str, NDArray], labels: str, wrist: NDArray[np.uint8] | None) -> None:
        """Keep one stretch of frames; ``wrist`` is None where the arm has none."""
        resize_frames(loaded[STATIC], self.anchor.shape[1], self.device, self.anchor[rows])
        if wrist is not None:
            resize_frames(wrist, self.wrist.shape[1], self.device, self.wrist[rows])
            self.present[rows] = True
        self.actions[rows] = loaded[labels]
        self.actions[rows, -1] = np.where(loaded[labels][:, -1] > 0, 1.0, -1.0)
        self.proprio[rows] = loaded["robot_obs"]
