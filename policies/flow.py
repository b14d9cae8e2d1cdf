"""The flow-matching policy: observations and seeds in, action chunks out.

This file is the boundary between the harness's words (images at camera size, sentences, CALVIN units) and the network's
(:mod:`policies.network`).  Training is in :mod:`policies.train`, files are in :mod:`policies.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.api import ACTION_DIM, ANCHOR, CALVIN_ACTIONS, WRIST, Observation, PolicyError, PolicySpec
from policies.config import FlowPolicyConfig, TrainingConfig
from policies.encoders import resize_images
from policies.graphs import GraphedSampler
from policies.kinds import new_network
from policies.network import FlowNetwork, Inputs
from policies.normalise import Normaliser
from policies.simple import check_call
from policies.text import SentenceTable

__all__ = ["ANCHOR_ARM", "FlowNetwork", "FlowPolicy", "FlowPolicyConfig", "TrainingConfig", "flow_spec"]

ANCHOR_ARM = "anchor"
SMALLEST_SIDE = 16
ASPECT_TOLERANCE = 0.02
SEED_MASK = (1 << 64) - 1


def flow_spec(config: FlowPolicyConfig, arm: str, *, wrist_optional: bool = False) -> PolicySpec:
    """Return the spec of a flow policy trained for ``arm``.

    The anchor arm cannot read a wrist view, even one that is offered.  Every other arm must be given one at test time
    unless it was trained to do without (``wrist_optional``).
    """
    views = (ANCHOR,) if arm == ANCHOR_ARM else (ANCHOR, WRIST)
    return PolicySpec(
        name=config.label,
        views=views,
        optional_views=(WRIST,) if wrist_optional and WRIST in views else (),
        chunk=config.chunk,
        execute=config.execute,
        arm=arm,
        actions=CALVIN_ACTIONS,
        uses_proprio=config.use_proprio,
    )


class FlowPolicy:
    """A trained network behind :class:`policies.api.Policy`.

    Args:
        network: the network; put into evaluation mode and frozen.
        spec: views, arm, conventions.
        normaliser: units of actions and robot state.
        sentences: known instructions and their encoder.
        data_hash: hash of the demonstrations.
        training: what happened in training, as plain JSON data.
        view_sizes: camera name to (height, width) of the training images; test images must have the same shape (ratio).
        device: where to run.
        weights_hash: SHA-256 of the checkpoint's weights, empty where it comes from none.
        pad_to: if given, the network always runs on exactly this many rows, so that a sample's actions are the same to
            the last bit whatever else is in its batch.
    """

    def __init__(
        self,
        network: FlowNetwork,
        spec: PolicySpec,
        normaliser: Normaliser,
        sentences: SentenceTable,
        *,
        data_hash: str = "",
        training: Mapping[str, Any] | None = None,
        view_sizes: Mapping[str, tuple[int, int]] | None = None,
        device: str | torch.device = "cpu",
        weights_hash: str = "",
        pad_to: int | None = None,
    ) -> None:
        if pad_to is not None and pad_to < 1:
            raise PolicyError(f"pad_to: expected at least 1 row, got {pad_to}")
        if sentences.dim != network.config.text_dim:
            raise PolicyError(
                f"sentence vectors have length {sentences.dim}, the network wants {network.config.text_dim}"
            )
        self.device = torch.device(device)
        self.network = placed(network, self.device).eval().requires_grad_(False)
        self._sample = GraphedSampler(self.network) if self.device.type == "cuda" else self.network.sample
        self.config = network.config
        self.normaliser = normaliser
        self.sentences = sentences
        self.data_hash, self.weights_hash = data_hash, weights_hash
        self.training = dict(training or {})
        self.view_sizes = dict(view_sizes or {})
        self.pad_to = pad_to
        self._spec = spec

    @property
    def spec(self) -> PolicySpec:
        """Views, arm and conventions."""
        return self._spec

    @classmethod
    def initial(cls, config: FlowPolicyConfig, arm: str, sentences: Sequence[str] = (), *, seed: int = 0) -> FlowPolicy:
        """Return an untrained policy: same seed, same weights for every arm."""
        network = initial_network(config, seed)
        normaliser = Normaliser((-1.0,) * (ACTION_DIM - 1), (1.0,) * (ACTION_DIM - 1))
        table = SentenceTable.build(config.text, sentences)
        return cls(network, flow_spec(config, arm), normaliser, table)

    def save_pretrained(self, directory: Path | str) -> None:
        """Write ``config.json`` and ``model.safetensors``; see :func:`policies.checkpoint.save`."""
        from policies import checkpoint

        checkpoint.save(self, directory)

    @classmethod
    def from_pretrained(cls, directory: Path | str, **options: Any) -> FlowPolicy:
        """Read a folder written by :meth:`save_pretrained`; options as in :func:`policies.checkpoint.load`."""
        from policies import checkpoint

        return checkpoint.load(directory, **options)

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (B, K, 7) in CALVIN's units, gripper exactly ±1.

        Raises:
            PolicyError: a view or the robot state is missing, an image's shape does not fit, the sentence is unknown to
                a precomputed table, or the network gave a NaN.
        """
        check_call(self._spec, batch, seeds)
        rows = len(batch)
        size = self.pad_to or max(rows, 1)
        scaled = np.empty((rows, self.config.chunk, ACTION_DIM), np.float32)
        for start in range(0, rows, size):
            part = list(batch[start : start + size])
            noise = torch.stack([self._noise(seed) for seed in seeds[start : start + size]])  # (B, K, A)
            missing = size - len(part) if self.pad_to else 0
            part += part[-1:] * missing
            noise = torch.cat([noise, noise[-1:].expand(missing, -1, -1)]).to(self.device)
            with torch.inference_mode():
                sampled = self._sample(self._inputs(part), noise).cpu().numpy()
            scaled[start : start + size] = sampled[: len(part) - missing]
        if not np.isfinite(scaled).all():
            bad = int(np.flatnonzero(~np.isfinite(scaled).all((1, 2)))[0])
            raise PolicyError(
                f"{self._spec.name}: NaN or infinite action for observation {bad}; the weights are not usable"
            )
        return self.normaliser.unscale_actions(scaled)

    def _noise(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(int(seed) & SEED_MASK)
        return torch.randn(self.config.chunk, ACTION_DIM, generator=generator)

    def _inputs(self, batch: Sequence[Observation]) -> Inputs:
        reads_wrist = WRIST in self._spec.views
        present = [reads_wrist and WRIST in observation.views for observation in batch]
        size = self.config.wrist_size
        wrist = torch.zeros(len(batch), size, size, 3, dtype=torch.uint8, device=self.device)
        if any(present):
            wrist[present] = self._resized([o for o, here in zip(batch, present, strict=True) if here], WRIST, size)
        anchor = self._resized(batch, ANCHOR, self.config.anchor_size)
        sentence = np.stack([self.sentences.lookup(observation.instruction) for observation in batch])  # (B, D)
        proprio = self._proprio(batch) if self.config.use_proprio else None
        inputs = Inputs(
            anchor=anchor,
            wrist=wrist if reads_wrist else None,
            wrist_present=torch.tensor(present).to(self.device),
            sentence=torch.from_numpy(sentence).to(self.device),
            proprio=proprio,
            proprio_present=None if proprio is None else torch.ones(len(batch), dtype=torch.bool, device=self.device),
        )
        return inputs

    def _resized(self, batch: Sequence[Observation], view: str, size: int) -> Tensor:
        """Return the view of each observation, uint8 (B, size, size, 3)."""
        images = [observation.views[view] for observation in batch]
        shapes = {image.shape[:2] for image in images}
        for height, width in shapes:
            self._check_shape(view, height, width)
        if len(shapes) == 1:
            return resize_images(torch.from_numpy(np.stack(images)).to(self.device), size)
        parts = [resize_images(torch.from_numpy(image[None].copy()).to(self.device), size) for image in images]
        return torch.cat(parts)

    def _check_shape(self, view: str, height: int, width: int) -> None:
        trained = self.view_sizes.get(view, (1, 1))
        if min(height, width) < SMALLEST_SIDE:
            raise PolicyError(f"view {view!r}: expected at least {SMALLEST_SIDE} px a side, got {height}x{width}")
        if abs(width / height * trained[0] / trained[1] - 1) > ASPECT_TOLERANCE:
            shape = f"{trained[0]}x{trained[1]}" if view in self.view_sizes else "square"
            raise PolicyError(
                f"view {view!r}: trained on {shape} images, got {height}x{width}; crop it to the same shape"
            )

    def _proprio(self, batch: Sequence[Observation]) -> Tensor:
        states = [observation.proprio for observation in batch]
        known = [state for state in states if state is not None]
        if len(known) != len(states):
            raise PolicyError(
                f"{self._spec.name} reads the robot's state: give every observation its proprio (robot_obs)"
            )
        return torch.from_numpy(self.normaliser.scale_proprio(np.stack(known))).to(self.device)


def placed(network: FlowNetwork, device: torch.device) -> FlowNetwork:
    """Move ``network`` to ``device``, kernels in channels-last order, which the convolutions are fastest in."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def initial_network(config: FlowPolicyConfig, seed: int) -> FlowNetwork:
    """Return an untrained network; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return new_network(config)
