"""The measurement of one environment."""

from __future__ import annotations

import pytest

from bench.errors import UserError
from bench.perf.env import measure


def test_measures_what_the_command_prints():
    result = measure(4, renderer="bullet-tiny")
    assert set(result) >= {
        "steps_per_s",
        "physics_steps_per_s",
        "per_view_ms",
        "renderer",
        "ratio_to_tiny",
        "construct_s",
        "reset_ms",
        "rss_mb",
    }
    assert result["renderer"] == "bullet-tiny"
    assert set(result["per_view_ms"]) == {"static", "gripper"}
    assert result["ratio_to_tiny"] > 0
    assert min(result["physics_steps_per_s"], result["steps_per_s"]) > 0


def test_no_steps_are_refused():
    with pytest.raises(UserError, match="at least 1"):
        measure(0)
