"""Published numbers that stand beside ours, each with its source.  Nothing here enters a computation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published comparison of average lengths on CALVIN.

    Attributes:
        method: what was compared.
        split: training scenes → test scene, or "?" where the source does not say.
        anchor: average length without a wrist view, or None.
        generated: with generated wrist views, or None.
        real: with real wrist views, or None.
        source: where the numbers stand, and how sure they are.
    """

    method: str
    split: str
    anchor: float | None
    generated: float | None
    real: float | None
    source: str


PUBLISHED = (
    Published(
        "WristWorld (policy not named)",
        "?",
        3.61,
        3.81,
        None,
        "arXiv 2510.07313, project page figure; its abstract says +3.81 % and 42.4 % of the gap, which these two "
        "values do not give (3.67 → 3.81 → 4.00 would)",
    ),
    Published("VPP", "ABC→D", 3.58, None, 4.33, "arXiv 2412.14803, single view against static + gripper"),
    Published("MCIL", "ABC→D", 0.20, None, 0.31, "CALVIN leaderboard, static against static + gripper"),
)
