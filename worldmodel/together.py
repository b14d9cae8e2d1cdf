"""The closed loop for many episodes at once: what waits at the same moment becomes one call of each stage.

Every call has one size, small batches being filled up, so a picture does not depend, to the last bit, on the other
episodes that were in its call.  A caller gives the whole window of its episode's latest anchor frames each time, so
nothing needs to be remembered between calls; condition maps that were drawn before are kept, and would come out the
same again.  Not here: who asks, and waiting for company.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worldmodel.api import WRIST, Clip, WorldModelError, WristGenerator
from worldmodel.streaming import WindowStream
from worldmodel.wristworld import WristWorld

MAPS = 4096
"""Condition maps that are kept; tiny's are 12 kB."""


class Together:
    """A generator asked about many episodes at once.

    Args:
        generator: a ``WristWorld``, whose stages run on whole batches; others are asked one window after the other.
        size: windows in every call.

    Raises:
        WorldModelError: the generator's streams remember more than a window of frames.
    """

    def __init__(self, generator: WristGenerator, size: int) -> None:
        stream = generator.stream()
        if not isinstance(stream, WindowStream):
            raise WorldModelError(
                f"{type(generator).__name__}: its streams remember more than their latest frames; "
                "ask one stream for each episode"
            )
        self.generator, self.size, self.frames = generator, size, stream.frames
        self._maps: OrderedDict[bytes, NDArray[np.uint8]] = OrderedDict()

    def latest(self, windows: Sequence[Clip], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Return the wrist frame (B, h, w, 3) for the last moment of each window.

        Args:
            windows: B clips, each with an episode's latest anchor frames, ``frames`` at most; B is ``size`` at most.
            seeds: of the windows' noise.
        """
        if not isinstance(self.generator, WristWorld):
            asked = zip(windows, seeds, strict=True)
            return np.stack([self.generator.generate(window, seed).views[WRIST][-1] for window, seed in asked])
        world, missing = self.generator, self.size - len(windows)
        maps = self._condition(world, windows)
        full = [*windows, *[windows[0]] * missing], [*maps, *[maps[0]] * missing], [*seeds, *[seeds[0]] * missing]
        return world.stage2.newest(*full, world.size)[: len(windows)]  # (B, h, w, 3)

    def stream(self, seed: int = 0) -> WindowStream:
        """Return a stream for one episode whose frames are those that it would be given in company."""
        return _Alone(self, seed)

    def _condition(self, world: WristWorld, windows: Sequence[Clip]) -> list[NDArray[np.uint8]]:
        """Return each window's condition maps (T, H, W, 3), drawing those of frames that were not seen before."""
        wanted = [[_digest(window, t) for t in range(len(window))] for window in windows]
        needed = {key for keys in wanted for key in keys}
        known = {key: self._maps[key] for key in needed if key in self._maps}
        lacking = {
            key: _frame(window, t)
            for window, keys in zip(windows, wanted, strict=True)
            for t, key in enumerate(keys)
            if key not in known
        }
        todo = list(lacking.items())
        for start in range(0, len(todo), self.size):
            part = todo[start : start + self.size]
            filled = [*part, *[part[0]] * (self.size - len(part))]
            frames = {name: np.stack([views[name] for _, views in filled]) for name in part[0][1]}
            drawn = world.stage1.condition(Clip(frames), world.stage2.config.size)[0]
            known |= {key: one for (key, _), one in zip(part, drawn, strict=False)}
        for key, one in known.items():
            self._maps[key] = one
            self._maps.move_to_end(key)
        while len(self._maps) > max(MAPS, len(known)):
            self._maps.popitem(last=False)
        return [np.stack([known[key] for key in keys]) for keys in wanted]


class _Alone(WindowStream):
    """One episode of those that are asked about together."""

    def __init__(self, together: Together, seed: int) -> None:
        super().__init__(together.generator, together.frames, seed)
        self._together = together

    def push(self, anchors: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Take one frame of each anchor and return the wrist frame; see ``WindowStream.push``."""
        return self._together.latest([self._window(anchors)], [self._seed])[0]


def _frame(window: Clip, t: int) -> dict[str, NDArray[np.uint8]]:
    return {name: window.views[name][t] for name in window.anchors}


def _digest(window: Clip, t: int) -> bytes:
    """Return what tells a frame's anchors from all others'."""
    digest = hashlib.blake2b(digest_size=16)
    for name, image in _frame(window, t).items():
        digest.update(f"{name} {image.shape}".encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.digest()
