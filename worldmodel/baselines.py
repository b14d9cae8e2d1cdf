"""The baselines' generators, and the registry of all generators: what each part of the world model is worth.

* ``mean``: the mean wrist image of the paired share, whatever the anchor shows;
* ``projection``: the condition map itself (the paper's "VGGT" row);
* ``pix2pix``: a U-Net regressing the wrist view from condition map and anchor (the paper's "Pix2Pix" row);
* ``wristworld``: the world model.

All are trained by functions of one shape and read back from their folder by ``load_generator``.
Not here: the networks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel import checkpoint
from worldmodel.api import WRIST, Clip, ClipSource, GeneratedClip, WorldModelError, WristGenerator
from worldmodel.conditioner import Conditioner, as_conditioner, keep_beside, load_beside
from worldmodel.frame_store import FrameStore, anchor_stack, resize
from worldmodel.pix2pix import UNet
from worldmodel.stage2 import train_stage2
from worldmodel.stage2_config import Stage2Config
from worldmodel.stage2_model import pixels
from worldmodel.streaming import WindowStream
from worldmodel.training_loop import TrainingLoop, progress_bars, same_run
from worldmodel.vae import tensor_to_frames
from worldmodel.wristworld import WristWorld, with_wrist

Size = tuple[int, int]
PIX2PIX_FRAMES = 64  # frames per forward pass when generating


class MeanImage:
    """Shows the mean wrist image of the training clips."""

    name = "mean"

    def __init__(self, image: NDArray[np.uint8], provenance: dict[str, Any]) -> None:
        self.image, self._provenance = image, provenance

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu") -> MeanImage:  # noqa: ARG003
        """Read what ``train_mean`` wrote; the device does not matter."""
        _, tensors, extra = checkpoint.load(directory)
        identity = {"weights_sha256": checkpoint.weights_hash(directory), "data_hash": extra.get("data_hash")}
        return cls(tensors["image"].numpy(), identity)

    def generate(self, anchor: Clip, seed: int = 0) -> GeneratedClip:  # noqa: ARG002
        """Return ``anchor`` with the mean image as its wrist view; the seed does not matter."""
        return with_wrist(anchor.without(WRIST), np.repeat(self.image[None], len(anchor), axis=0))

    def stream(self, seed: int = 0) -> WindowStream:
        """Return a closed-loop stream."""
        return WindowStream(self, 1, seed)

    def provenance(self) -> dict[str, Any]:
        """Return what made the views."""
        return {"name": self.name, **self._provenance}


class Projection:
    """Shows the condition map, resized: what stage 1 alone is worth."""

    name = "projection"

    def __init__(self, stage1: Any, map_size: Size, size: Size) -> None:
        """Wrap a stage 1.

        Args:
            stage1: a trained ``Stage1`` or any ``Conditioner``.
            map_size: (height, width) at which the map is drawn, that of the world model compared with.
            size: (height, width) of the result.
        """
        self.stage1: Conditioner = as_conditioner(stage1)
        self.map_size, self.size = map_size, size

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu") -> Projection:
        """Read what ``train_projection`` wrote."""
        config, _, extra = checkpoint.load(directory)
        return cls(load_beside(directory, device), _size(config["size"]), _size(extra["wrist_size"]))

    def generate(self, anchor: Clip, seed: int = 0) -> GeneratedClip:  # noqa: ARG002
        """Return ``anchor`` with the condition map as its wrist view; the seed does not matter."""
        seen = anchor.without(WRIST)
        maps, pose = self.stage1.condition(seen, self.map_size)
        return with_wrist(seen, resize(maps, self.size), maps, pose)

    def stream(self, seed: int = 0) -> WindowStream:
        """Return a closed-loop stream."""
        return WindowStream(self, 1, seed)

    def provenance(self) -> dict[str, Any]:
        """Return what made the views."""
        return {"name": self.name, "map_size": list(self.map_size), "stage1": self.stage1.provenance()}


class Pix2Pix:
    """Regresses each wrist frame from the condition map and the first anchor view."""

    name = "pix2pix"

    def __init__(self, stage1: Any, network: UNet, config: Stage2Config, size: Size, identity: dict[str, Any]) -> None:
        """Join a stage 1 and a trained network; ``size`` is (height, width) of the result."""
        self.stage1: Conditioner = as_conditioner(stage1)
        self.network, self.config, self.size, self._identity = network.eval(), config, size, identity

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu") -> Pix2Pix:
        """Read what ``train_pix2pix`` wrote."""
        return cls._beside(load_beside(directory, device), directory, device)

    @classmethod
    def _beside(cls, stage1: Conditioner, directory: Path | str, device: str) -> Pix2Pix:
        config, tensors, extra = checkpoint.load(directory)
        network = UNet()
        network.load_state_dict(tensors)
        identity: dict[str, Any] = {"weights_sha256": checkpoint.weights_hash(directory)}
        identity |= {name: extra.get(name) for name in ("data_hash", "steps_done")}
        return cls(stage1, network.to(device), Stage2Config.from_json(config), _size(extra["wrist_size"]), identity)

    @torch.no_grad()
    def generate(self, anchor: Clip, seed: int = 0) -> GeneratedClip:  # noqa: ARG002
        """Return ``anchor`` with a regressed wrist view; the seed does not matter."""
        seen = anchor.without(WRIST)
        maps, pose = self.stage1.condition(seen, self.config.size)
        first = anchor_stack(seen, self.config.anchor.image_size)[:, 0]
        device = next(self.network.parameters()).device
        frames = [
            tensor_to_frames(self.network(pixels(maps[rows]).to(device), pixels(first[rows]).to(device)), self.size)
            for start in range(0, len(seen), PIX2PIX_FRAMES)
            for rows in [slice(start, start + PIX2PIX_FRAMES)]
        ]
        return with_wrist(seen, np.concatenate(frames), maps, pose)

    def stream(self, seed: int = 0) -> WindowStream:
        """Return a closed-loop stream."""
        return WindowStream(self, 1, seed)

    def provenance(self) -> dict[str, Any]:
        """Return what made the views."""
        return {"name": self.name, "stage1": self.stage1.provenance(), **self._identity}


def _size(value: Any) -> Size:
    return int(value[0]), int(value[1])


def train_mean(
    clips: ClipSource, stage1: Any, config: Stage2Config, directory: Path | str, **options: Any
) -> MeanImage:
    """Average the wrist frames; arguments as for ``train_stage2``, of which most do not matter."""
    del stage1
    if len(clips) == 0:
        raise WorldModelError("mean image: expected at least one training clip, got none")
    total, count = np.zeros(clips[0].views[WRIST].shape[1:]), 0
    for index in range(len(clips)):
        frames = clips[index].views[WRIST]
        total += frames.sum(axis=0, dtype=np.float64)
        count += len(frames)
    image = torch.from_numpy((total / count).round().astype(np.uint8))
    extra = {"generator": MeanImage.name, "data_hash": options.get("data_hash")}
    checkpoint.save(directory, config.to_json(), {"image": image}, extra)
    return MeanImage.load(directory)


def train_projection(
    clips: ClipSource, stage1: Any, config: Stage2Config, directory: Path | str, **options: Any
) -> Projection:
    """Keep stage 1 beside the sizes; arguments as for ``train_stage2``, of which most do not matter."""
    conditioner = as_conditioner(stage1)
    size = clips[0].views[WRIST].shape[1:3]
    extra = {"generator": Projection.name, "wrist_size": list(size), "data_hash": options.get("data_hash")}
    keep_beside(conditioner, Path(directory))
    checkpoint.save(directory, config.to_json(), {"map_size": torch.tensor(config.size)}, extra)
    return Projection(conditioner, config.size, _size(size))


def train_pix2pix(
    clips: ClipSource,
    stage1: Any,
    config: Stage2Config,
    directory: Path | str,
    *,
    seed: int = 0,
    device: str = "cpu",
    steps: int | None = None,
    time_limit_s: float | None = None,
    progress: bool = True,
    data_hash: str | None = None,
) -> Pix2Pix:
    """Train the U-Net on single frames with an L1 loss; arguments as for ``train_stage2``."""
    directory, conditioner = Path(directory), as_conditioner(stage1)
    run = {
        "config": config.to_json(),
        "seed": seed,
        "steps": config.training.steps if steps is None else steps,
        "time_limit_s": time_limit_s,
        "data_hash": data_hash,
    }
    size = _size(clips[0].views[WRIST].shape[1:3])
    if (directory / checkpoint.INDEX).is_file():
        same_run(checkpoint.load(directory)[2].get("run"), run, directory)
    else:
        single = replace(config, frames=1)
        with progress_bars(progress) as bar, torch.random.fork_rng():
            store = FrameStore.build(directory / "frames", clips, conditioner, single, bar("condition maps"))
            torch.manual_seed(seed)
            network = UNet().to(device)

            def loss(random: np.random.Generator) -> Tensor:
                count = config.training.batch_size * config.frames
                batch = store.batch(random.integers(len(store), size=count).tolist())
                wrist, condition = (pixels(part[:, 0]).to(device) for part in (batch.wrist, batch.condition))
                return F.l1_loss(network(condition, pixels(batch.anchors[:, 0, 0]).to(device)), wrist)

            loop = TrainingLoop(network, config.training, run, directory / "training")
            loop.train(loss, bar("pix2pix"))
        extra = {"generator": Pix2Pix.name, "wrist_size": list(size), "data_hash": data_hash, **loop.finish()}
        keep_beside(conditioner, directory)
        checkpoint.save(directory, config.to_json(), network.state_dict(), extra)
        for folder in ("training", "frames"):
            shutil.rmtree(directory / folder, ignore_errors=True)
    return Pix2Pix._beside(conditioner, directory, device)


def _train_wristworld(
    clips: ClipSource, stage1: Any, config: Stage2Config, directory: Path | str, **options: Any
) -> WristWorld:
    return WristWorld(stage1, train_stage2(clips, stage1, config, directory, **options))


@dataclass(frozen=True)
class Kind:
    """One kind of generator.

    Attributes:
        train: takes (clips, stage1, config, directory, **options), as ``train_stage2`` does, and returns a generator.
        load: takes (directory, device) and returns a generator.
    """

    train: Callable[..., WristGenerator]
    load: Callable[[Path | str, str], WristGenerator]


GENERATORS: dict[str, Kind] = {
    "wristworld": Kind(_train_wristworld, WristWorld.load),
    "projection": Kind(train_projection, Projection.load),
    "pix2pix": Kind(train_pix2pix, Pix2Pix.load),
    "mean": Kind(train_mean, MeanImage.load),
}


def generator_kind(name: str) -> Kind:
    """Return a kind of generator by its name.

    Raises:
        WorldModelError: there is none; the message lists the names.
    """
    if name not in GENERATORS:
        raise WorldModelError(f"unknown generator {name!r}: expected one of {', '.join(GENERATORS)}")
    return GENERATORS[name]


def load_generator(directory: Path | str, device: str = "cpu") -> WristGenerator:
    """Return the generator in a folder that one of the training functions filled.

    Raises:
        WorldModelError: there is none, or it is damaged.
    """
    name = checkpoint.load(directory)[2].get("generator")
    if name is None:
        raise WorldModelError(f"{directory} holds a checkpoint, but of no generator: expected a stage-2 folder")
    return generator_kind(name).load(directory, device)
