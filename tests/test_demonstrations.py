"""Collecting: the same bytes whoever writes them, and what is cut short goes on with the same options only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import atomic, cli, demonstrations
from bench.calvin.instructions import training_instructions
from bench.calvin.sequence_rules import category
from bench.calvin.tasks import FAMILY
from bench.data.calvin import SPLITS, CalvinDataset
from bench.data.calvin.check import check
from bench.data.calvin.part import PART_FILE
from bench.data.clips import ClipDataset
from bench.demonstrations import CollectOptions, collect
from bench.errors import UserError

OPTIONS = CollectOptions(tasks=("turn_on_led",), episodes=2, validation_episodes=1, depth=False)
MANY = {"scenes": "AD", "tasks": ("turn_on_led", "turn_off_led"), "episodes": 5, "validation_episodes": 2}


class CutShortError(Exception):
    """What stops a collection in the middle."""


def cut_short(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the parts of a collection that died before it wrote a split."""

    def die(*_: object, **__: object) -> None:
        raise CutShortError

    with monkeypatch.context() as patch:
        patch.setattr(demonstrations, "_write_split", die)
        with pytest.raises(CutShortError):
            collect(out, OPTIONS, workers=0, progress=False)
    assert (out / "parts").is_dir()


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_a_collection_goes_on_with_its_own_options_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "data"
    cut_short(out, monkeypatch)
    other = CollectOptions(tasks=("turn_off_led",), episodes=2, validation_episodes=1, depth=False, seed=1)
    with pytest.raises(UserError, match=r"tasks .*seed"):
        collect(out, other, workers=0, progress=False)
    assert not (out / "training").exists()

    def no_second_time(*_: object) -> None:
        raise AssertionError("a whole part was made again")

    monkeypatch.setattr(demonstrations, "kept_world", no_second_time)
    result = collect(out, OPTIONS, workers=0, progress=False)
    assert result["episodes"] == 3
    assert [window.task for _, window in CalvinDataset(out).windows] == ["turn_on_led"] * 2
    assert {path.name for path in out.iterdir()} == {"training", "validation", ".lock"}
    with pytest.raises(UserError, match="expected no data set"):
        collect(out, OPTIONS, workers=0, progress=False)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection of MANY, in CALVIN's form, by this process alone."""
    out = tmp_path_factory.mktemp("reference") / "data"
    result = collect(out, CollectOptions(**MANY), workers=0, progress=False)
    assert set(result["tasks"]) == {"turn_on_led", "turn_off_led"}
    assert result["frames"] == sum(len(CalvinDataset(out, split)) for split in ("training", "validation"))
    assert set(result["shares"]) == {"physics", "drawing", "expert", "writing"}
    assert sum(result["shares"].values()) == pytest.approx(1, abs=0.01)
    return out


def test_killed_and_taken_up_by_other_workers_it_is_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    words = ["--scenes", "AD", "--tasks", "turn_on_led,turn_off_led", "--episodes", "5", "--validation-episodes", "2"]
    command = [
        sys.executable,
        "-c",
        "from bench.cli import main; main()",
        "collect",
        *words,
        "--out",
        str(out),
        "--workers",
        "0",
    ]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(out.glob(f"parts/training-*/{PART_FILE}")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(out.glob(f"parts/training-*/{PART_FILE}"))
    assert not (out / "validation").exists()
    collect(out, CollectOptions(**MANY), workers=2, progress=False)
    assert content(out) == content(reference)


def test_a_run_killed_while_it_strings_parts_together_goes_on(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, renamed = tmp_path / "data", 0
    rename = Path.rename

    def dies_in_the_middle(self: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += self.suffix == ".npz"
        if renamed == 50:
            raise CutShortError
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(CutShortError):
        patch.setattr(Path, "rename", dies_in_the_middle)
        collect(out, CollectOptions(**MANY), workers=0, progress=False)
    collect(out, CollectOptions(**MANY), workers=0, progress=False)
    assert content(out) == content(reference)


def test_packed_holds_the_same_recordings(reference: Path, tmp_path: Path) -> None:
    collect(tmp_path, CollectOptions(**MANY, format="packed"), workers=0, progress=False)
    for split in ("training", "validation"):
        mine, theirs = CalvinDataset(tmp_path, split), CalvinDataset(reference, split)
        assert mine.episodes == theirs.episodes
        assert mine.statistics.keys() == theirs.statistics.keys()
        assert {one.scene for one in mine.episodes} == {"A", "D"}
        for one, other in zip(mine.episodes, theirs.episodes, strict=True):
            assert set(one.keys) == set(other.keys)
            packed, loaded = one.load(one.keys), other.load(one.keys)
            for key, array in loaded.items():
                assert packed[key].dtype == array.dtype
                np.testing.assert_array_equal(packed[key], array)
    clip = ClipDataset(CalvinDataset(tmp_path), length=8)[0]
    assert set(clip.depth) == {"anchor", "wrist"}
    assert check(tmp_path).defects == check(reference).defects == ()


CHAIN_TASKS = ("turn_on_led", "turn_off_led", "open_drawer", "close_drawer", "move_slider_left", "move_slider_right")
CHANGED = {"led": 5, "drawer": 1, "slider": 0}
"""Which entry of ``scene_obs`` a family of tasks changes."""


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Chains of two tasks in CALVIN's form, by this process alone, and what ``collect`` told of them."""
    out = tmp_path_factory.mktemp("chains") / "data"
    options = CollectOptions(tasks=CHAIN_TASKS, episodes=5, validation_episodes=1, chain_length=2, depth=False)
    return out, collect(out, options, workers=0, progress=False)


def test_a_chain_is_an_episode_with_a_window_for_each_task(chains: tuple[Path, dict[str, Any]]) -> None:
    root, told = chains
    lengths: Counter[str] = Counter()
    for split in SPLITS:
        for episode in CalvinDataset(root, split).episodes:
            lengths[str(len(episode.windows))] += 1
            assert [window.start for window in episode.windows] == [0, *(w.stop for w in episode.windows[:-1])]
            assert episode.windows[-1].stop == len(episode)
            assert len({category(window.task) for window in episode.windows}) == len(episode.windows)
            arrays = episode.load(("robot_obs", "scene_obs"))
            steps = np.linalg.norm(np.diff(arrays["robot_obs"][:, :3], axis=0), axis=1)
            assert steps.max() < 0.05, "a jump: something was reset"
            for window in episode.windows:
                assert window.instruction in training_instructions(window.task)
                moved = arrays["scene_obs"][window.stop - 1] - arrays["scene_obs"][window.start]
                assert abs(moved[CHANGED[FAMILY[window.task]]]) > 0.1, f"{window.task} is not in its window"
    assert told["tasks_in_a_row"] == dict(lengths)
    assert told["episodes"] == lengths.total() == 6
    assert lengths["2"] >= 4
    assert sum(one["solved"] for one in told["tasks"].values()) == 2 * lengths["2"] + lengths["1"]
    assert check(root).defects == ()


def test_chains_are_the_same_packed_and_by_other_workers(chains: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    theirs, _ = chains
    out = tmp_path / "packed"
    words = ["--tasks", ",".join(CHAIN_TASKS), "--episodes", "5", "--validation-episodes", "1", "--chain-length", "2"]
    command = ["collect", *words, "--no-depth", "--format", "packed", "--workers", "2", "--out", str(out)]
    assert cli.run([*command, "--quiet"]) == 0
    for split in SPLITS:
        for name in ("lang_annotations/auto_lang_ann.npy", "ep_start_end_ids.npy", "statistics.yaml"):
            assert (out / split / name).read_bytes() == (theirs / split / name).read_bytes()
        for one, other in zip(CalvinDataset(out, split).episodes, CalvinDataset(theirs, split).episodes, strict=True):
            packed, loaded = one.load(one.keys), other.load(other.keys)
            assert packed.keys() == loaded.keys()
            for key, array in loaded.items():
                np.testing.assert_array_equal(packed[key], array)


def test_one_collection_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with atomic.locked(tmp_path), pytest.raises(UserError, match="in use by another run"):
        collect(tmp_path, OPTIONS, workers=0, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scenes": "E"},
        {"scenes": "DD"},
        {"episodes": 0},
        {"noise": 2.0},
        {"tasks": ("fly",)},
        {"format": "zip"},
        {"chain_length": 0},
        {"chain_length": 12},
        {"tasks": ("turn_on_led", "turn_off_lightbulb"), "chain_length": 2},
    ],
)
def test_what_cannot_be_collected_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        CollectOptions(**wrong)


def test_instructions_are_embedded_by_the_sentence_model_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embeddings(out: Path) -> np.ndarray:
        path = out / "training" / "lang_annotations" / "auto_lang_ann.npy"
        return np.load(path, allow_pickle=True).item()["language"]["emb"]

    asked = []

    def embed(encoder: str, sentences: list[str]) -> np.ndarray:
        asked.append((encoder, len(sentences)))
        return np.ones((len(sentences), 384), np.float32)

    monkeypatch.setattr(demonstrations, "find_spec", lambda _: None)
    collect(tmp_path / "without", OPTIONS, workers=0, progress=False)
    assert np.isnan(embeddings(tmp_path / "without")).all()
    monkeypatch.setattr(demonstrations, "find_spec", lambda _: object())
    monkeypatch.setattr(demonstrations, "embed", embed)
    collect(tmp_path / "with", OPTIONS, workers=0, progress=False)
    assert (embeddings(tmp_path / "with") == 1).all()
    assert asked == [("minilm", 2), ("minilm", 1)]


def test_large_collections_are_dealt_out_in_jobs_that_keep_many_processes_busy() -> None:
    for episodes, size in ((20, 4), (6000, 23), (30_000, 64)):
        parts = demonstrations._parts(CollectOptions(scenes="ABC", episodes=episodes), Path("there"))
        training = [part for part in parts if part.split == "training"]
        assert sum(part.episodes for part in training) == episodes
        assert max(part.episodes for part in training) == size
        assert len({part.path for part in parts}) == len(parts)
