"""Measuring a policy's speed: the figures belong together, whatever the machine gives."""

from __future__ import annotations

import json

import pytest
import torch

from bench.cli import run
from bench.errors import UserError
from bench.perf import policy as perf_policy
from bench.perf.policy import PolicyPerf, measure, parse_changes
from bench.perf.roofline import work_per_sample

TINY = {"scale": "tiny", "device": "cpu", "steps": 10, "batch": 4, "changes": {"dim": 64}}


def test_the_figures_of_one_run_fit_together():
    result = measure(PolicyPerf(**TINY))
    assert (result["batch"], result["device"], result["launch"], result["failed"]) == (4, "cpu", "eager", {})
    assert result["parameters"] < 2_000_000
    share = result["samples_per_s"] * result["gflop_per_sample"] / 1e3 / result["matmul_tflops"]
    assert result["share_of_matmul"] == pytest.approx(share)
    moved = result["samples_per_s"] * result["product_mb_per_sample"] / 1e3 / result["copy_gb_per_s"]
    assert result["share_of_copy"] == pytest.approx(moved)
    assert result["first_step_s"] > 0
    assert list(result["latency_ms"]) == ["1", "16", "64"]
    assert min(result["latency_ms"].values()) > 0


def test_trainings_side_by_side_are_added_up():
    result = measure(PolicyPerf(**TINY, parts=("train",), parallel=2))
    assert result["parallel"] == 2
    assert len(result["samples_per_s_each"]) == 2
    assert result["samples_per_s"] == pytest.approx(sum(result["samples_per_s_each"]))
    assert "latency_ms" not in result


def test_a_part_that_fails_is_named_and_the_other_is_there(monkeypatch):
    def crash(*_):
        raise torch.OutOfMemoryError("no\nmemory")

    monkeypatch.setattr(perf_policy, "_training", crash)
    result = measure(PolicyPerf(**TINY))
    assert result["failed"] == {"train": "OutOfMemoryError: no memory"}
    assert result["latency_ms"]
    with pytest.raises(UserError, match="train: OutOfMemoryError: no memory"):
        measure(PolicyPerf(**TINY, parts=("train",)))


@pytest.mark.slow
def test_a_training_beside_others_that_fails_ends_them_all():
    with pytest.raises(UserError, match="train: launch 'graph' needs a GPU"):
        measure(PolicyPerf(**TINY, parts=("train",), parallel=2, launch="graph"))


def test_a_sample_s_work_is_that_of_its_layers():
    small, wide = PolicyPerf(scale="tiny").config, PolicyPerf(scale="tiny", changes={"width": 32}).config
    works = [work_per_sample(config, perf_policy._arrays(config, 8, 0), half=False) for config in (small, wide)]
    assert 1.5 < works[1].flop / works[0].flop < 4
    halved = work_per_sample(small, perf_policy._arrays(small, 8, 0), half=True)
    assert halved.flop == works[0].flop
    assert halved.product_bytes == pytest.approx(works[0].product_bytes / 2, rel=0.2)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [({"steps": 9}, "at least 10"), ({"parallel": 0}, "at least 1 training"), ({"parts": ("speed",)}, "got speed")],
)
def test_what_cannot_be_timed_is_refused(wrong, complaint):
    with pytest.raises(UserError, match=complaint):
        PolicyPerf(**{**TINY, **wrong})


def test_changes_are_read_from_text():
    assert parse_changes(["stem_stride=2", "head=regression"]) == {"stem_stride": 2, "head": "regression"}
    for wrong in ("stride=2", "width", "training=1"):
        with pytest.raises(UserError, match="expected NAME=VALUE"):
            parse_changes([wrong])


def test_the_verb_prints_one_object(capsys, monkeypatch):
    line = "wristbench perf policy --scale tiny --device cpu --parts latency --change dim=64 --json"
    monkeypatch.setattr("sys.argv", line.split())
    assert run() == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["latency_ms"]) == {"1", "16", "64"}
