"""The figures of a run.  Matplotlib is imported when a figure is drawn, not when the harness starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"anchor": "#8c8c8c", "paired": "#c9a227", "generated": "#2a6fbb", "real": "#3a7d44"}
OTHER = "#7a5ea8"


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
