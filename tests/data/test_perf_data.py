"""The measurement of reading speeds runs, on a made and on a given data set; figures themselves are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.data.calvin.pack import pack_dataset
from bench.errors import UserError
from bench.perf import data as perf_data
from bench.perf.data import measure


def test_every_way_is_measured_and_an_absent_peer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_data, "_WINDOWS", 200)
    monkeypatch.setenv("WRISTBENCH_LEROBOT_PYTHON", "/nonexistent/python")
    result = json.loads(json.dumps(measure(frames=40, seconds=0.02), allow_nan=False))
    assert result["frames"] == 40
    for way in ("packed", "frame_files", "lerobot_videos"):
        for rate in result["frames_per_s"][way].values():
            assert rate["per_s"] > 0
    assert result["peers_frames_per_s"]["calvin_np_load"]["random_frames"]["per_s"] > 0
    assert "did not run" in result["peers_frames_per_s"]["lerobot_loader"]["absent"]
    assert "packed / calvin_np_load, random_windows" in result["ratios"]
    assert result["index_memory_mb"]["peak"] < 200


def test_a_packed_or_short_data_set_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    pack_dataset(tiny_root, tmp_path / "packed")
    with pytest.raises(UserError, match="frame files"):
        measure(tmp_path / "packed")


@pytest.mark.parametrize("settings", [{"frames": 0}, {"frames": 31}, {"seconds": 0.0}])
def test_nothing_to_measure_is_refused_before_anything_is_made(settings):
    with pytest.raises(UserError, match="perf data: expected at least 32 frames and some time"):
        measure(**settings)
