"""What is measured of a collection."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import atomic
from bench.demonstrations import CollectOptions
from bench.errors import UserError
from bench.perf.collect import _PREFIX, _thrown_away, measure

OPTIONS = CollectOptions(tasks=("turn_on_led",), episodes=1, validation_episodes=1, depth=False)


def test_every_form_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    result = measure(OPTIONS, workers=[0], folder=tmp_path, progress=False)
    assert [(run["format"], run["workers"]) for run in result["runs"]] == [("calvin", 0), ("packed", 0)]
    first, second = result["runs"]
    assert first["frames"] == second["frames"] > 20
    assert first["megabytes"] < second["megabytes"]
    for run in result["runs"]:
        assert run["frames_per_minute"] == pytest.approx(60 * run["frames"] / run["seconds"], rel=0.02)
        assert run["timings"]["parts"] + run["timings"]["joining"] == pytest.approx(run["seconds"], abs=0.03)
        assert set(run["shares"]) == {"physics", "drawing", "expert", "writing"}
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        measure(OPTIONS, workers=[])


def test_what_a_killed_measurement_left_goes_and_what_a_living_one_uses_stays(tmp_path: Path) -> None:
    dead, used, other = (tmp_path / name for name in (f"{_PREFIX}dead", f"{_PREFIX}used", "tmp_of_somebody"))
    for folder in (dead, used, other):
        folder.mkdir()
        (folder / "data").write_text("x" * 100)
    with atomic.locked(used), _thrown_away(tmp_path) as place:
        assert not dead.exists()
        assert {path.name for path in tmp_path.iterdir()} == {used.name, other.name, place.parent.name}
    assert (used / "data").exists()
    assert not place.parent.exists()
