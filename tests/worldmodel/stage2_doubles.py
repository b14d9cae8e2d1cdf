"""Test doubles of stage 2: a moving-square scene, its clips, and a stage 1 that needs no training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.api import Clip
from worldmodel.stage2_config import (
    AnchorConfig,
    CodecConfig,
    FlowConfig,
    Stage2Config,
    TrainingConfig,
    TransformerConfig,
)


def small_config(**training: Any) -> Stage2Config:
    """A configuration that trains a step in milliseconds."""
    return Stage2Config(
        scale="test",
        size=(16, 16),
        frames=3,
        codec=CodecConfig(patch=4, channels=6),
        anchor=AnchorConfig(image_size=16, patch=8, width=16, layers=1, heads=2, hidden=16),
        transformer=TransformerConfig(layers=2, heads=2, head_dim=12, ffn_dim=48, freq_dim=16, token_dim=16),
        flow=FlowConfig(shift=3.0, steps=3),
        training=TrainingConfig(**{"steps": 6, "batch_size": 2, **training}),
    )


def scene(length: int = 7, episode: str = "a", start: int = 0, wrist: bool = True, seed: int = 0) -> Clip:
    """A red square that moves over a grey gradient, seen from two sides."""
    random = np.random.default_rng([seed, len(episode), start])
    anchor = np.empty((length, 24, 24, 3), np.uint8)
    anchor[:] = np.linspace(60, 160, 24, dtype=np.uint8)[None, :, None, None]
    other = np.full((length, 20, 20, 3), 90, np.uint8)
    for t, place in enumerate(random.integers(0, 12, size=length)):
        anchor[t, place : place + 6, place : place + 6] = (220, 30, 30)
        other[t, 14 - place : 20 - place, 4:12] = (220, 30, 30)
    views = {"anchor": anchor, "wrist": other} if wrist else {"anchor": anchor}
    return Clip(views, episode=episode, start=start)


def shaded(episode: str, seed: int) -> Clip:
    """Six frames of one shade each, the wrist view the anchor's negative: learnt in seconds."""
    shade = np.random.default_rng(seed).integers(20, 236, size=(6, 1, 1, 1), dtype=np.uint8)
    anchor = np.broadcast_to(shade, (6, 24, 24, 3)).copy()
    return Clip({"anchor": anchor, "wrist": 255 - anchor[:, :20, :20]}, episode=episode)


class Clips:
    """A list of clips as a ``ClipSource``."""

    def __init__(self, clips: list[Clip]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)


class FlippedAnchor:
    """A stage 1 whose condition map is the anchor, flipped and shrunk; counts the frames it drew."""

    def __init__(self) -> None:
        self.drawn = 0

    def condition(self, clip: Clip, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64] | None]:
        assert "wrist" not in clip.views, "a conditioner must never see the wrist view"
        self.drawn += len(clip)
        rows = np.linspace(0, 23, size[0]).astype(int)
        columns = np.linspace(0, 23, size[1]).astype(int)
        flipped = clip.views["anchor"][:, ::-1]
        return flipped[:, rows][:, :, columns], np.tile(np.eye(4), (len(clip), 1, 1))

    def provenance(self) -> dict[str, Any]:
        return {"name": "flipped"}


class KilledError(Exception):
    """Stands for a process that dies."""


class DiesAfter(FlippedAnchor):
    """A stage 1 that dies once it has drawn so many frames."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def condition(self, clip: Clip, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64] | None]:
        if self.drawn + len(clip) > self.frames:
            raise KilledError
        return super().condition(clip, size)


def with_steps(config: Stage2Config, **flow: Any) -> Stage2Config:
    """The same configuration with other sampler settings."""
    return dataclasses.replace(config, flow=dataclasses.replace(config.flow, **flow))
