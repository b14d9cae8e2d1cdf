"""Measuring a policy's speed: the figures belong together, whatever the machine gives."""

from __future__ import annotations

import pytest

from bench.errors import UserError
from bench.perf.policy import measure


def test_the_figures_of_one_run_fit_together():
    result = measure("tiny", device="cpu", steps=10, batch=4, compiled=False, changes={"dim": 64})
    assert result["batch"] == 4
    assert result["device"] == "cpu"
    assert result["parameters"] < 2_000_000
    share = result["samples_per_s"] * result["gflop_per_sample"] / 1e3 / result["matmul_tflops"]
    assert result["share_of_matmul"] == pytest.approx(share)
    assert list(result["latency_ms"]) == ["1", "16", "64"]
    assert min(result["latency_ms"].values()) > 0


def test_too_few_steps_to_time_are_refused():
    with pytest.raises(UserError, match="at least 10"):
        measure("tiny", steps=9)
