"""CALVIN's 1000 evaluation chains and the positions that their initial states stand for.

The chains lie packed in ``sequences.npz`` (a test regenerates it with ``sequence_rules.py``); they are those that
every published CALVIN result was scored on.  Initial states follow calvin_agent ``evaluation/utils.py:
get_env_state_for_initial_condition``.  Not here: the rollout of a chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin.scene import SCENES, Surface, scene_named
from bench.calvin.sequence_rules import CABINET, NUM_CHAINS, STATE_VALUES, SymbolicState, initial_states
from bench.calvin.tasks import TASKS
from bench.errors import UserError

SEQUENCES_HASH = "831cca3ca4d3dfd80aaf79d832bbcc7d1f4271c741883dfac047dd0f1a50be4f"
"""SHA-256 of the 1000 chains as ``json.dumps([{"initial_state": …, "tasks": […]}, …], sort_keys=True)``."""

# calvin_agent evaluation/utils.py: get_env_state_for_initial_condition
HOME_ROBOT_OBS = (
    *(0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585, 0.07999963),
    *(-1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928),
    1.0,
)
TABLE_SLOTS = ((5.00000896e-02, -1.20000177e-01, 4.59990009e-01), (2.29995412e-01, -1.19995140e-01, 4.59990010e-01))
CABINET_SLOTS = {
    "slider_left": (-2.40851662e-01, 9.24044687e-02, 4.60990009e-01),
    "slider_right": (7.03416330e-02, 9.24044687e-02, 4.60990009e-01),
}
DRAWER_OPEN = 0.22
SWITCH_ON = 0.088
YAW_RANGE = (math.pi / 2 - math.pi / 8, math.pi / 2 + math.pi / 8)

_FNV_PRIME = 0x01000193


@cache
def _table() -> tuple[tuple[tuple[tuple[str, Any], ...], tuple[str, ...]], ...]:
    with as_file(files("bench.calvin") / "sequences.npz") as path, np.load(path, allow_pickle=False) as packed:
        rows = packed["chains"].tolist()
    states = [tuple(state.items()) for state in initial_states()]
    return tuple((states[first], tuple(TASKS[task] for task in tasks)) for first, *tasks in rows)


def evaluation_sequences(n: int = NUM_CHAINS) -> list[tuple[SymbolicState, tuple[str, ...]]]:
    """Return the first ``n`` of the 1000 chains: (initial state, five task names) each.

    Args:
        n: 1..1000.  (calvin_agent, asked for fewer, generates other chains; the first ``n`` are a prefix here.)

    Raises:
        UserError: ``n`` lies outside.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 0 < n <= NUM_CHAINS:
        raise UserError(f"expected 1 to {NUM_CHAINS} evaluation chains, got {n!r}; CALVIN defines no more")
    return [(dict(state), tasks) for state, tasks in _table()[:n]]


def _seed(state: Mapping[str, Any]) -> int:
    """Hash a state as ``pyhash.fnv1_32()(str(state.values()))`` does: 32-bit FNV-1 from 0 over UTF-16-LE."""
    value = 0
    for byte in f"dict_values({list(state.values())})".encode("utf-16-le"):
        value = (value * _FNV_PRIME & 0xFFFFFFFF) ^ byte
    return value


def _checked(state: Mapping[str, Any]) -> SymbolicState:
    """Return ``state`` with the protocol's key order and plain Python values: both enter the hash."""
    if set(state) != set(STATE_VALUES):
        raise UserError(f"initial state: expected the keys {list(STATE_VALUES)}, got {list(state)}")
    plain: SymbolicState = {}
    for key, allowed in STATE_VALUES.items():
        if state[key] not in allowed:
            raise UserError(f"initial state: {key} must be one of {list(allowed)}, got {state[key]!r}")
        plain[key] = allowed[allowed.index(state[key])]
    return plain


def initial_observation(
    initial_state: Mapping[str, Any], scene: str = "D"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (robot_obs (15,), scene_obs (24,)) to reset the environment to.

    Deterministic per state: table slots and yaws are drawn with the state's own hash as the seed.  CALVIN evaluates in
    scene D only, and its numbers mean scene D's table.  For another scene the blocks stand at the like places of its
    own table (the same share of each surface), in its own order; its door opens as far as it can.

    Args:
        initial_state: what a chain of :func:`evaluation_sequences` begins with.
        scene: ``A`` … ``D``.

    Raises:
        UserError: a key or value that CALVIN's initial states do not have, or no such scene.
    """
    state = _checked(initial_state)
    random = np.random.RandomState(_seed(state))
    slots = list(TABLE_SLOTS)
    random.shuffle(slots)
    spec, layout = scene_named(scene), SCENES["D"]
    table = np.zeros(24)
    table[0] = spec.slide_range if state["slider"] == "left" else 0.0
    table[1] = DRAWER_OPEN if state["drawer"] == "open" else 0.0
    table[3] = SWITCH_ON if state["lightbulb"] else 0.0
    table[4], table[5] = state["lightbulb"], state["led"]
    # Two blocks at most lie on the table; blue moves up where red does not.
    slot_of = {"red": slots[0], "blue": slots[1 if state["red_block"] == "table" else 0], "pink": slots[1]}
    order = spec.block_names()
    for colour, slot in slot_of.items():
        place = state[f"{colour}_block"]
        x, y, z = CABINET_SLOTS[place] if place in CABINET else slot
        if spec.name != layout.name:
            surface = place if place in CABINET else "table"
            x = _like_place(x, layout.surfaces[surface], spec.surfaces[surface])
        offset = 6 + 6 * order.index(f"block_{colour}")
        table[offset : offset + 3] = x, y, z
        table[offset + 5] = random.uniform(*YAW_RANGE)
    return np.array(HOME_ROBOT_OBS), table


def _like_place(x: float, here: Surface, there: Surface) -> float:
    """Return the x that is at the same share of ``there`` as ``x`` is of ``here``, metres."""
    share = (x - here.low[0]) / (here.high[0] - here.low[0])
    return there.low[0] + share * (there.high[0] - there.low[0])
