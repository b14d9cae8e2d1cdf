"""What stage 2 needs of stage 1: condition maps of a clip, and who made them.

``as_conditioner`` lets a trained stage 1, or anything that already offers this interface, take that part.
Not here: how condition maps are made.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from worldmodel.api import Clip, WorldModelError

STAGE1 = "stage1"
"""Where a generator's folder keeps its own copy of stage 1, so that the folder is the whole generator."""


class Conditioner(Protocol):
    """Draws condition maps, frame by frame: the map of a frame does not depend on the frames around it."""

    def condition(self, clip: Clip, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64] | None]:
        """Return condition maps uint8 (T, *size, 3) and wrist_from_anchor (T, 4, 4) or None, from the anchors alone."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the conditioner: JSON data."""
        ...


class Stage1Conditioner:
    """A trained ``worldmodel.stage1.Stage1`` in the part of the conditioner."""

    def __init__(self, stage1: Any) -> None:
        self.stage1 = stage1
        self._provenance: dict[str, Any] | None = None

    def condition(self, clip: Clip, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64] | None]:
        """Predict points and wrist poses, and draw them; see ``Conditioner.condition``."""
        names = clip.anchors
        known = {name: clip.cameras[name].intrinsics for name in names if name in clip.cameras}
        intrinsics = known if len(known) == len(names) else None
        prediction = self.stage1.predict({name: clip.views[name] for name in names}, intrinsics)
        return prediction.condition(clip, size, self.stage1.device), prediction.wrist_from_anchor

    def provenance(self) -> dict[str, Any]:
        """Return the scale, a hash of the weights, and what stage 1 says of its training."""
        if self._provenance is None:
            digest = hashlib.sha256()
            for name, value in sorted(self.stage1.model.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().float().numpy().tobytes())
            self._provenance = {
                "name": "stage1",
                "scale": self.stage1.config.scale,
                "weights_sha256": digest.hexdigest(),
                **self.stage1.extra.get("provenance", {}),
            }
        return self._provenance

    def save(self, directory: Path | str) -> None:
        """Write stage 1 to a folder."""
        self.stage1.save(directory)


def as_conditioner(stage1: Any) -> Conditioner:
    """Return ``stage1`` in the part of the conditioner; one that already plays it is returned as it is."""
    if hasattr(stage1, "condition") and hasattr(stage1, "provenance"):
        return cast(Conditioner, stage1)
    if hasattr(stage1, "predict"):
        return Stage1Conditioner(stage1)
    raise WorldModelError(f"expected a stage 1 (or any Conditioner), got {type(stage1).__name__}")


def keep_beside(conditioner: Conditioner, directory: Path) -> None:
    """Write the conditioner into a generator's folder, where it can be written at all (a test's double need not)."""
    if hasattr(conditioner, "save"):
        conditioner.save(directory / STAGE1)


def load_beside(directory: Path | str, device: str = "cpu") -> Conditioner:
    """Read the stage 1 that ``keep_beside`` wrote into a generator's folder."""
    from worldmodel.stage1 import Stage1

    return as_conditioner(Stage1.load(Path(directory) / STAGE1, device))
