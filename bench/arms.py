"""What each arm's policy is trained on: the same demonstrations, in the same order, with other wrist views.

``bench/suite.py`` names the arms; this file turns an arm into arrays.  Nothing is trained here, and the arrays of two
arms differ in the wrist view and in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.data.calvin import CalvinDataset
from bench.data.clips import split_paired
from bench.data.episode import Episode
from bench.errors import UserError
from bench.suite import Arm
from policies.api import ANCHOR, WRIST
from policies.data import PolicyArrays, resize_frames

ANCHOR_SIZE, WRIST_SIZE = (200, 200), (84, 84)
"""Height and width of CALVIN's cameras; what a policy of these arms must be shown at test."""

WristSource = Literal["real", "generated", "absent"]
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
) -> PolicyArrays:
    """Read the language windows of a data set as one arm sees them.

    Args:
        dataset: the demonstrations.
        plan: the arm's wrist sources; an episode that it does not name has an absent wrist view.
        generated: the overlay, where the plan needs one.
        sizes: side of the anchor and of the wrist image that the network reads, in pixels.

    Labels are the actions that were executed, where the recording has them, else CALVIN's ``rel_actions``.

    Raises:
        UserError: the data set has no language windows, or the plan needs an overlay that is not there.
    """
    if not dataset.windows:
        raise UserError(
            f"{dataset.directory}: no language windows, policies need them; give a data set with lang_annotations"
        )
    labels = EXECUTED if EXECUTED in dataset.episodes[0].keys else "rel_actions"
    anchor_parts, wrist_parts, present_parts, action_parts, proprio_parts = [], [], [], [], []
    windows, window_sentence, window_task, sentences = [], [], [], {}  # type: ignore[var-annotated]
    offset = 0
    for episode in dataset.episodes:
        frames = _frames_of(episode)
        if not len(frames):
            continue
        source = plan.sources.get(episode.id, "absent")
        row_of = np.full(len(episode) + 1, -1, dtype=np.int64)
        row_of[frames] = offset + np.arange(len(frames))
        for start, stop in _stretches(frames):
            keys = [STATIC, labels, "robot_obs", *([GRIPPER] if source == "real" else [])]
            loaded = episode.load(keys, start, stop)
            anchor_parts.append(resize_frames(loaded[STATIC], sizes[0]))
            wrist_parts.append(_wrist(episode, source, loaded, generated, start, stop, sizes[1]))
            present_parts.append(np.full(stop - start, source != "absent"))
            action_parts.append(loaded[labels].astype(np.float32))
            proprio_parts.append(loaded["robot_obs"].astype(np.float32))
        for window in episode.windows:
            first = row_of[window.start]
            windows.append((first, first + window.stop - window.start))
            window_sentence.append(sentences.setdefault(window.instruction, len(sentences)))
            window_task.append(window.task)
        offset += len(frames)
    actions = np.concatenate(action_parts)
    actions[:, 6] = np.where(actions[:, 6] > 0, 1.0, -1.0)
    return PolicyArrays(
        anchor=np.concatenate(anchor_parts),
        wrist=np.concatenate(wrist_parts),
        wrist_present=np.concatenate(present_parts),
        actions=actions,
        windows=np.array(windows, dtype=np.int64),
        window_sentence=np.array(window_sentence, dtype=np.int64),
        sentences=tuple(sentences),
        window_task=tuple(window_task),
        proprio=np.concatenate(proprio_parts),
        view_sizes={ANCHOR: ANCHOR_SIZE, WRIST: WRIST_SIZE},
    )


def _wrist(
    episode: Episode,
    source: WristSource,
    loaded: Mapping[str, NDArray[np.uint8]],
    generated: GeneratedWrist | None,
    start: int,
    stop: int,
    size: int,
) -> NDArray[np.uint8]:
    if source == "real":
        return resize_frames(loaded[GRIPPER], size)
    if source == "generated":
        if generated is None:
            raise UserError(f"episode {episode.id}: the arm needs generated wrist views and there is no overlay")
        return resize_frames(generated.load(episode.id, start, stop), size)
    return np.zeros((stop - start, size, size, 3), dtype=np.uint8)
