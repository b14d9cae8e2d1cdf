"""The statistics that LeRobot keeps of every feature, per episode and over the data set.

Names and shapes after huggingface/lerobot ``src/lerobot/datasets/compute_stats.py``: pictures have one value a channel,
in 0 to 1, from a sample of frames; quantiles over a data set are means of the episodes' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_SAMPLES = 32
_PIXEL_STEP = 4


def number_stats(values: NDArray[Any]) -> dict[str, Any]:
    """Return the statistics of (T,) or (T, N) numbers, as JSON data."""
    table = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(table, list(_QUANTILES.values()), axis=0)
    result = {"min": table.min(0), "max": table.max(0), "mean": table.mean(0), "std": table.std(0)}
    result |= dict(zip(_QUANTILES, quantiles, strict=True))
    return {name: value.tolist() for name, value in result.items()} | {"count": [len(table)]}


class PictureStats:
    """Gathers the statistics of one camera over one episode.

    Attributes:
        size: (height, width) of its pictures.
    """

    def __init__(self) -> None:
        self.size = (0, 0)
        self._pixels: list[NDArray[np.uint8]] = []

    def add(self, frames: NDArray[np.uint8], first: int, total: int) -> None:
        """Take frames (T, H, W, 3), the first of which is number ``first`` of ``total``."""
        self.size = (frames.shape[1], frames.shape[2])
        step = max(1, total // _SAMPLES)
        chosen = [row for row in range(len(frames)) if (first + row) % step == 0]
        self._pixels.append(frames[chosen, ::_PIXEL_STEP, ::_PIXEL_STEP].reshape(-1, 3))

    def result(self) -> dict[str, Any]:
        """Return the statistics, as JSON data: (3, 1, 1) each."""
        stats = number_stats(np.concatenate(self._pixels) / 255.0)
        count = stats.pop("count")
        return {name: [[[value]] for value in values] for name, values in stats.items()} | {"count": count}


def merge_stats(episodes: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the statistics of a data set from those of its episodes, as JSON data."""
    return {feature: _merge([episode[feature] for episode in episodes]) for feature in episodes[0]}


def _merge(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stacked = {name: np.array([part[name] for part in parts], dtype=np.float64) for name in parts[0]}
    counts = stacked["count"].reshape(-1, *[1] * (stacked["mean"].ndim - 1))
    total = counts.sum()
    mean = (stacked["mean"] * counts).sum(0) / total
    variance = ((np.square(stacked["std"]) + np.square(stacked["mean"] - mean)) * counts).sum(0) / total
    result = {"min": stacked["min"].min(0), "max": stacked["max"].max(0), "mean": mean, "std": np.sqrt(variance)}
    result |= {name: (stacked[name] * counts).sum(0) / total for name in _QUANTILES}
    return {name: value.tolist() for name, value in result.items()} | {"count": [int(total)]}
