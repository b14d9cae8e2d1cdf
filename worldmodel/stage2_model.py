"""Stage 2 as a model: wrist views sampled from condition maps and anchor frames by a flow-matching video transformer.

1. A clip is cut into windows of T frames (the last one ends with the clip; a clip shorter than T is continued with
   its last frame, and the first frames of the result are kept);
2. condition maps are encoded, anchors become context tokens, and each window's noise comes from (seed, episode, frame);
3. Euler steps from noise to latents, with classifier-free guidance where its scale is not 1;
4. latents are decoded and resized.

After the paper (arXiv 2510.07313, stage 2).  The release keeps the *last* frames of a padded short clip, which shifts
them in time; here they are the first.  Not here: training (``stage2``), condition maps (stage 1).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel import checkpoint
from worldmodel.api import Clip, WorldModelError
from worldmodel.dit import WristDenoiser
from worldmodel.flow import euler_sample, window_noise
from worldmodel.frame_store import anchor_stack
from worldmodel.stage2_config import CodecConfig, Stage2Config
from worldmodel.vae import LinearCodec, VideoCodec, WanCodec, frames_to_tensor, tensor_to_frames


class Stage2:
    """A trained stage 2, ready to sample."""

    def __init__(
        self, config: Stage2Config, codec: VideoCodec, denoiser: WristDenoiser, extra: dict[str, Any] | None = None
    ) -> None:
        self.config, self.codec, self.denoiser = config, codec, denoiser
        self.extra = extra or {}
        self.weights_sha256 = ""

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return next(self.denoiser.parameters()).device

    def to(self, device: str | torch.device) -> Stage2:
        """Move the weights to ``device`` and return self."""
        self.denoiser.to(device)
        if isinstance(self.codec, nn.Module):
            self.codec.to(device)
        return self

    def save(self, directory: Path | str) -> None:
        """Write a checkpoint; weights that came from a named source and stayed frozen are not copied into it."""
        extra = {**self.extra, "transformer": _json_settings(self.denoiser.transformer)}
        checkpoint.save(directory, self.config.to_json(), _tensors(self.denoiser, self.codec), extra)

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu") -> Stage2:
        """Read a checkpoint.

        Raises:
            WorldModelError: there is none, or it is damaged or of another configuration.
        """
        data, tensors, extra = checkpoint.load(directory)
        config = Stage2Config.from_json(data)
        # Building draws random weights before they are replaced: the caller's generator shall not notice.
        with torch.random.fork_rng(devices=[]):
            codec = make_codec(config.codec, config.size)
            denoiser = WristDenoiser(config, codec.channels, settings=extra["transformer"])
        _load_tensors(denoiser, codec, tensors, directory)
        model = cls(config, codec, denoiser.eval(), extra).to(device)
        model.weights_sha256 = checkpoint.weights_hash(directory)
        return model

    def provenance(self) -> dict[str, Any]:
        """Return what identifies the model: scale, weights, sampler, training run."""
        run = self.extra.get("run", {})
        return {
            "scale": self.config.scale,
            "weights_sha256": self.weights_sha256,
            "size": list(self.config.size),
            "frames": self.config.frames,
            "sampler": dataclasses.asdict(self.config.flow),
            "steps_done": self.extra.get("steps_done"),
            "seed": run.get("seed"),
            "data_hash": self.extra.get("data_hash"),
        }

    def generate(
        self, clip: Clip, maps: NDArray[np.uint8], seed: int, size: tuple[int, int], batch_size: int = 8
    ) -> NDArray[np.uint8]:
        """Return the wrist view of a clip: uint8 (T, *size, 3).

        Args:
            clip: anchor views; any wrist view in it is not read.
            maps: condition maps, uint8 (T, H, W, 3), of the model's size.
            seed: together with episode and frame it decides the noise.
            size: (height, width) of the result.
            batch_size: windows per forward pass.
        """
        T = self.config.frames
        anchors = anchor_stack(clip, self.config.anchor.image_size)
        starts = window_starts(len(clip), T)
        rows = [np.minimum(np.arange(start, start + T), len(clip) - 1) for start in starts]
        out = np.zeros((len(clip), *size, 3), np.uint8)
        for first in range(0, len(starts), batch_size):
            chosen = slice(first, first + batch_size)
            noise = torch.stack(
                [
                    window_noise(self._latent_shape(), seed, clip.episode, clip.start + start * clip.stride)
                    for start in starts[chosen]
                ]
            )
            windows = np.stack([maps[r] for r in rows[chosen]]), np.stack([anchors[r] for r in rows[chosen]])
            frames = tensor_to_frames(self.sample(*windows, noise), size)  # (B, T, h, w, 3)
            # Backwards: where the last window overlaps the one before it, the earlier one stays.
            for r, result in reversed(list(zip(rows[chosen], frames, strict=True))):
                kept = min(T, len(clip) - int(r[0]))
                out[r[:kept]] = result[:kept]
        return out

    def newest(
        self,
        clips: Sequence[Clip],
        maps: Sequence[NDArray[np.uint8]],
        seeds: Sequence[int],
        size: tuple[int, int],
    ) -> NDArray[np.uint8]:
        """Return the wrist view of the last frame of B clips, in one pass: uint8 (B, *size, 3).

        Args:
            clips: anchor views of at most ``frames`` frames each; a shorter clip's last frame stands for the others.
            maps: their condition maps, uint8 (T, H, W, 3).
            seeds: of their noise; see :meth:`generate`.
            size: (height, width) of the result.
        """
        T, side = self.config.frames, self.config.anchor.image_size
        rows = [np.minimum(np.arange(T), len(clip) - 1) for clip in clips]
        noise = [
            window_noise(self._latent_shape(), seed, clip.episode, clip.start)
            for clip, seed in zip(clips, seeds, strict=True)
        ]
        conditions = np.stack([one[r] for one, r in zip(maps, rows, strict=True)])
        anchors = np.stack([anchor_stack(clip, side)[r] for clip, r in zip(clips, rows, strict=True)])
        frames = tensor_to_frames(self.sample(conditions, anchors, torch.stack(noise)), size)  # (B, T, h, w, 3)
        return np.stack([views[len(clip) - 1] for clip, views in zip(clips, frames, strict=True)])

    def _latent_shape(self) -> tuple[int, int, int, int]:
        H, W = self.config.size
        T = self.config.frames
        if self.config.codec.kind == "wan":
            T = (T - 1) // 4 + 1
        return (self.codec.channels, T, H // self.codec.spatial, W // self.codec.spatial)

    @torch.no_grad()
    def sample(self, maps: NDArray[np.uint8], anchors: NDArray[np.uint8], noise: Tensor) -> Tensor:
        """Return frames (B, T, 3, h, w), about in [-1, 1].

        Args:
            maps: (B, T, h, w, 3) condition maps.
            anchors: (B, T, V, S, S, 3).
            noise: (B, C, T', h', w') standard normal.
        """
        self.denoiser.eval()
        flow = self.config.flow
        condition = self.codec.encode(pixels(maps).to(self.device))
        context = self.denoiser.context(pixels(anchors).to(self.device))
        null = self.denoiser.null_context(context)

        def predict(latents: Tensor, sigma: Tensor) -> Tensor:
            velocity = self.denoiser(latents, condition, sigma, context)
            if flow.guidance == 1.0:
                return velocity
            plain = self.denoiser(latents, condition, sigma, null)
            return plain + flow.guidance * (velocity - plain)

        return self.codec.decode(euler_sample(predict, noise.to(self.device), flow))


def window_starts(length: int, frames: int) -> list[int]:
    """Return where windows of ``frames`` begin in a clip of ``length``; the last one ends with the clip."""
    last = max(0, length - frames)
    return sorted({*range(0, last, frames), last})


def make_codec(config: CodecConfig, size: tuple[int, int]) -> VideoCodec:
    """Return the configured codec; a linear one still wants to be fitted or loaded."""
    if config.kind == "wan":
        return WanCodec(config.source, config.subfolder)
    return LinearCodec(size, config.patch, config.channels)


def pixels(frames: NDArray[np.uint8]) -> Tensor:
    """Return frames (..., H, W, 3) as a tensor (..., 3, H, W) in [-1, 1], at their own size."""
    return frames_to_tensor(frames, (frames.shape[-3], frames.shape[-2]))


def _json_settings(transformer: Any) -> dict[str, Any]:
    """Diffusers' configuration, without what is private to this installation."""
    return {name: value for name, value in json.loads(transformer.to_json_string()).items() if name != "_name_or_path"}


def _stored(denoiser: WristDenoiser) -> dict[str, Tensor]:
    skip = "anchor_encoder.clip." if denoiser.anchor_encoder.frozen else None
    return {name: value for name, value in denoiser.state_dict().items() if skip is None or not name.startswith(skip)}


def _tensors(denoiser: WristDenoiser, codec: VideoCodec) -> dict[str, Tensor]:
    tensors = {f"denoiser.{name}": value for name, value in _stored(denoiser).items()}
    if isinstance(codec, LinearCodec):
        tensors |= {f"codec.{name}": value for name, value in codec.state_dict().items()}
    return tensors


def _load_tensors(denoiser: WristDenoiser, codec: VideoCodec, tensors: dict[str, Tensor], directory: Any) -> None:
    def below(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    try:
        wanted = set(_stored(denoiser))
        given = below("denoiser.")
        if set(given) != wanted:
            raise RuntimeError(f"{len(wanted - set(given))} weights missing, {len(set(given) - wanted)} unknown")
        denoiser.load_state_dict(given, strict=False)
        if isinstance(codec, LinearCodec):
            codec.load_state_dict(below("codec."))
    except RuntimeError as error:
        raise WorldModelError(f"{directory} is not a stage-2 checkpoint of its configuration: {error}") from error
