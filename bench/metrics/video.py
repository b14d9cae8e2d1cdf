"""PSNR and SSIM of generated frames against true ones, frame by frame.

Both are computed per frame and then averaged: the PSNR of a pooled error is another number.  SSIM is that of Wang et
al. 2004 as its authors computed it: Gaussian window of 11 × 11 with sigma 1.5, K1 0.01, K2 0.03, only where the window
lies wholly in the image, per colour channel and then averaged.  Not here: metrics that need network weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError

PSNR_CAP = 100.0
"""dB given to identical frames, whose PSNR is infinite; nothing is reported above it."""

_RADIUS = 5
_SIGMA = 1.5
_RANGE = 255.0
_C1 = (0.01 * _RANGE) ** 2
_C2 = (0.03 * _RANGE) ** 2


def _checked(true: NDArray[np.uint8], generated: NDArray[np.uint8], smallest: int) -> None:
    for name, frames in (("true", true), ("generated", generated)):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise UserError(f"{name} frames: expected uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    if true.shape != generated.shape:
        raise UserError(
            f"frames: expected two clips of one shape, got {true.shape} and {generated.shape}; resize first"
        )
    if min(true.shape[1:3]) < smallest:
        raise UserError(f"frames: expected at least {smallest} pixels a side, got {true.shape[1:3]}")


def psnr(true: NDArray[np.uint8], generated: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each frame in dB, (T,) float64, at most ``PSNR_CAP``.

    Args:
        true: uint8 (T, H, W, 3).
        generated: the same shape.

    Raises:
        UserError: another type, or shapes that differ.
    """
    _checked(true, generated, 1)
    error = np.array(
        [np.square(np.subtract(a, b, dtype=np.float64)).mean() for a, b in zip(true, generated, strict=True)]
    )
    with np.errstate(divide="ignore"):
        ratio: NDArray[np.float64] = np.minimum(10 * np.log10(_RANGE**2 / error), PSNR_CAP)
    return ratio


def ssim(true: NDArray[np.uint8], generated: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the structural similarity of each frame, (T,) float64 in [-1, 1].

    Args:
        true: uint8 (T, H, W, 3), at least 11 pixels a side.
        generated: the same shape.

    Raises:
        UserError: another type, shapes that differ, or frames smaller than the window.
    """
    _checked(true, generated, 2 * _RADIUS + 1)
    return np.array([_frame_ssim(a, b) for a, b in zip(true, generated, strict=True)])


def _frame_ssim(true: NDArray[np.uint8], generated: NDArray[np.uint8]) -> float:
    a, b = true.astype(np.float64), generated.astype(np.float64)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variance_a = _window_mean(a * a) - mean_a**2
    variance_b = _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return float((luminance * structure).mean())


def _window_mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gaussian mean around every pixel whose window lies in the image, (H - 10, W - 10, 3)."""
    from scipy.ndimage import correlate1d

    weights = np.exp(-0.5 * np.square(np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA))
    weights /= weights.sum()
    blurred = correlate1d(correlate1d(image, weights, axis=0), weights, axis=1)
    result: NDArray[np.float64] = blurred[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
    return result


def evaluate_clips(true: Sequence[NDArray[np.uint8]], generated: Sequence[NDArray[np.uint8] | None]) -> dict[str, Any]:
    """Score generated clips against true ones.

    Args:
        true: clips, each uint8 (T, H, W, 3).
        generated: as many clips of the same shapes; None where a clip was not generated.

    Returns:
        JSON data: ``psnr`` and ``ssim``, means over all frames, None where there is no frame (never 0);
        ``psnr_per_frame`` and ``ssim_per_frame``, one list per clip or None; ``clips``, ``frames``, ``missing``.

    Raises:
        UserError: the numbers of clips differ, or a clip has another shape or type.
    """
    if len(true) != len(generated):
        raise UserError(f"clips: expected as many generated as true ones, got {len(generated)} for {len(true)}")
    scores: dict[str, list[list[float] | None]] = {"psnr": [], "ssim": []}
    for one, other in zip(true, generated, strict=True):
        scores["psnr"].append(None if other is None else psnr(one, other).tolist())
        scores["ssim"].append(None if other is None else ssim(one, other).tolist())
    flat = {name: [value for clip in clips if clip is not None for value in clip] for name, clips in scores.items()}
    return {
        **{name: float(np.mean(values)) if values else None for name, values in flat.items()},
        **{f"{name}_per_frame": clips for name, clips in scores.items()},
        "clips": sum(clip is not None for clip in generated),
        "frames": len(flat["psnr"]),
        "missing": sum(clip is None for clip in generated),
    }
