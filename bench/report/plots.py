"""The figures of a run.  Matplotlib is imported when a figure is drawn, not when the harness starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.training_bars import HISTORY

COLOURS = {"anchor": "#8c8c8c", "paired": "#c9a227", "generated": "#2a6fbb", "real": "#3a7d44"}
OTHER = "#7a5ea8"
BOUNDS = {"expert": "--", "random": ":"}
"""Line styles of what stands beside the arms and is none."""


def families(record: Mapping[str, Any], path: Path) -> None:
    """Draw the success of each family of subtasks by arm, the bounds as lines: where a wrist view matters.

    Args:
        record: the run's record; an arm's ``families`` may be absent.
        path: the file to write; its suffix decides the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = {name: arm.get("families") or {} for name, arm in record["arms"].items()}
    bounds = {name: bound.get("families") or {} for name, bound in record.get("bounds", {}).items()}
    names = sorted({name for scores in arms.values() for name in scores})
    figure, axes = pyplot.subplots(figsize=(9.5, 3.6), layout="constrained")
    width = 0.8 / max(1, len(arms))
    for number, (arm, scores) in enumerate(arms.items()):
        for position, family in enumerate(names):
            score, middle = scores.get(family), position + (number - (len(arms) - 1) / 2) * width
            if score is None or score["rate"] is None:
                axes.annotate("not tried", (middle, 2), rotation=90, fontsize=6, color="#777777", ha="center")
                continue
            rate, interval = 100 * score["rate"], [100 * bound for bound in score["interval"]]
            axes.bar(middle, rate, width, color=COLOURS.get(arm, OTHER),
                     yerr=[[max(0.0, rate - interval[0])], [max(0.0, interval[1] - rate)]],
                     error_kw={"linewidth": 0.8})  # fmt: skip
            if not rate:  # a bar of no height has no colour to be told by
                axes.plot(middle, 0, "s", color=COLOURS.get(arm, OTHER), markersize=4, clip_on=False)
    for bound, scores in bounds.items():
        for position, family in enumerate(names):
            if scores.get(family) and scores[family]["rate"] is not None:
                axes.hlines(100 * scores[family]["rate"], position - 0.45, position + 0.45, "black",
                            BOUNDS.get(bound, "-."), linewidth=1.0)  # fmt: skip
    axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
    axes.set_ylabel("attempts that succeeded (%)")
    axes.set_ylim(0, 103)
    axes.spines[["top", "right"]].set_visible(False)
    shown = {arm: pyplot.Rectangle((0, 0), 1, 1, color=COLOURS.get(arm, OTHER)) for arm in arms}
    shown |= {
        bound: pyplot.Line2D([], [], color="black", linestyle=BOUNDS.get(bound, "-."), linewidth=1.0)
        for bound, scores in bounds.items()
        if scores
    }
    figure.legend(list(shown.values()), list(shown), loc="outside upper right", frameon=False, ncols=len(shown),
                  fontsize=8)  # fmt: skip
    axes.set_title(f"{record['name']}: subtasks by family, 95 % interval", fontsize=9, loc="left")
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
    from matplotlib import pyplot, ticker

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
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("training step")
    axes.set_ylabel("loss (points: held-out demonstrations)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def average_length(record: Mapping[str, Any], path: Path) -> None:
    """Draw average length with its interval for each arm, and the share of chains of arms and bounds that got how far.

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
    bounds_are = []
    for name, bound in record.get("bounds", {}).items():
        if bound["average_length"] is None:
            continue
        bounds_are.append(f"{name} {bound['average_length']:.2f}")
        shares = [100 * share for share in bound["chain_success"]]
        right.plot(range(1, 6), shares, BOUNDS.get(name, "-."), color="black", linewidth=1.0, label=name)
    left.set_xticks(range(len(arms)), list(arms))
    left.set_ylim(0, max(0.5, 1.05 * left.get_ylim()[1]))
    left.set_ylabel("average length (0 … 5)")
    said = f"; {', '.join(bounds_are)}" if bounds_are else ""
    left.set_title(f"95 % interval over chains and seeds{said}", fontsize=9)
    right.set_xticks(range(1, 6), [f"{i}/5" for i in range(1, 6)])
    right.set_ylabel("chains that got this far (%)")
    right.set_ylim(-3, 103)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    first = next(iter(arms.values()))
    seeds = f" × {len(first['seeds'])} seeds" if len(first["seeds"]) > 1 else ""
    figure.suptitle(f"{record['name']}: {first['chains']} chains{seeds}", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
