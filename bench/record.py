"""The record of a run: what was compared, what came out, and everything that the numbers depend on.

``record.json`` is made here and nowhere else; tables, figures and pages read it and compute nothing.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.arms import WristPlan
from bench.calvin.tasks import FAMILY
from bench.doctor import package_versions
from bench.metrics.closure import gap_closure
from bench.metrics.gap import gap
from bench.metrics.success import summarise
from bench.rollout.chain import ChainResult

FORMAT = 1


def _commit() -> str | None:
    """Return the checkout's commit, marked where files differ from it; None outside of a checkout."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def environment(device: str) -> dict[str, Any]:
    """Return the versions and the hardware that numbers may depend on."""
    return {
        **package_versions(("wristworld-bench",)),  # None in a tree that is not installed
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "packages": package_versions(),
    }


def arm_entry(rows: Sequence[ChainResult], expected: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Return one arm's numbers; all of them None where no chain could be run."""
    if not rows:
        return {
            "average_length": None,
            "interval": None,
            "chain_success": [None] * 5,
            "chains": 0,
            "seeds": list(seeds),
            "missing": expected,
        }
    return summarise(rows, families=FAMILY, expected=expected).to_json()


def offline_entry(trained: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how one arm's policies reproduce held-out demonstrations, a value a seed; None where that is not known.

    Args:
        trained: what :func:`bench.jobs.train_one` returned for each seed.
    """
    scores = [one.get("validation") for one in trained]
    if not scores or any(score is None for score in scores):
        return None
    shuffled = [one.get("wrist_shuffled") for one in trained]
    known = [score for score in scores if score is not None]
    return {
        "action_error": [score["action_error"] for score in known],
        "action_error_shuffled": None if None in shuffled else [one["action_error"] for one in shuffled if one],
        "gripper_accuracy": [score["gripper_accuracy"] for score in known],
        "task_error": {task: [score["task_error"][task] for score in known] for task in known[0].get("task_error", ())},
        "samples": known[0]["samples"],
    }


def build_record(
    *,
    name: str,
    suite: Mapping[str, Any],
    plans: Mapping[str, WristPlan],
    rows: Mapping[str, Sequence[ChainResult]],
    chains: int,
    seeds: Sequence[int],
    bounds: Sequence[str],
    trained: Mapping[str, Sequence[Mapping[str, Any]]],
    video: Mapping[str, Any],
    weights: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """Return the record of a run.

    Args:
        name: the suite's name.
        suite: the suite as JSON data.
        plans: arm to where its training wrist views came from.
        rows: arm or bound to its finished chains.
        chains: chains asked for, per seed.
        seeds: training seeds.
        bounds: which of ``rows`` are bounds and no arms.
        trained: arm to what its trainings returned, one for each seed.
        video: scores of the generated views.
        weights: what made the actions and the views: hashes of the policies, provenance of the generators.
        fingerprint: protocol and environment.
        timings: stage to seconds.

    Returns:
        ``arms`` (name → average_length, interval, chain_success, chains, seeds, offline, …), ``gap`` (see
        :func:`bench.metrics.gap.gap`), ``gap_closure`` (arm → {value, interval, reason, …}), ``bounds``, ``video``,
        ``weights``, ``fingerprint``, ``timings``, ``suite``.
    """
    arms = {}
    for arm, plan in plans.items():
        entry = arm_entry(rows[arm], chains * len(seeds), seeds)
        told = {"says": plan.arm.says, "train_wrist": plan.counts(), "test_wrist": plan.arm.test}
        outcomes = trained.get(arm, ())
        known = {"demonstrations": outcomes[0].get("demonstrations") if outcomes else None}
        arms[arm] = {**entry, **told, **known, "offline": offline_entry(outcomes)}
    closures = {
        arm: gap_closure(rows.get("anchor"), rows[arm], rows.get("real")).to_json()
        for arm in plans
        if arm not in ("anchor", "real")
    }
    return {
        "format": FORMAT,
        "name": name,
        "arms": arms,
        "bounds": {bound: arm_entry(rows[bound], chains, seeds[:1]) for bound in bounds},
        "gap": gap(rows.get("anchor", ()), rows.get("real", ()), FAMILY),
        "gap_closure": closures,
        "video": dict(video),
        "weights": dict(weights),
        "fingerprint": dict(fingerprint),
        "timings": dict(timings),
        "suite": dict(suite),
    }
