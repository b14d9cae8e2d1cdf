from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.training_bars import HISTORY, last_row, training_bars


def test_the_newest_whole_row_with_a_loss_counts(tmp_path: Path) -> None:
    history = tmp_path / HISTORY
    assert last_row(history) is None
    rows = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}, {"step": 20, "validation": {}}]
    history.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 30, "lo')
    assert last_row(history) == (20, 0.25)


def test_the_bars_show_where_a_training_stands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / HISTORY).write_text('{"step": 40, "loss": 0.125}\n')
    with training_bars({"anchor-0": tmp_path}, {".": 160}, show=True):
        pass
    shown = capfd.readouterr().err
    assert "40/160" in shown
    assert "0.1250" in shown


def test_a_training_of_two_stages_has_two_bars(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "predictor").mkdir()
    (tmp_path / "predictor" / HISTORY).write_text('{"step": 30, "loss": 0.75}\n')
    with training_bars({"anchor-0": tmp_path}, {"predictor": 90, ".": 160}, show=True):
        pass
    shown = capfd.readouterr().err
    assert "anchor-0 predictor" in shown
    assert "30/90" in shown
    assert "0/160" in shown


def test_no_bars_where_nothing_is_to_be_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with training_bars({"anchor-0": tmp_path}, {".": 160}, show=False):
        pass
    assert capfd.readouterr().err == ""
