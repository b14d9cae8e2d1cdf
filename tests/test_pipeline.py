"""The main job, end to end, on demonstrations of the real world: small, but nothing in it is a stand-in."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench import cli
from bench.demonstrations import CollectOptions, collect

SUITE = {
    "name": "small_run",
    "data": {"source": "calvin", "paired_share": 0.4},
    "world_model": {"stage1_steps": 2, "stage2_steps": 2},
    "policy": {"scale": "tiny", "steps": 2},
    "arms": ["anchor", "paired", "generated", "real"],
    "rollout": {"chains": 2, "steps_per_subtask": 3, "bounds": ["random"]},
}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in CALVIN's format: three training episodes and one for validation."""
    out = tmp_path_factory.mktemp("demonstrations") / "dataset"
    options = CollectOptions(tasks=("turn_on_led", "close_drawer"), episodes=3, validation_episodes=1)
    result = collect(out, options, workers=0, progress=False)
    assert result["success_rate"] == 1.0
    return out


def write_suite(folder: Path, **changes: Any) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(SUITE | changes))
    return path


def command(suite: Path, dataset: Path, out: Path) -> list[str]:
    return ["run", str(suite), "--dataset", str(dataset), "--out", str(out), "--workers", "0", "--json"]


def last_object(text: str) -> dict[str, Any]:
    return json.loads(text.splitlines()[-1])


@pytest.fixture(scope="module")
def run(demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert cli.run([*command(write_suite(folder), demonstrations, folder / "out"), "--quiet"]) == 0
    return folder / "out"


def test_the_record_holds_what_others_read(run: Path) -> None:
    record = json.loads((run / "record.json").read_text())
    assert list(record["arms"]) == SUITE["arms"]
    for arm in record["arms"].values():
        assert 0 <= arm["average_length"] <= 5
        assert arm["interval"][0] <= arm["average_length"] <= arm["interval"][1]
        assert len(arm["chain_success"]) == 5
        assert (arm["chains"], arm["seeds"]) == (2, [0])
    for closure in record["gap_closure"].values():
        assert closure["value"] is None
        assert closure["reason"]
    assert record["arms"]["generated"]["train_wrist"] == {"real": 1, "generated": 2, "absent": 0}
    assert record["arms"]["anchor"]["train_wrist"] == {"real": 0, "generated": 0, "absent": 3}
    assert record["bounds"]["random"]["chains"] == 2
    assert np.isfinite([record["video"]["psnr"], record["video"]["ssim"]]).all()
    assert record["fingerprint"]["steps_per_subtask"] == 3
    assert record["fingerprint"]["renderer"]
    assert set(record["weights"]["policies"]) == {f"{arm}/0" for arm in [*SUITE["arms"], "random"]}
    assert record["weights"]["generators"]["wristworld"]["stage1"]["tracks"] == "simulator"
    assert {"stage1", "wristworld", "rollout"} <= set(record["timings"])


def test_every_chain_has_its_row(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "chains.jsonl").read_text().splitlines()]
    expected = {(arm, chain) for arm in [*SUITE["arms"], "random"] for chain in range(2)}
    assert {(row["arm"], row["chain_id"]) for row in rows} == expected
    assert all(row["solved"] == 0 and row["steps"] == [3] for row in rows)


def test_the_report_shows_the_four_views(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "data:image/webp" in page
    assert "condition map" in page
    assert (run / "figures" / "gallery.png").stat().st_size > 1000


def test_a_second_run_does_no_work_twice(run: Path, demonstrations: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.glob("stages/**/*") if path.is_file()}
    suite = run.parent / "suite.yaml"
    assert cli.run(command(suite, demonstrations, run)) == 0
    out, err = capfd.readouterr()
    assert last_object(out)["name"] == "small_run"
    assert ": running" not in err
    after = {path: path.stat().st_mtime_ns for path in run.glob("stages/**/*") if path.is_file()}
    assert after == before


def test_a_changed_suite_runs_only_what_changed(
    run: Path, demonstrations: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "out"
    shutil.copytree(run, copied)
    suite = write_suite(tmp_path, policy={"scale": "tiny", "steps": 3}, arms=["anchor", "real"])
    assert cli.run(command(suite, demonstrations, copied)) == 0
    said = capfd.readouterr().err
    assert "dataset: already done" in said
    assert "train-anchor-0: running" in said
    assert "stage1" not in said, "no arm of this suite needs the world model"


def spoil_frame(dataset: Path) -> str:
    path = sorted((dataset / "training").glob("episode_*.npz"))[5]
    path.write_bytes(path.read_bytes()[:500])
    return path.name


def drop_frame(dataset: Path) -> str:
    path = sorted((dataset / "training").glob("episode_*.npz"))[5]
    path.unlink()
    return path.name


def put_nan(dataset: Path) -> str:
    path = sorted((dataset / "training").glob("episode_*.npz"))[5]
    with np.load(path) as frame:
        arrays = dict(frame)
    arrays["robot_obs"][3] = np.nan
    np.savez_compressed(path, **arrays)
    return path.name


def drop_key(dataset: Path) -> str:
    path = sorted((dataset / "validation").glob("episode_*.npz"))[5]
    with np.load(path) as frame:
        arrays = {key: frame[key] for key in frame if key != "rgb_gripper"}
    np.savez_compressed(path, **arrays)
    return path.name


def foreign_code(dataset: Path) -> str:
    path = dataset / "training" / "lang_annotations" / "auto_lang_ann.npy"
    array = np.empty((), dtype=object)
    array[()] = os.getcwd
    np.save(path, array, allow_pickle=True)
    return path.name


@pytest.mark.parametrize("damage", [spoil_frame, drop_frame, put_nan, drop_key, foreign_code])
def test_a_damaged_data_set_is_refused_in_one_line(
    demonstrations: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Any
) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(demonstrations, dataset)
    named = damage(dataset)
    suite = write_suite(tmp_path, arms=["anchor", "real"])
    assert cli.run(command(suite, dataset, tmp_path / "out")) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "record.json").exists()
    assert not list((tmp_path / "out").glob("stages/*/stage.json"))


def comparable(out: Path) -> dict[str, Any]:
    """What must not depend on how often a run was killed: everything but times."""
    record = json.loads((out / "record.json").read_text())
    rows = [json.loads(line) for line in (out / "chains.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("wall_s")
    kept = {key: record[key] for key in ("arms", "bounds", "gap_closure", "video", "suite")}
    weights = {path.parent.name: path.read_bytes() for path in out.glob("stages/train-*/model.safetensors")}
    return {**kept, "rows": rows, "weights": weights}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_like_an_undisturbed_one(
    run: Path, demonstrations: Path, tmp_path: Path
) -> None:
    suite, out, rng = write_suite(tmp_path), tmp_path / "out", random.Random(0)
    arguments = [sys.executable, "-c", "from bench.cli import main; main()", *command(suite, demonstrations, out)]
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True
        )
        try:
            _, err = process.communicate(timeout=rng.uniform(5, 12) + 2 * kills)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            time.sleep(0.1)
            continue
        assert process.returncode == 0, err
        break
    assert kills > 0
    assert comparable(out) == comparable(run)
