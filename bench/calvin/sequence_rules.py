"""How CALVIN's evaluation chains come about: symbolic states, what each task needs and leaves, the random draws.

``sequences.py`` ships the result as a packed table; :func:`generate_chains` regenerates it draw by draw.  The symbolic
rules also say which tasks are possible in which state, which is what collecting demonstrations in a row needs.
Not here: positions, the simulator.

The protocol is calvin_agent's ``evaluation/multistep_sequences.py``: 192 initial states, five tasks each applicable in
exactly one way to what the tasks before leave behind, no two of one category.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calvin.tasks import COLOURS, FAMILY, TASKS, check_task

SymbolicState = dict[str, Any]
Rule = tuple[Mapping[str, Any], Mapping[str, Any]]
"""What a state must hold (a tuple of values means any of them) and what the task sets."""

CHAIN_LENGTH = 5
NUM_CHAINS = 1000
NUM_DRAWS = 2048

STATE_VALUES: dict[str, tuple[Any, ...]] = {
    "led": (0, 1),
    "lightbulb": (0, 1),
    "slider": ("right", "left"),
    "drawer": ("closed", "open"),
    "red_block": ("table", "slider_right", "slider_left"),
    "blue_block": ("table", "slider_right", "slider_left"),
    "pink_block": ("table", "slider_right", "slider_left"),
    "grasped": (0,),
}
"""The values of an initial state; the order of the keys and values is part of the protocol."""

CABINET = ("slider_right", "slider_left")

# multistep_sequences.py: task_categories; no chain has two tasks of one category
_MERGED_FAMILIES = {"push": "rotate", "led": "light", "lightbulb": "light"}


def category(task: str) -> str:
    """Return the category of ``task``, of which a chain holds at most one."""
    return _MERGED_FAMILIES.get(FAMILY[check_task(task)], FAMILY[task])


def _block_rules(family: str, surface: str, colour: str) -> list[Rule]:
    block, others = f"{colour}_block", [f"{other}_block" for other in COLOURS if other != colour]

    def stacked(other: str) -> SymbolicState:
        return {block: "stacked_top", other: "stacked_bottom"}

    if family in ("rotate", "push"):
        return [({block: "table", "grasped": 0}, {block: "table"})]
    if family == "lift":
        place = {
            "table": [{block: "table"}],
            "slider": [{block: "slider_left", "slider": "right"}, {block: "slider_right", "slider": "left"}],
            "drawer": [{block: "drawer", "drawer": "open"}],
        }[surface]
        return [({**needs, "grasped": 0}, {block: "grasped", "grasped": 1}) for needs in place]
    if family == "place":
        free = {"slider": ("slider", ("right", "left")), "drawer": ("drawer", ("open",))}[surface]
        return [
            (
                {block: "grasped", free[0]: value, "grasped": 1},
                {block: f"slider_{value}" if surface == "slider" else "drawer", "grasped": 0},
            )
            for value in free[1]
        ]
    if family == "stack":
        return [
            (
                {block: "grasped", other: "table", "grasped": 1},
                {block: "stacked_top", other: "stacked_bottom", "grasped": 0},
            )
            for other in others
        ]
    if family == "unstack":
        return [({**stacked(other), "grasped": 0}, {block: "table", other: "table"}) for other in others]
    away = dict.fromkeys(others, CABINET)
    return [({block: "table", **away, "drawer": "open", "grasped": 0}, {block: "drawer", "grasped": 0})]


def _part_rule(part: str, before: Any, after: Any) -> list[Rule]:
    return [({part: before, "grasped": 0}, {part: after})]


@cache
def rules(task: str) -> tuple[Rule, ...]:
    """Return the ways in which ``task`` can be done: what each needs and what it sets."""
    words = check_task(task).split("_")
    fixed = {
        "move_slider_left": ("slider", "right", "left"),
        "move_slider_right": ("slider", "left", "right"),
        "open_drawer": ("drawer", "closed", "open"),
        "close_drawer": ("drawer", "open", "closed"),
    }
    if task in fixed:
        return tuple(_part_rule(*fixed[task]))
    if words[0] == "turn":
        return tuple(_part_rule(words[2], int(words[1] == "off"), int(words[1] == "on")))
    family = "push_into" if task == "push_into_drawer" else words[0]
    colours = [words[1]] if words[1] in COLOURS else COLOURS
    return tuple(rule for colour in colours for rule in _block_rules(family, words[-1], colour))


def outcomes(state: Mapping[str, Any], task: str) -> list[SymbolicState]:
    """Return the states that ``task`` may lead to from ``state``: none where it is impossible there."""

    def holds(needs: Mapping[str, Any]) -> bool:
        return all(
            state[key] in value if isinstance(value, tuple) else state[key] == value for key, value in needs.items()
        )

    return [{**state, **effect} for needs, effect in rules(task) if holds(needs)]


def is_chain(state: Mapping[str, Any], tasks: tuple[str, ...]) -> bool:
    """Return whether ``tasks`` follow from ``state`` in a row, each in exactly one way, no two of one category."""
    for task in tasks:
        after = outcomes(state, task)
        if len(after) != 1:
            return False
        state = after[0]
    return len({category(task) for task in tasks}) == len(tasks)


def initial_states() -> list[SymbolicState]:
    """Return the 192 initial states: one or two blocks on the table, at most one in each half of the cabinet."""
    states = []
    for values in product(*STATE_VALUES.values()):
        if values.count("table") in (1, 2) and all(values.count(half) < 2 for half in CABINET):
            states.append(dict(zip(STATE_VALUES, values, strict=True)))
    return states


def _draws(index: int) -> Iterator[NDArray[np.int64]]:
    """Yield (N, 5) task ids: the protocol's draws without replacement for one initial state, N at a time."""
    random = np.random.RandomState(index)
    while True:
        # RandomState.choice(34, 5, replace=False) is the head of a permutation; this skips its overhead.
        yield np.stack([random.permutation(len(TASKS))[:CHAIN_LENGTH] for _ in range(NUM_DRAWS)])


def chains_from(index: int, count: int) -> list[tuple[int, ...]]:
    """Return the first ``count`` chains (task ids) that the protocol draws for initial state number ``index``."""
    state = initial_states()[index]
    names = sorted({category(task) for task in TASKS})
    bits = np.array([1 << names.index(category(task)) for task in TASKS])
    possible = np.array([len(outcomes(state, task)) == 1 for task in TASKS])
    found: list[tuple[int, ...]] = []
    for drawn in _draws(index):
        distinct = np.bitwise_or.reduce(bits[drawn], axis=1) == bits[drawn].sum(axis=1)
        for ids in drawn[distinct & possible[drawn[:, 0]]].tolist():
            if is_chain(state, tuple(TASKS[i] for i in ids)):
                found.append(tuple(ids))
                if len(found) == count:
                    return found
    raise AssertionError("the draws never end")


def chains_per_state() -> list[int]:
    """Return how many of the 1000 chains start from each of the 192 states."""
    return [len(part) for part in np.array_split(np.arange(NUM_CHAINS), len(initial_states()))]


def generate_chains() -> NDArray[np.uint8]:
    """Return (1000, 6) uint8: initial state number and five task ids per chain, in the protocol's order.

    Draws about a million random orders: half a minute.  ``sequences.py`` holds the result.
    """
    rows = [(index, *chain) for index, count in enumerate(chains_per_state()) for chain in chains_from(index, count)]
    order = list(range(len(rows)))
    np.random.RandomState(0).shuffle(order)
    return np.array(rows, dtype=np.uint8)[order]
