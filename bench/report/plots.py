"""The figures of a run.  Matplotlib is imported when a figure is drawn, not when the harness starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.training_bars import HISTORY

COLOURS = {"anchor": "#8c8c8c", "paired": "#c9a227", "generated": "#2a6fbb", "real": "#3a7d44"}
OTHER = "#7a5ea8"


def families(record: Mapping[str, Any], path: Path) -> None:
    """Draw the success of each family of subtasks by arm: where a wrist view matters and where it should not.

    Args:
        record: the run's record; an arm's ``families`` may be absent.
        path: the file to write; its suffix decides the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = {name: arm.get("families") or {} for name, arm in record["arms"].items()}
    names = sorted({name for scores in arms.values() for name in scores})
    figure, axes = pyplot.subplots(figsize=(9.5, 3.2), layout="constrained")
    width = 0.8 / max(1, len(arms))
    for number, (arm, scores) in enumerate(arms.items()):
        for position, family in enumerate(names):
            score = scores.get(family)
            if score is None or score["rate"] is None:
                continue
            rate, bounds = 100 * score["rate"], [100 * bound for bound in score["interval"]]
            axes.bar(position + (number - (len(arms) - 1) / 2) * width, rate, width, color=COLOURS.get(arm, OTHER),
                     yerr=[[max(0.0, rate - bounds[0])], [max(0.0, bounds[1] - rate)]],
                     error_kw={"linewidth": 0.8}, label=arm if position == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
    axes.set_ylabel("attempts that succeeded (%)")
    axes.set_ylim(0, 103)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend([pyplot.Rectangle((0, 0), 1, 1, color=COLOURS.get(arm, OTHER)) for arm in arms], list(arms),
                frameon=False, ncols=len(arms), fontsize=8)  # fmt: skip
    axes.set_title(f"{record['name']}: subtasks by family, 95 % interval", fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def training(folders: Mapping[str, Path], path: Path) -> None:
    """Draw the loss of each training by step, and that on held-out demonstrations where it was measured.

    Args:
        folders: ``ARM-SEED`` to the folder with the training's ``history.jsonl``.
        path: the file to write; its suffix decides the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.0, 3.8), layout="constrained")
    drawn: set[str] = set()
    for name, folder in folders.items():
        arm = name.rpartition("-")[0]
        rows = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
        seen = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        held_out = [(row["step"], row["validation"]["loss"]) for row in rows if "validation" in row]
        for points, style in ((seen, "-"), (held_out, "o")):
            steps, losses = [step for step, _ in points], [loss for _, loss in points]
            label = arm if style == "-" and arm not in drawn else None
            axes.plot(steps, losses, style, color=COLOURS.get(arm, OTHER), linewidth=0.9, markersize=4, label=label)
        drawn.add(arm)
    axes.set_yscale("log")
    axes.set_xlabel("training step")
    axes.set_ylabel("loss (points: held-out demonstrations)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def average_length(record: Mapping[str, Any], path: Path) -> None:
    """Draw average length with its interval for each arm, and the share of chains that reached each subtask.

    Args:
        record: the run's record.
        path: the file to write; its suffix decides the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = record["arms"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    for position, (name, arm) in enumerate(arms.items()):
        colour = COLOURS.get(name, OTHER)
        length, bounds = arm["average_length"], arm["interval"]
        if length is not None:
            left.bar(position, length, color=colour, width=0.65)
        if length is not None and bounds is not None:
            left.errorbar(position, length, [[max(0.0, length - bounds[0])], [max(0.0, bounds[1] - length)]],
                          color="black", capsize=4, linewidth=1.2)  # fmt: skip
        if all(share is not None for share in arm["chain_success"]):
            right.plot(range(1, 6), [100 * share for share in arm["chain_success"]], "o-", color=colour, label=name)
    left.set_xticks(range(len(arms)), list(arms))
    left.set_ylim(0, max(0.5, 1.05 * left.get_ylim()[1]))
    left.set_ylabel("average length (0 … 5)")
    left.set_title("95 % interval over chains and seeds", fontsize=9)
    right.set_xticks(range(1, 6), [f"{i}/5" for i in range(1, 6)])
    right.set_ylabel("chains that got this far (%)")
    right.set_ylim(-3, 103)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{record['name']}: {next(iter(arms.values()))['chains']} chains", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
