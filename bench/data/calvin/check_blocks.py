"""Does the scene table tell the truth?  Blocks and sliders betray the scene that a recording was made in.

All blocks are equally high and rest at the same height, so a still frame does not tell them apart.  A language window
does: in "lift the red block" the red one moves, and it must be at the place that the scene's order gives red.  The
slider tells by its range, which differs between scenes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.data.calvin.reader import BLOCK_ORDER, CalvinDataset
from bench.data.defects import Defect
from bench.data.episode import Episode, Window
from bench.errors import UserError

_SLIDER_LIMIT = {"A": 0.28, "B": 0.304, "C": 0.24, "D": 0.28}
"""Upper end of the slider's joint in metres (calvin_env ``calvin_table_X.urdf``, times the global scale of 0.8)."""

_SLIDER_SLACK = 0.01
_MOVED = 0.03
_MOVING_TASKS = ("lift_", "push_")


def check_scenes(dataset: CalvinDataset) -> Iterator[Defect]:
    """Give a row for every scene whose blocks or slider behave like another scene's."""
    votes: dict[str, list[bool]] = {}
    first: dict[str, int] = {}
    for episode in dataset.episodes:
        if not episode.scene:
            continue
        for window in episode.windows:
            try:
                agrees = _window_agrees(episode, window)
                yield from _slider(dataset, episode, window)
            except UserError:
                continue
            if agrees is not None:
                votes.setdefault(episode.scene, []).append(agrees)
                if not agrees:
                    first.setdefault(episode.scene, episode.first + window.start)
    for scene, agreed in votes.items():
        wrong = agreed.count(False)
        if 2 * wrong > len(agreed):
            what = (
                f"block order: in {wrong} of {len(agreed)} windows another block moves than scene {scene}'s order "
                f"({', '.join(BLOCK_ORDER[scene])}) says; the scene is another, or the labels are"
            )
            yield Defect(str(dataset.directory / "scene_info.npy"), first[scene], what)


def _window_agrees(episode: Episode, window: Window) -> bool | None:
    """Return whether the block that moves most is the one named; None where the window does not tell."""
    named = [block for block in BLOCK_ORDER[episode.scene] if block.removeprefix("block_") in window.task.split("_")]
    if len(named) != 1 or not window.task.startswith(_MOVING_TASKS) or window.stop - window.start < 2:
        return None
    ends = episode.load(("scene_obs",), window.start, window.stop, window.stop - window.start - 1)["scene_obs"]
    places = ends[:, 6:24].reshape(2, 3, 6)[..., :3]
    moved = np.linalg.norm(places[1] - places[0], axis=1)
    if moved.max() < _MOVED:
        return None
    return BLOCK_ORDER[episode.scene][int(moved.argmax())] == named[0]


def _slider(dataset: CalvinDataset, episode: Episode, window: Window) -> Iterator[Defect]:
    if "slider" not in window.task:
        return
    frame = window.stop - 1
    slider = float(episode.load(("scene_obs",), frame, frame + 1)["scene_obs"][0, 0])
    limit = _SLIDER_LIMIT[episode.scene]
    if not -_SLIDER_SLACK <= slider <= limit + _SLIDER_SLACK:
        number = episode.first + frame
        what = f"scene: the slider stands at {slider:.3f} m, scene {episode.scene} ends at {limit} m; another scene?"
        yield Defect(str(dataset.source.path(number)), number, what)
