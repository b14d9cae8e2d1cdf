"""Flow matching: noise levels, loss weights, and the Euler sampler around diffusers' scheduler.

x_σ = (1 − σ) x0 + σ noise, and the model predicts noise − x0.  σ follows u through the shift of Wan2.1,
σ = s u / (1 + (s − 1) u), in training (u uniform) as in sampling (u = 1, 1 − 1/n, …, 1/n, then 0).

A squared error of the velocity is the squared error of x0 divided by σ², so with uniform weights the low noise
levels, where detail is made, already count more than high ones; a large shift balances that by visiting them less.

Not here: networks and codecs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from worldmodel.stage2_config import FlowConfig

TRAINING_STEPS = 1000  # of the released scheduler; only the bell's normalisation depends on it


def shifted(u: Tensor, shift: float) -> Tensor:
    """Return the noise level σ in [0, 1] for u in [0, 1]."""
    return shift * u / (1 + (shift - 1) * u)


@cache
def _bell_mean(shift: float) -> float:
    u = torch.linspace(1 / TRAINING_STEPS, 1, TRAINING_STEPS, dtype=torch.float64)
    return float(_bell(shifted(u, shift)).mean())


def _bell(sigma: Tensor) -> Tensor:
    return torch.exp(-2 * (sigma - 0.5) ** 2) - math.exp(-0.5)


def loss_weight(sigma: Tensor, config: FlowConfig) -> Tensor:
    """Return the weight of each clip's squared velocity error; its mean over the training levels is one."""
    if config.weighting == "uniform":
        return torch.ones_like(sigma)
    return _bell(sigma) / _bell_mean(config.shift)


def flow_loss(
    predict: Callable[[Tensor, Tensor], Tensor], clean: Tensor, noise: Tensor, sigma: Tensor, config: FlowConfig
) -> Tensor:
    """Return the weighted mean squared error of the velocity.

    Args:
        predict: maps (x_σ, σ) to a velocity.
        clean: (B, C, T, h, w) latents x0.
        noise: same shape, standard normal.
        sigma: (B,) noise levels.
        config: for the weighting.
    """
    level = sigma.view(-1, 1, 1, 1, 1)
    velocity = predict((1 - level) * clean + level * noise, sigma)
    error = (velocity.float() - (noise - clean)).pow(2).flatten(1).mean(1)  # (B,)
    return (error * loss_weight(sigma, config)).mean()


def linear_guess(noisy: Tensor, sigma: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best linear guess of the velocity from x_σ alone, and the standard deviation of what it misses.

    For one channel whose latents have variance s²: with q = σ² + (1 − σ)² s², the guess is
    (σ − (1 − σ) s²) / q · x_σ and the rest has variance s² / q.

    Args:
        noisy: (B, C, T, h, w) latents x_σ.
        sigma: (B,) noise levels.
        spread: (C,) standard deviation of the clean latents of each channel.
    """
    level = sigma.view(-1, 1, 1, 1, 1)
    variance = spread.view(1, -1, 1, 1, 1).pow(2)
    total = level**2 + (1 - level) ** 2 * variance
    return (level - (1 - level) * variance) / total * noisy, (variance / total).sqrt()


def euler_sample(predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, config: FlowConfig) -> Tensor:
    """Integrate from noise to latents in ``config.steps`` Euler steps.

    Args:
        predict: maps (x_σ (B, …), σ (B,)) to a velocity.
        noise: (B, C, T, h, w).
        config: shift and number of steps.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    shift = config.shift if config.sampling_shift is None else config.sampling_shift
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAINING_STEPS, shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, config.steps + 1)[:-1].tolist(), device=noise.device)
    latents = noise
    for timestep in scheduler.timesteps:
        sigma = (timestep / TRAINING_STEPS).expand(len(latents)).to(latents)
        latents = scheduler.step(predict(latents, sigma), timestep, latents, return_dict=False)[0]
    return latents


def window_noise(shape: Sequence[int], seed: int, episode: str, frame: int) -> Tensor:
    """Return the noise (C, T, h, w) of one window: the same whatever else is generated beside it.

    Args:
        shape: of the window's latents.
        seed: of the generation.
        episode: the clip's episode.
        frame: first frame of the window within the episode.
    """
    digest = hashlib.sha256(f"{seed}/{episode}/{frame}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(tuple(shape), generator=generator)
