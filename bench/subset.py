"""The first N demonstrations of a data set, for learning curves: a demonstration is one language window.

One fixed order of all windows, of which a prefix is taken, so that a smaller set lies within every larger one.  The
order mixes tasks and scenes evenly, so that any prefix holds each task in each scene in the data set's own proportion
(where all have equally many, to within one demonstration).  It depends on the data set and a seed and not on the arm.
Not here: who sees which wrist view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.data.episode import Episode
from bench.errors import UserError


def ordered_windows(episodes: Sequence[Episode], seed: int = 0) -> list[tuple[int, int]]:
    """Return (position of the episode, position of its window) of every window, in the order in which they are taken.

    The windows of each task in each scene are shuffled and spread evenly over the unit interval, each such line moved
    by a share of its own step; all are then read from left to right.
    """
    lines: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for position, episode in enumerate(episodes):
        for number, window in enumerate(episode.windows):
            lines[episode.scene, window.task].append((position, number))
    rng = np.random.default_rng(seed)
    placed: list[tuple[float, tuple[int, int]]] = []
    for _, line in sorted(lines.items()):
        moved = float(rng.random())
        for rank, chosen in enumerate(rng.permutation(len(line))):
            placed.append(((rank + moved) / len(line), line[chosen]))
    return [window for _, window in sorted(placed)]


def first_demonstrations(episodes: Sequence[Episode], count: int | None, seed: int = 0) -> tuple[Episode, ...]:
    """Return the episodes with the first ``count`` of :func:`ordered_windows` only, episodes without any left out.

    Args:
        episodes: of one data set.
        count: how many windows; None for all, and every episode as it is.
        seed: of the order.

    Raises:
        UserError: there are not that many.
    """
    if count is None:
        return tuple(episodes)
    order = ordered_windows(episodes, seed)
    if not 1 <= count <= len(order):
        raise UserError(f"demonstrations: expected 1 to {len(order)}, which the data set has, got {count}")
    kept: dict[int, list[int]] = defaultdict(list)
    for position, number in order[:count]:
        kept[position].append(number)
    return tuple(
        replace(episodes[position], windows=tuple(episodes[position].windows[number] for number in sorted(numbers)))
        for position, numbers in sorted(kept.items())
    )
