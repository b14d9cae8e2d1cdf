"""Collecting: what is cut short goes on with the same options only, and one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import atomic, demonstrations
from bench.data.calvin import CalvinDataset
from bench.demonstrations import CollectOptions, collect
from bench.errors import UserError

OPTIONS = CollectOptions(tasks=("turn_on_led",), episodes=2, validation_episodes=1, depth=False)


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


def test_a_collection_goes_on_with_its_own_options_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "data"
    cut_short(out, monkeypatch)
    other = CollectOptions(tasks=("turn_off_led",), episodes=2, validation_episodes=1, depth=False, seed=1)
    with pytest.raises(UserError, match=r"tasks .*seed"):
        collect(out, other, workers=0, progress=False)
    assert not (out / "training").exists()
    made = list((out / "parts").glob("*.npz"))
    before = [path.stat().st_mtime_ns for path in made]
    monkeypatch.setattr(demonstrations.shutil, "rmtree", lambda *_: None)
    result = collect(out, OPTIONS, workers=0, progress=False)
    assert [path.stat().st_mtime_ns for path in made] == before
    assert result["episodes"] == 3
    assert [window.task for _, window in CalvinDataset(out).windows] == ["turn_on_led"] * 2


def test_one_collection_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with atomic.locked(tmp_path), pytest.raises(UserError, match="in use by another run"):
        collect(tmp_path, OPTIONS, workers=0, progress=False)


@pytest.mark.parametrize(
    "wrong", [{"scenes": "E"}, {"scenes": "DD"}, {"episodes": 0}, {"noise": 2.0}, {"tasks": ("fly",)}]
)
def test_what_cannot_be_collected_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        CollectOptions(**wrong)
