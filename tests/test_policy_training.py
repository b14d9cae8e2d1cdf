"""Training several arms on one data set: each gets its folder, its wrist views and its scores on what it never saw."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from bench.errors import UserError
from bench.policy_training import TrainOptions, train_policies
from bench.suite import PolicyPart
from policies.api import PolicyError

FRAMES = 8
"""Of each episode of the data set."""

TINY = PolicyPart(kind="flow", scale="tiny", steps=2, batch=2)


def test_every_arm_is_trained_scored_and_kept(noise_dataset: Path, tmp_path: Path) -> None:
    options = TrainOptions(arms=("anchor", "paired"), paired_share=0.4, policy=TINY, workers=0, progress=False)
    result = train_policies(noise_dataset, tmp_path, options)
    anchor, paired = (result["policies"][name] for name in ("anchor-0", "paired-0"))
    assert anchor["demonstrations"] == 5
    assert anchor["wrist"] == {"real": 0, "generated": 0, "absent": 5}
    assert paired["wrist"] == {"real": 2, "generated": 0, "absent": 3}
    assert anchor["wrist_shuffled"] is None, "an arm without a wrist view has none to shuffle"
    assert paired["wrist_shuffled"]["samples"] == paired["validation"]["samples"] == 2 * (FRAMES - 1)
    assert set(anchor["validation"]["task_error"]) == {"open_drawer"}
    assert {path.name for path in tmp_path.iterdir()} >= {"anchor-0", "paired-0", "training.json"}
    assert Image.open(tmp_path / "loss.png").size[0] > 500
    weights = (tmp_path / "anchor-0" / "model.safetensors").stat().st_mtime_ns
    again = train_policies(noise_dataset, tmp_path, options)
    assert (tmp_path / "anchor-0" / "model.safetensors").stat().st_mtime_ns == weights
    assert again["policies"]["anchor-0"]["seconds"] == anchor["seconds"], "reading a policy is not training it"


def test_a_training_ends_with_its_time_and_says_how_it_was_launched(noise_dataset: Path, tmp_path: Path) -> None:
    long = TINY.model_copy(update={"steps": 1_000_000})
    options = TrainOptions(arms=("real",), policy=long, workers=0, progress=False, time_limit_s=0.3, launch="eager")
    train_policies(noise_dataset, tmp_path, options)
    training = json.loads((tmp_path / "real-0" / "config.json").read_text())["training"]
    assert 1 <= training["steps_done"] < 1_000_000
    assert training["launch"] == "eager"


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_done(
    noise_dataset: Path, tmp_path: Path
) -> None:
    if find_spec("trackio") is not None:
        pytest.skip("trackio is installed here")
    with pytest.raises(PolicyError, match="pip install trackio"):
        train_policies(
            noise_dataset, tmp_path / "none", TrainOptions(policy=TINY, workers=0, progress=False, log="trackio")
        )
    assert not (tmp_path / "none").exists()


def test_a_learning_curve_s_smaller_sets_are_trained_on_fewer_windows(noise_dataset: Path, tmp_path: Path) -> None:
    samples = {}
    for count in (2, 4, None):
        fewer = TINY.model_copy(update={"demonstrations": count})
        options = TrainOptions(arms=("real",), policy=fewer, workers=0, progress=False)
        trained = train_policies(noise_dataset, tmp_path / str(count), options)["policies"]["real-0"]
        samples[count] = (trained["samples"], trained["wrist"]["real"])
        assert trained["validation"]["samples"] == 2 * (FRAMES - 1), "scored on the same frames"
    assert samples == {2: (2 * (FRAMES - 1), 2), 4: (4 * (FRAMES - 1), 4), None: (5 * (FRAMES - 1), 5)}
    with pytest.raises(UserError, match="expected 1 to 5"):
        many = TrainOptions(arms=("real",), policy=PolicyPart(demonstrations=6), workers=0, progress=False)
        train_policies(noise_dataset, tmp_path / "many", many)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"arms": ("generated",)}, "--overlay"),
        ({"arms": ("anchor", "anchor")}, "each once"),
        ({"seeds": ()}, "at least one"),
        ({"paired_share": 1.0}, "0 < share < 1"),
        ({"arms": ("wrist",)}, "unknown arm"),
        ({"time_limit_s": 0.0}, "more than 0 seconds"),
    ],
)
def test_what_cannot_be_trained_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainOptions(**wrong)  # type: ignore[arg-type]
