"""The pictures of a motion, drawn while the simulator goes on.

Whoever asks for a picture now waits until the GPU has drawn it, and longer where several processes share the GPU: they
take turns.  A recording needs its pictures only later: here what stood where is noted at each moment, many moments are
drawn in one turn, and their pictures are fetched when the next turn comes.  They are the pictures that
``CalvinEnv.views`` and ``depth_views`` give at the same moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.calvin.camera import CAMERAS

TURN = 16
"""Moments that are drawn together; the pictures of as many are on their way from the GPU."""

Pictures = Mapping[str, NDArray[Any]]


class MomentRenderer(Protocol):
    """A renderer that draws moments and gives their pictures later."""

    def moment(self, names: Iterable[str]) -> Any:
        """Return what is needed to draw the cameras as they stand now."""

    def begin(self, moments: Sequence[Any], kinds: Iterable[str]) -> Sequence[Callable[[], Pictures]]:
        """Begin to draw what stood at some moments; each of what is returned waits for one's pictures."""


class Film:
    """Takes pictures of one world with both cameras.

    Nothing else may draw this world between two pictures: what was begun would be lost.

    Args:
        renderer: what draws.
        kinds: ``rgb`` and/or ``depth``.
    """

    def __init__(self, renderer: MomentRenderer, kinds: Iterable[str] = ("rgb",)) -> None:
        self._renderer, self._kinds = renderer, tuple(kinds)
        self._noted: list[Any] = []
        self._begun: Sequence[Callable[[], Pictures]] = ()
        self._taken: list[Pictures] = []

    def shoot(self) -> None:
        """Take a picture of the world as it is now."""
        self._noted.append(self._renderer.moment(CAMERAS))
        if len(self._noted) == TURN:
            self._turn()

    def develop(self) -> dict[str, NDArray[Any]]:
        """Return all pictures taken, in order: ``rgb_NAME`` uint8 (T, H, W, 3), ``depth_NAME`` float32 (T, H, W)."""
        self._turn()
        self._turn()
        return {key: np.stack([one[key] for one in self._taken]) for key in self._taken[0]}

    def _turn(self) -> None:
        """Fetch what was begun; begin what is noted."""
        self._taken += [pictures() for pictures in self._begun]
        self._begun = self._renderer.begin(self._noted, self._kinds) if self._noted else ()
        self._noted = []
