"""Policies by name, folder or address: the one place that makes a :class:`policies.api.Policy` of what a user typed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.api import ActionConvention, Policy, PolicyError
from policies.checkpoint import check_fit
from policies.hub import HUB_PREFIX, download
from policies.simple import HoldStill, RandomPolicy

TINY_SENTENCES = ("push the sliding door to the left", "grasp the red block")


@dataclass(frozen=True)
class RegisteredPolicy:
    """A policy that can be made from its name alone.

    Attributes:
        make: builds it.
        stochastic: whether its actions depend on the seeds.
        summary: one line for lists.
    """

    make: Callable[[], Policy]
    stochastic: bool
    summary: str


def _untrained(head: str, arm: str, kind: str = "flow") -> Policy:
    from policies.flow import FlowPolicy
    from policies.kinds import config_class

    return FlowPolicy.initial(config_class(kind).preset("tiny", head=head), arm, TINY_SENTENCES)


POLICIES: dict[str, RegisteredPolicy] = {
    "random": RegisteredPolicy(RandomPolicy, True, "uniform actions: the floor of every table"),
    "hold-still": RegisteredPolicy(HoldStill, False, "never moves"),
    "flow-untrained": RegisteredPolicy(lambda: _untrained("flow", "real"), True, "tiny flow policy, first weights"),
    "flow-untrained-anchor": RegisteredPolicy(
        lambda: _untrained("flow", "anchor"), True, "the same without a wrist view"
    ),
    "regression-untrained": RegisteredPolicy(
        lambda: _untrained("regression", "real"), False, "tiny regression policy, first weights"
    ),
    "vpp-untrained": RegisteredPolicy(
        lambda: _untrained("flow", "real", "vpp"), True, "tiny video policy, first weights"
    ),
    "vpp-untrained-anchor": RegisteredPolicy(
        lambda: _untrained("flow", "anchor", "vpp"), True, "the same without a wrist view"
    ),
}


def load_policy(
    name: str | Path,
    *,
    expect_arm: str | None = None,
    views: Sequence[str] | None = None,
    actions: ActionConvention | None = None,
    **options: Any,
) -> Policy:
    """Return the policy called ``name``, the one saved in the folder ``name``, or the one served at that address.

    Args:
        name: a key of ``POLICIES``, a folder (ours or a LeRobot policy's), a Hugging Face repository
            (``hf://OWNER/NAME``, see :mod:`policies.hub`), or an address (:mod:`policies.addresses`).
        expect_arm: the arm to be scored; a checkpoint of another arm is refused.
        views: the views that the rollout offers.
        actions: the world's action convention.
        **options: ``device`` and ``pad_to`` for a checkpoint, see :func:`policies.checkpoint.load`.

    Raises:
        PolicyError: nothing of that name, or it does not fit.
    """
    entry = POLICIES.get(str(name))
    if entry is not None:
        policy = entry.make()
        check_fit(policy.spec, where=str(name), expect_arm=expect_arm, views=views, actions=actions)
        return policy
    if str(name).startswith(HUB_PREFIX):
        name = download(str(name).removeprefix(HUB_PREFIX))
    if "://" in str(name):
        from policies.addresses import connect

        remote = connect(str(name))
        check_fit(remote.spec, where=str(name), expect_arm=expect_arm, views=views, actions=actions)
        return remote
    if not Path(name).is_dir():
        close = difflib.get_close_matches(str(name), POLICIES, n=3)
        hint = f"did you mean {close}?" if close else f"known names: {sorted(POLICIES)}"
        raise PolicyError(f"no policy {str(name)!r}: expected a checkpoint folder or a known name; {hint}")
    from policies import checkpoint
    from policies.lerobot import LeRobotPolicy, is_lerobot_folder

    if is_lerobot_folder(name):
        adapted = LeRobotPolicy(name, device=str(options.get("device", "cpu")))
        check_fit(adapted.spec, where=str(name), expect_arm=expect_arm, views=views, actions=actions)
        return adapted
    if actions is not None:
        options["actions"] = actions
    return checkpoint.load(name, expect_arm=expect_arm, views=views, **options)
