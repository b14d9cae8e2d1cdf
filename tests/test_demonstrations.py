"""Collecting: the same bytes whoever writes them, and what is cut short goes on with the same options only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench import atomic, demonstrations
from bench.data.calvin import CalvinDataset
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


def test_one_collection_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with atomic.locked(tmp_path), pytest.raises(UserError, match="in use by another run"):
        collect(tmp_path, OPTIONS, workers=0, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [{"scenes": "E"}, {"scenes": "DD"}, {"episodes": 0}, {"noise": 2.0}, {"tasks": ("fly",)}, {"format": "zip"}],
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
