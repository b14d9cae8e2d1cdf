"""How well a policy reproduces demonstrations that it did not see: loss, action error per task, use of the wrist view.

An offline check, not the benchmark: a small action error does not make a chain succeed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policies.data import DeviceArrays, PolicyArrays
from policies.flow import FlowPolicy
from policies.network import FlowNetwork
from policies.normalise import GRIPPER, Normaliser

BATCH = 64
DEFAULT_SAMPLES = 512


@dataclass(frozen=True)
class Validation:
    """Averages over the samples that were looked at.

    Attributes:
        loss: the training loss, in scaled units.
        action_error: mean absolute error of translation and rotation, in action units (1 = 2 cm or 0.05 rad).
        gripper_accuracy: share of gripper actions with the right sign.
        task_error: task to its ``action_error``; empty if the windows have no task names.
        samples: how many samples.
    """

    loss: float
    action_error: float
    gripper_accuracy: float
    task_error: dict[str, float]
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Return the averages as plain JSON data."""
        return asdict(self)


def validate(
    network: FlowNetwork,
    data: DeviceArrays,
    normaliser: Normaliser,
    window_task: tuple[str, ...] = (),
    *,
    samples: int = DEFAULT_SAMPLES,
    shuffle_wrist: bool = False,
) -> Validation:
    """Score ``network`` on a fixed random subset of ``data``.

    Args:
        network: in evaluation mode or not, it has no dropout or batch statistics.
        data: validation samples.
        normaliser: to report errors in action units.
        window_task: task name of each window.
        samples: size of the subset; all if there are fewer.
        shuffle_wrist: give each sample the wrist view of one half the data away, so of another episode: a policy that
            uses the view gets worse.
    """
    chosen = np.random.default_rng(0).permutation(len(data))[:samples]
    generator = torch.Generator(data.device).manual_seed(0)
    others = _half_the_data_away(chosen)
    losses, errors, grippers, counts, windows = [], [], [], [], []
    for start in range(0, len(chosen), BATCH):
        batch = data.batch(torch.from_numpy(chosen[start : start + BATCH]).to(data.device), generator)
        inputs = batch.inputs
        if shuffle_wrist and inputs.wrist is not None:
            numbers = torch.from_numpy(others[start : start + BATCH]).to(data.device)
            other = data.batch(numbers, torch.Generator(data.device).manual_seed(0)).inputs
            inputs = replace(inputs, wrist=other.wrist, wrist_present=other.wrist_present)
        with torch.inference_mode():
            losses.append(float(network.loss(inputs, batch.actions, batch.valid, batch.noise, batch.t)))
            sampled = network.sample(inputs, batch.noise).cpu().numpy()
        predicted, wanted = normaliser.unscale_actions(sampled), normaliser.unscale_actions(batch.actions.cpu().numpy())
        valid = batch.valid.cpu().numpy()
        difference = np.abs(predicted - wanted)[..., :GRIPPER].mean(-1)  # (B, K)
        errors.append((difference * valid).sum(1))
        grippers.append(((predicted[..., GRIPPER] == wanted[..., GRIPPER]) * valid).sum(1))
        counts.append(valid.sum(1))
        windows.append(batch.window.cpu().numpy())
    error, gripper, count, window = (np.concatenate(parts) for parts in (errors, grippers, counts, windows))
    sizes = [min(BATCH, len(chosen) - start) for start in range(0, len(chosen), BATCH)]
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    if window_task:
        for row, number in enumerate(window):
            totals[window_task[number]][0] += float(error[row])
            totals[window_task[number]][1] += float(count[row])
    return Validation(
        loss=float(np.average(losses, weights=sizes)),
        action_error=float(error.sum() / count.sum()),
        gripper_accuracy=float(gripper.sum() / count.sum()),
        task_error={task: total / number for task, (total, number) in sorted(totals.items())},
        samples=len(chosen),
    )


def _half_the_data_away(chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each of these samples another of them; samples lie in the data's order, episode after episode."""
    order = np.argsort(chosen)
    others = np.empty_like(chosen)
    others[order] = np.roll(chosen[order], len(chosen) // 2)
    return others


def validate_policy(policy: FlowPolicy, arrays: PolicyArrays, **options: Any) -> Validation:
    """Score a trained policy on ``arrays``; options as in :func:`validate`."""
    embeddings = np.stack([policy.sentences.lookup(sentence) for sentence in arrays.sentences])
    data = DeviceArrays(
        arrays,
        policy.normaliser,
        embeddings,
        policy.config.chunk,
        policy.device,
        use_wrist="wrist" in policy.spec.views,
        proprio=policy.config.use_proprio,
    )
    return validate(policy.network, data, policy.normaliser, arrays.window_task, **options)
