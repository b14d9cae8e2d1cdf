"""The video policy where other policies are used: trained by arms, measured, refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UserError
from bench.perf.policy import PolicyPerf, measure, parse_changes
from bench.policy_training import TrainOptions, policy_config, train_policies
from bench.suite import PolicyPart
from policies.api import PolicyError
from policies.registry import load_policy

TINY = PolicyPart(kind="vpp", scale="tiny", steps=2, batch=2, video_steps=2)


def test_arms_are_trained_with_a_predictor_each(noise_dataset: Path, tmp_path: Path) -> None:
    options = TrainOptions(arms=("anchor", "paired"), paired_share=0.5, policy=TINY, workers=0, progress=False)
    trained = train_policies(noise_dataset, tmp_path / "out", options)["policies"]
    for name in ("anchor-0", "paired-0"):
        before = trained[name]["before"]
        assert before["steps_done"] == 2
        assert before["validated_on"] == "validation"
        assert before["validation"]["copy_error"] > 0
        assert (tmp_path / "out" / name / "predictor" / "model.safetensors").is_file()
    anchor = load_policy(tmp_path / "out" / "anchor-0", expect_arm="anchor", views=("anchor",))
    assert (anchor.spec.name, anchor.spec.views) == ("vpp-tiny", ("anchor",))
    with pytest.raises(PolicyError, match="missing"):
        load_policy(tmp_path / "out" / "paired-0", views=("anchor",))


def test_a_suite_s_part_becomes_the_configuration() -> None:
    config = policy_config(TINY)
    assert (config.kind, config.training.steps, config.training.batch) == ("vpp", 2, 2)
    assert config.stages() == {"predictor": 2, ".": 2}
    paper = policy_config(PolicyPart(kind="vpp", scale="paper", video_weights="somewhere"))
    assert paper.to_json()["weights"] == "somewhere"
    assert list(paper.stages()) == ["."]


def test_its_speed_is_measured_as_the_others_is() -> None:
    changes = parse_changes(["frames=1", "anchor_size=16", "wrist_size=16"], "vpp")
    result = measure(PolicyPerf(kind="vpp", scale="tiny", parts=("latency",), device="cpu", changes=changes))
    assert result["failed"] == {}
    assert set(result["latency_ms"]) == {"1", "16", "64"}
    with pytest.raises(UserError, match="expected NAME=VALUE"):
        parse_changes(["frames=1"])
