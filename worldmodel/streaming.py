"""The closed loop: a generator of clips made into one of frames, by a causal window over the latest anchors.

Each pushed frame costs one generation of a whole window, of which the last frame is returned, so the latency of a push
is that of ``generate`` on T frames: the window must end at "now", and no later frame can be waited for.

Not here: generators.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from worldmodel.api import WRIST, Clip, WorldModelError, WristGenerator


class WindowStream:
    """A ``WristStream`` over any ``WristGenerator``: holds the last T anchor frames of one episode."""

    def __init__(self, generator: WristGenerator, frames: int, seed: int = 0) -> None:
        """Start an episode.

        Args:
            generator: asked once per pushed frame.
            frames: T, the length of its window.
            seed: of the noise, which is the same at every push: a scene at rest gives a view at rest.
        """
        if frames < 1:
            raise WorldModelError(f"stream: expected a window of at least one frame, got {frames}")
        self._generator, self._seed = generator, seed
        self._latest: deque[dict[str, NDArray[np.uint8]]] = deque(maxlen=frames)

    @property
    def frames(self) -> int:
        """T, the most frames that it looks back, now included."""
        return self._latest.maxlen or 1

    def push(self, anchors: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Take one frame (H, W, 3) of each anchor and return the wrist frame (h, w, 3) for the same moment.

        Raises:
            WorldModelError: the anchors are not those of the frames before.
        """
        return self._generator.generate(self._window(anchors), seed=self._seed).views[WRIST][-1]

    def _window(self, anchors: Mapping[str, NDArray[np.uint8]]) -> Clip:
        """Remember a frame and return the window that ends with it."""
        given = {name: frame for name, frame in anchors.items() if name != WRIST}
        if self._latest and set(given) != set(self._latest[-1]):
            raise WorldModelError(f"stream: expected views {sorted(self._latest[-1])}, got {sorted(given)}")
        self._latest.append(given)
        return Clip({name: np.stack([frame[name] for frame in self._latest]) for name in given})
