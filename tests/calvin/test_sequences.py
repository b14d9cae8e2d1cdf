"""Are the chains and their initial states CALVIN's, and does the packed table follow from the rules?"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from bench.calvin.scene import scene_named
from bench.calvin.sequence_rules import (
    category,
    chains_from,
    chains_per_state,
    generate_chains,
    initial_states,
    is_chain,
    outcomes,
)
from bench.calvin.sequences import SEQUENCES_HASH, evaluation_sequences, initial_observation
from bench.calvin.tasks import TASKS
from bench.errors import UserError
from bench.rollout.chain import evaluation_chains


def packed_rows() -> list[tuple[int, ...]]:
    states = initial_states()
    return [(states.index(state), *(TASKS.index(task) for task in tasks)) for state, tasks in evaluation_sequences()]


@pytest.mark.shared
def test_chains_equal_the_originals_in_order(shared: Path) -> None:
    recorded = json.loads((shared / "calvin/ref/sequences.json").read_text())["sequences"]
    ours = evaluation_sequences()
    assert [state for state, _ in ours] == [one["initial_state"] for one in recorded]
    assert [list(tasks) for _, tasks in ours] == [one["tasks"] for one in recorded]


@pytest.mark.shared
def test_initial_observations_equal_the_originals_exactly(shared: Path) -> None:
    recorded = json.loads((shared / "calvin/ref/initial_states_50.json").read_text())
    assert len(recorded) == 50
    for one in recorded:
        robot_obs, scene_obs = initial_observation(one["initial_state"])
        assert robot_obs.tolist() == one["robot_obs"]
        assert scene_obs.tolist() == one["scene_obs"]


@pytest.mark.shared
def test_rules_and_categories_equal_the_originals(shared: Path) -> None:
    from bench.calvin.sequence_rules import rules

    recorded = json.loads((shared / "calvin/ref/tasks.json").read_text())
    pairs = set()
    for task, one in recorded.items():
        theirs = [
            ({key: tuple(v) if isinstance(v, list) else v for key, v in rule["condition"].items()}, rule["effect"])
            for rule in one["sequence_rules"]
        ]
        ours = [(dict(needs), dict(effect)) for needs, effect in rules(task)]
        assert len(ours) == len(theirs)
        assert all(rule in theirs for rule in ours), task
        pairs.add((one["category"], category(task)))
    assert len(pairs) == len({number for number, _ in pairs}) == len({name for _, name in pairs}) == 11


def test_the_hash_is_of_the_packed_chains() -> None:
    data = [{"initial_state": state, "tasks": list(tasks)} for state, tasks in evaluation_sequences()]
    assert hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest() == SEQUENCES_HASH


@pytest.mark.parametrize("index", [0, 1, 7, 100, 191])
def test_the_rules_regenerate_the_table_for_some_states(index: int) -> None:
    packed = sorted(row[1:] for row in packed_rows() if row[0] == index)
    assert sorted(chains_from(index, chains_per_state()[index])) == packed


@pytest.mark.slow
def test_the_rules_regenerate_the_whole_table_in_order() -> None:
    assert [tuple(row) for row in generate_chains().tolist()] == packed_rows()


def test_every_chain_is_possible_in_exactly_one_way() -> None:
    chains = evaluation_sequences()
    assert len({(json.dumps(state), tasks) for state, tasks in chains}) == 1000
    assert all(is_chain(state, tasks) for state, tasks in chains)


def test_fewer_chains_are_the_first_ones() -> None:
    assert evaluation_sequences(7) == evaluation_sequences()[:7]


def test_the_caller_cannot_change_the_chains() -> None:
    evaluation_sequences(1)[0][0]["led"] = "broken"
    assert evaluation_sequences(1)[0][0]["led"] in (0, 1)


@pytest.mark.parametrize("n", [0, -1, 1001, 2.5, True, "10"])
def test_an_impossible_number_of_chains_is_refused(n: object) -> None:
    with pytest.raises(UserError, match="1 to 1000"):
        evaluation_sequences(n)  # type: ignore[arg-type]


def test_an_initial_observation_depends_on_the_values_alone() -> None:
    state = evaluation_sequences(1)[0][0]
    expected = initial_observation(state)[1].tolist()
    backwards = {key: state[key] for key in reversed(state)}
    numpy_state = {key: np.int64(value) if isinstance(value, int) else np.str_(value) for key, value in state.items()}
    assert initial_observation(backwards)[1].tolist() == expected
    assert initial_observation(numpy_state)[1].tolist() == expected
    np.random.seed(3)
    assert initial_observation(state)[1].tolist() == expected


def test_an_impossible_initial_state_is_refused_by_name() -> None:
    state = evaluation_sequences(1)[0][0]
    with pytest.raises(UserError, match="red_block"):
        initial_observation({**state, "red_block": "floor"})
    with pytest.raises(UserError, match="keys"):
        initial_observation({key: value for key, value in state.items() if key != "led"})


def test_a_block_is_lifted_from_the_cabinet_only_where_the_door_is_away() -> None:
    state = {**initial_states()[0], "red_block": "slider_left", "slider": "left"}
    assert outcomes(state, "lift_red_block_slider") == []
    (after,) = outcomes({**state, "slider": "right"}, "lift_red_block_slider")
    assert after["red_block"] == "grasped"
    assert after["grasped"] == 1


@pytest.mark.parametrize("scene", ["A", "B", "C"])
def test_in_another_scene_every_block_stands_where_the_state_says_in_that_scenes_order(scene: str) -> None:
    spec = scene_named(scene)
    for state, _ in evaluation_sequences(40):
        blocks = initial_observation(state, scene)[1][6:].reshape(3, 6)
        for name, pose in zip(spec.block_names(), blocks, strict=True):
            place = state[f"{name.removeprefix('block_')}_block"]
            surface = spec.surfaces[place]
            assert surface.low[0] <= pose[0] <= surface.high[0], (name, place, pose)
            assert math.dist(pose[:2], spec.button[:2]) > 0.075


def test_chains_of_another_scene_have_that_scenes_starts() -> None:
    here, there = evaluation_chains(3), evaluation_chains(3, "C")
    assert [chain.tasks for chain in here] == [chain.tasks for chain in there]
    assert here[0].scene_obs != there[0].scene_obs
