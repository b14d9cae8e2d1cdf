"""The world model as one object: anchors → condition maps (stage 1) → wrist view (stage 2).

Not here: the two stages themselves, and their training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.api import WRIST, Clip, GeneratedClip
from worldmodel.conditioner import as_conditioner, load_beside
from worldmodel.stage2_model import Stage2
from worldmodel.streaming import WindowStream


def with_wrist(
    anchor: Clip,
    wrist: NDArray[np.uint8],
    condition: NDArray[np.uint8] | None = None,
    wrist_from_anchor: NDArray[np.float64] | None = None,
) -> GeneratedClip:
    """Return the clip with a generated wrist view (T, H, W, 3) added."""
    return GeneratedClip(
        views={**anchor.views, WRIST: wrist},
        cameras=anchor.cameras,
        depth=anchor.depth,
        episode=anchor.episode,
        start=anchor.start,
        stride=anchor.stride,
        instruction=anchor.instruction,
        condition=condition,
        wrist_from_anchor=wrist_from_anchor,
    )


class WristWorld:
    """Both stages in a row: a ``WristGenerator``."""

    name = "wristworld"

    def __init__(self, stage1: Any, stage2: Stage2, size: tuple[int, int] | None = None) -> None:
        """Join two trained stages.

        Args:
            stage1: a trained ``Stage1`` or any ``Conditioner``.
            stage2: makes wrist views of them.
            size: (height, width) of the generated view; by default that of the wrist views seen in training.
        """
        self.stage1, self.stage2 = as_conditioner(stage1), stage2
        trained = stage2.extra.get("wrist_size") or stage2.config.size
        self.size = size or (int(trained[0]), int(trained[1]))

    @classmethod
    def load(cls, stage2: Path | str, device: str = "cpu", stage1: Path | str | None = None) -> WristWorld:
        """Read a trained world model.

        Args:
            stage2: the folder that ``train_stage2`` filled.
            device: where to run it.
            stage1: another stage 1 than the one in that folder, which stage 2 was trained with.

        Raises:
            WorldModelError: a stage is not there or damaged.
        """
        from worldmodel.stage1 import Stage1

        first = load_beside(stage2, device) if stage1 is None else Stage1.load(stage1, device)
        return cls(first, Stage2.load(stage2, device))

    def generate(self, anchor: Clip, seed: int = 0) -> GeneratedClip:
        """Return ``anchor`` with a generated wrist view; see ``WristGenerator.generate``."""
        seen = anchor.without(WRIST)
        maps, wrist_from_anchor = self.stage1.condition(seen, self.stage2.config.size)
        wrist = self.stage2.generate(seen, maps, seed, self.size)
        return with_wrist(seen, wrist, maps, wrist_from_anchor)

    def stream(self, seed: int = 0) -> WristWorldStream:
        """Return a closed-loop stream; the latency of a push is one frame of stage 1 and one window of stage 2."""
        return WristWorldStream(self, self.stage2.config.frames, seed)

    def provenance(self) -> dict[str, Any]:
        """Return what made the views."""
        return {
            "name": self.name,
            "output_size": list(self.size),
            "stage1": self.stage1.provenance(),
            "stage2": self.stage2.provenance(),
        }


class WristWorldStream(WindowStream):
    """The closed loop of a ``WristWorld``: a frame's condition map is drawn once, not at every push that sees it."""

    def __init__(self, world: WristWorld, frames: int, seed: int = 0) -> None:
        super().__init__(world, frames, seed)
        self._world = world
        self._maps: deque[NDArray[np.uint8]] = deque(maxlen=frames)

    def push(self, anchors: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Take one frame of each anchor and return the wrist frame; see ``WindowStream.push``."""
        window, stage2 = self._window(anchors), self._world.stage2
        newest = Clip({name: frames[-1:] for name, frames in window.views.items()})
        self._maps.append(self._world.stage1.condition(newest, stage2.config.size)[0][0])
        return stage2.generate(window, np.stack(self._maps), self._seed, self._world.size)[-1]
