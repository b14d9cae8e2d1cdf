"""The report says what the record says: values where there are values, dashes and reasons where there are none."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.report import GalleryClip, gallery, tables, write_report


@pytest.fixture
def record(arm: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "demo",
        "arms": {"anchor": arm(3.67), "generated": arm(3.81), "real": arm(None)},
        "bounds": {"expert": arm(5.0)},
        "gap_closure": {
            "generated": {"value": 0.4242, "interval": [0.1, 0.7], "reason": None},
            "paired": {"value": None, "interval": None, "reason": "the gap's interval includes 0"},
        },
        "video": {"psnr": 14.2, "generators": {"wristworld": {"psnr": 14.2, "ssim": 0.41, "frames": 96}}},
        "fingerprint": {"renderer": "llvmpipe"},
        "timings": {"collect": 3.0},
    }


def clip(frames: int = 3, **panels: Any) -> GalleryClip:
    rng = np.random.default_rng(0)
    sizes = {"anchor": 200, "true wrist": 84, "condition map": 64, "generated": 84} | panels
    return GalleryClip(
        "episode 7",
        {n: rng.integers(0, 255, (frames, s, s, 3), dtype=np.uint8) for n, s in sizes.items() if s},
        psnr=14.2,
    )


def test_missing_is_a_dash_and_never_zero(record: dict[str, Any]) -> None:
    rows = {row[0]: row for row in tables.arm_rows(record)}
    assert rows["real"][1:8] == (tables.MISSING,) * 7
    assert rows["anchor"][1] == "3.67"
    assert "expert" in rows


def test_missing_chains_are_told_with_the_bounds_of_what_they_may_have_been(record: dict[str, Any]) -> None:
    assert tables.missing_lines(record) == []
    record["arms"]["generated"] |= {"missing": 3, "bounds": [3.2, 4.1]}
    record["arms"]["real"] |= {"missing": 16}
    with_bounds, without = tables.missing_lines(record)
    assert "`generated`: 3 chains could not be run" in with_bounds
    assert "3.20 … 4.10" in with_bounds
    assert without.endswith("are in no number.")


def test_a_closure_without_value_says_why(record: dict[str, Any]) -> None:
    with_value, without = tables.closure_lines(record)
    assert "42.4 %" in with_value
    assert "includes 0" in without


def test_subtasks_are_told_by_family_with_how_many_were_attempted(tmp_path: Path, record: dict[str, Any]) -> None:
    def score(successes: int, attempts: int) -> dict[str, Any]:
        return {"attempts": attempts, "successes": successes, "rate": successes / attempts, "interval": [0.1, 0.9]}

    record["arms"]["anchor"]["families"] = {"led": score(1, 4)}
    record["arms"]["real"]["families"] = {"led": score(3, 4), "stack": score(0, 2)}
    columns, rows = tables.subtask_table(record, "families")
    assert columns == ("family", "anchor", "generated", "real")
    assert rows == [
        ("led", "25 % of 4", tables.MISSING, "75 % of 4"),
        ("stack", tables.MISSING, tables.MISSING, "0 % of 2"),
    ]
    write_report(record, [], tmp_path)
    assert "25 % of 4" in (tmp_path / "report.md").read_text()
    assert "75 % of 4" in (tmp_path / "report.html").read_text()
    assert Image.open(tmp_path / "figures" / "families.png").size[0] > 1000


def test_bounds_and_the_gap_stand_beside_the_arms(tmp_path: Path, record: dict[str, Any]) -> None:
    for arm, successes in ((record["arms"]["anchor"], 1), (record["arms"]["real"], 3), (record["bounds"]["expert"], 4)):
        for key in ("families", "tasks"):
            arm[key] = {"led": {"attempts": 4, "successes": successes, "rate": successes / 4, "interval": [0.1, 0.9]}}
    record["arms"]["real"]["families"]["stack"] = {"attempts": 0, "successes": 0, "rate": None, "interval": [0, 1]}
    gap = {"led": {"value": 0.5, "interval": [-0.001, 0.9]}, "stack": {"value": None, "interval": None}}
    record["gap"] = {"value": 0.41, "interval": [0.1, 0.7], "chains": 16, "seeds": 3, "families": gap, "tasks": gap}
    columns, rows = tables.subtask_table(record, "families")
    assert columns == ("family", "anchor", "generated", "real", "expert", tables.GAP_COLUMN)
    assert rows[0] == ("led", "25 % of 4", tables.MISSING, "75 % of 4", "100 % of 4", "+50 (+0 … +90)")
    assert rows[1][-1] == tables.MISSING
    assert "+0.41 subtasks (95 % interval +0.10 … +0.70; 16 chains, 3 seeds)" in tables.closure_lines(record)[0]
    write_report(record, [], tmp_path)
    for page in ("report.md", "report.html"):
        assert "+50 (+0 … +90)" in (tmp_path / page).read_text()
    gap["led"]["interval"] = None  # type: ignore[assignment]
    assert tables.subtask_table(record, "tasks")[1][0][-1] == "+50 (—)"


def test_the_wrist_shuffled_check_has_a_row_for_each_arm_and_missing_is_missing(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    known = {"action_error": [0.1, 0.3], "gripper_accuracy": [0.9, 1.0], "samples": 8}
    record["arms"]["generated"]["offline"] = known | {"action_error_shuffled": [0.2, 0.4]}
    record["arms"]["anchor"]["offline"] = known | {"action_error_shuffled": None}
    assert tables.offline_rows(record) == [
        ("anchor", "0.200", tables.MISSING, "95.0 %", "8 × 2"),
        ("generated", "0.200", "0.300 (+50 %)", "95.0 %", "8 × 2"),
        ("real", tables.MISSING, tables.MISSING, tables.MISSING, tables.MISSING),
    ]
    record["arms"]["real"]["offline"] = known | {"action_error_shuffled": [0.15, 0.21]}
    assert tables.offline_rows(record)[2][2] == "0.180 (-10 %)"
    assert tables.task_error_table(record)[1] == []
    record["arms"]["real"]["offline"]["task_error"] = {"stack_block": [0.25, 0.35]}
    assert tables.task_error_table(record)[1] == [("stack_block", tables.MISSING, tables.MISSING, "0.300")]
    write_report(record, [], tmp_path)
    for page in ("report.md", "report.html"):
        assert "0.300 (+50 %)" in (tmp_path / page).read_text()
        assert "stack_block" in (tmp_path / page).read_text()


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path: Path, record: dict[str, Any]) -> None:
    files = write_report(record, [clip(), clip(4)], tmp_path)
    assert all(path.stat().st_size > 0 for path in files)
    page = (tmp_path / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert len(links.sources) == 3
    assert all(source.startswith("data:image/") for source in links.sources)
    assert "<b>bold</b>" not in page
    assert "42.4 %" in page
    assert "3.81" in (tmp_path / "report.md").read_text()


def test_the_animation_has_every_moment_and_the_panels_in_order() -> None:
    shown = Image.open(io.BytesIO(gallery.animation(clip(5))))
    assert shown.n_frames == 5
    red = np.zeros((2, 84, 84, 3), np.uint8)
    red[..., 0] = 255
    picture = np.asarray(gallery.tile(GalleryClip("x", {"generated": red}), 0, header=False))
    assert (picture[:, 3 * (gallery.SIDE + gallery.GAP) :] == (255, 0, 0)).all()
    assert not (picture[:, : gallery.SIDE] == (255, 0, 0)).all(axis=-1).any()


def test_the_losses_are_drawn_and_stay_when_the_report_is_written_again(tmp_path: Path, record: dict[str, Any]) -> None:
    folders = {f"{arm}-{seed}": tmp_path / f"{arm}{seed}" for arm in ("anchor", "real") for seed in (0, 1)}
    for folder in folders.values():
        folder.mkdir()
        rows = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5}, {"step": 20, "validation": {"loss": 0.6}}]
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(record, [], tmp_path)
    assert "training.png" not in (tmp_path / "report.md").read_text()
    write_report(record, [], tmp_path, folders)
    assert Image.open(tmp_path / "figures" / "training.png").size[0] > 500
    pages = [(tmp_path / name).read_text() for name in ("report.md", "report.html")]
    assert all("Loss of each training" in page for page in pages)
    write_report(record, [], tmp_path)
    assert [(tmp_path / name).read_text() for name in ("report.md", "report.html")] == pages


def test_a_report_without_clips_has_no_gallery(tmp_path: Path, record: dict[str, Any]) -> None:
    write_report(record, [], tmp_path)
    assert not (tmp_path / "figures" / "gallery.png").exists()
    assert "gallery.png" not in (tmp_path / "report.md").read_text()
