"""Fewer demonstrations for learning curves: nested, the same for everybody, every task and scene in proportion."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.episode import Episode, Window
from bench.errors import UserError
from bench.subset import first_demonstrations, ordered_windows

TASKS = ("open_drawer", "push_red_block_left", "turn_on_led")


class NoFrames:
    def read(self, frames, keys):
        raise AssertionError("nothing is read to choose")

    def keys(self, frame):
        raise AssertionError("nothing is read to choose")


def episodes_of(tasks: list[tuple[str, list[str]]]) -> list[Episode]:
    """One episode for each (scene, tasks of its windows)."""
    return [
        Episode(f"e{number}", scene, 100 * number, 100 * number + 99,
                tuple(Window(3 * i, 3 * i + 3, task, "do it") for i, task in enumerate(said)), NoFrames())
        for number, (scene, said) in enumerate(tasks)
    ]  # fmt: skip


def windows_of(episodes) -> set[tuple[str, int]]:
    return {(episode.id, window.start) for episode in episodes for window in episode.windows}


SETS = st.lists(
    st.tuples(st.sampled_from("ABCD"), st.lists(st.sampled_from(TASKS), max_size=4)), min_size=1, max_size=30
).filter(lambda tasks: any(said for _, said in tasks))


@given(SETS, st.integers(0, 3), st.data())
def test_a_smaller_set_lies_within_a_larger_one_and_both_are_in_proportion(tasks, seed, data):
    episodes = episodes_of(tasks)
    total = len(windows_of(episodes))
    few = data.draw(st.integers(1, total))
    many = data.draw(st.integers(few, total))
    smaller, larger = (windows_of(first_demonstrations(episodes, count, seed)) for count in (few, many))
    assert (len(smaller), len(larger)) == (few, many)
    assert smaller <= larger <= windows_of(episodes)
    strata = Counter((scene, task) for scene, said in tasks for task in said)
    got = Counter(
        (one.scene, window.task) for one in first_demonstrations(episodes, few, seed) for window in one.windows
    )
    assert smaller == set(ordered(episodes, seed)[:few])
    for stratum, there in strata.items():
        assert abs(got[stratum] - there * few / total) <= 1 + len(strata) / total * there


def ordered(episodes, seed):
    return [(episodes[i].id, episodes[i].windows[n].start) for i, n in ordered_windows(episodes, seed)]


def test_each_task_in_each_scene_has_its_share():
    episodes = episodes_of([(scene, [task]) for scene in "ABC" for task in TASKS for _ in range(100)])
    for count in (9, 90, 300):
        chosen = first_demonstrations(episodes, count)
        got = Counter((episode.scene, episode.windows[0].task) for episode in chosen)
        assert set(got.values()) == {count // 9, *([] if count % 9 == 0 else [count // 9 + 1])}
        assert [episode.id for episode in chosen] == [e.id for e in episodes if e in chosen], "the data set's order"


def test_a_seed_is_another_choice_and_the_same_seed_the_same():
    episodes = episodes_of([("A", [task]) for task in TASKS for _ in range(50)])
    first, again, other = (windows_of(first_demonstrations(episodes, 30, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_all_are_the_episodes_as_they_are():
    episodes = episodes_of([("A", []), ("B", ["open_drawer"])])
    assert first_demonstrations(episodes, None) == tuple(episodes)
    assert first_demonstrations(episodes, 1) == (episodes[1],)


@pytest.mark.parametrize("count", [0, 4])
def test_what_is_not_there_is_refused(count):
    with pytest.raises(UserError, match=f"expected 1 to 3.*got {count}"):
        first_demonstrations(episodes_of([("A", list(TASKS))]), count)
