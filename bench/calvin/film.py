"""The pictures of a motion, drawn while the simulator goes on.

Whoever asks for a picture now waits until the GPU has drawn it, and longer where several processes share the GPU.  A
recording needs its pictures only later: here each is begun at its moment and fetched at the next.  They are the
pictures that ``CalvinEnv.views`` and ``depth_views`` give at the same moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.calvin.camera import CAMERAS

Pictures = Mapping[str, NDArray[Any]]


class Starter(Protocol):
    """A renderer that begins pictures and gives them later."""

    def start(self, names: Iterable[str], kinds: Iterable[str]) -> Callable[[], Pictures]:
        """Begin to draw what stands now; what is returned waits for the pictures."""


class Film:
    """Takes pictures of one world with both cameras.

    Nothing else may draw this world between two pictures: what was begun would be lost.

    Args:
        renderer: what draws.
        kinds: ``rgb`` and/or ``depth``.
    """

    def __init__(self, renderer: Starter, kinds: Iterable[str] = ("rgb",)) -> None:
        self._renderer, self._kinds = renderer, tuple(kinds)
        self._begun: Callable[[], Pictures] | None = None
        self._taken: list[Pictures] = []

    def shoot(self) -> None:
        """Take a picture of the world as it is now."""
        self._fetch()
        self._begun = self._renderer.start(CAMERAS, self._kinds)

    def develop(self) -> dict[str, NDArray[Any]]:
        """Return all pictures taken, in order: ``rgb_NAME`` uint8 (T, H, W, 3), ``depth_NAME`` float32 (T, H, W)."""
        self._fetch()
        return {key: np.stack([one[key] for one in self._taken]) for key in self._taken[0]}

    def _fetch(self) -> None:
        if self._begun is not None:
            self._taken.append(self._begun())
            self._begun = None
