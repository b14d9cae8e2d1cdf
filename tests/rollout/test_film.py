"""Films of chains: which are kept, what they show, and that filming changes no result."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from rollout_doubles import TASKS, chains

from bench.errors import UserError
from bench.rollout.film import GREEN, LINE, SIDE, SOLVED_FRAMES, Film, Films, composed, new_film
from bench.rollout.sources import PolicySource
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions


def run(out: Path, films: Films, **options):
    return roll_out(
        PolicySource("rollout_doubles:NoisyPolicy", {"mean": 0.9}),
        chains(4),
        arm="real",
        seed=3,
        workers=0,
        out=out,
        world=WorldOptions(factory="rollout_doubles:PointWorld"),
        steps_per_subtask=11,
        instructions={task: f"please {task}" for task in TASKS},
        progress=False,
        films=films,
        **options,
    )


@pytest.mark.parametrize("films", ["none", "failures", "successes", "all"])
def test_kept_films_have_every_step_and_change_nothing(tmp_path: Path, films: Films) -> None:
    rows = run(tmp_path, films)
    assert rows == run(tmp_path / "quiet", "none")
    assert len({row.solved == 5 for row in rows}) == 2
    kept = [row for row in rows if films == "all" or ((films == "successes") == (row.solved == 5) and films != "none")]
    names = {f"real-seed3-chain{row.chain_id:04d}-solved{row.solved}.mp4": row for row in kept}
    assert {path.name for path in tmp_path.glob("films/*")} == set(names)
    for name, row in names.items():
        with av.open(str(tmp_path / "films" / name)) as film:
            pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert len(pictures) == sum(row.steps) + (SOLVED_FRAMES - 1) * row.solved
        assert pictures[0].shape == (SIDE + LINE, 2 * SIDE, 3)


def test_picture_shows_both_views_and_marks_success() -> None:
    views = {"rgb_static": np.full((8, 8, 3), 10, np.uint8), "rgb_gripper": np.full((4, 4, 3), 200, np.uint8)}
    plain, marked = composed(views, "1. go", False), composed(views, "1. go", True)
    assert (plain[SIDE // 2, SIDE // 2] == 10).all()
    assert (plain[SIDE // 2, SIDE + SIDE // 2] == 200).all()
    assert tuple(marked[1, 1]) == GREEN
    assert plain[SIDE:].max() > 200


def test_rerun_that_is_not_there_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UserError, match="pip install rerun-sdk"):
        new_film("rrd")
    assert isinstance(new_film("mp4"), Film)


def test_rerun_recording_has_every_step(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    rows = run(tmp_path, "all", film_format="rrd")
    files = sorted((tmp_path / "films").iterdir())
    assert [path.suffix for path in files] == [".rrd"] * 4
    assert all(path.read_bytes().startswith(b"RRF") for path in files)
    longest = max(rows, key=lambda row: sum(row.steps))
    assert max(files, key=lambda path: path.stat().st_size).name.split("-")[2] == f"chain{longest.chain_id:04d}"
