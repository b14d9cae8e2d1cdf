"""What is compared: a suite, its arms and its presets, read from YAML and argued with before anything runs.

This file is the experiment; ``bench/rollout/chain.py`` is the loop and ``bench/metrics/closure.py`` makes the number.
Nothing is executed here: ``bench/stages.py`` turns a suite into stages.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.errors import UserError

MAX_SEED = 2**31 - 1
"""Largest seed: a suite's plus ``--seed`` must still fit every generator that is seeded with it."""

SUITES = Path(__file__).parent / "suites"

Wrist = Literal["none", "paired", "real", "filled", "mixed"]
"""Where a demonstration's wrist view comes from: nowhere; the paired share alone; the recordings of all; the paired
share's recordings with the rest generated; recordings of a share p with the rest generated."""

GENERATOR_ARMS = ("projection", "pix2pix", "mean")
"""Arms named after the generator that fills the unpaired share (``worldmodel/baselines.py``)."""


@dataclass(frozen=True)
class Arm:
    """One side of the comparison: what the wrist view is in training and at test.

    Attributes:
        name: as in the suite and in every table.
        train: where the wrist views of the training demonstrations come from.
        test: what the policy is shown at test.
        generator: what generates missing wrist views, or None.
        share: for ``mixed-p``, the share of demonstrations with a real wrist recording.
        says: what the arm is evidence for.
    """

    name: str
    train: Wrist
    test: Literal["none", "real", "generated"]
    generator: str | None = None
    share: float | None = None
    says: str = ""


_ARMS = {
    arm.name: arm
    for arm in (
        Arm("anchor", "none", "none", says="lower bound: same network, wrist view absent"),
        Arm("real", "real", "real", says="upper bound: every wrist recording"),
        Arm("paired", "paired", "real", says="honest baseline: wrist only where recorded, no world model"),
        Arm("generated", "filled", "real", "wristworld", says="data gain: missing wrist views generated"),
        Arm("generated-loop", "filled", "generated", "wristworld", says="representation gain: no wrist camera at test"),
        *(Arm(name, "filled", "real", name, says=f"missing wrist views from {name!r}") for name in GENERATOR_ARMS),
    )
}


def parse_arm(name: str) -> Arm:
    """Return the arm of that name; ``mixed-p`` takes a share between 0 and 1, such as ``mixed-0.5``.

    Raises:
        UserError: no such arm; the message lists the arms and the nearest one.
    """
    if name in _ARMS:
        return _ARMS[name]
    mixed = re.fullmatch(r"mixed-(0?\.\d+)", name)
    if mixed:
        return Arm(name, "mixed", "real", "wristworld", float(mixed[1]), f"{float(mixed[1]):.0%} real, rest generated")
    near = difflib.get_close_matches(name, _ARMS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"unknown arm {name!r}: expected one of {', '.join(_ARMS)} or mixed-P with 0 < P < 1{hint}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataPart(_Part):
    """Where demonstrations come from.

    Attributes:
        source: ``collect`` (scripted experts in the CALVIN world) or ``calvin`` (a folder given by ``--dataset``).
        scenes: scenes to collect in, e.g. ``"D"`` or ``"ABC"``.
        tasks: tasks to collect, or ``all``.
        episodes: demonstrations to collect for training; chains of them where ``chain_length`` is more than 1.
        validation_episodes: the same for validation (never trained on).
        chain_length: tasks in a row without a reset in an episode, as the evaluation has them.
        noise: disturbances of what the expert executes, as a share of the action limit; labels stay clean.
        format: how collected frames are kept: ``calvin``, a compressed file each, or ``packed``, memory-mapped.
        paired_share: share of training episodes with wrist recordings, the world model's only training data.
    """

    source: Literal["collect", "calvin"] = "collect"
    scenes: str = Field("D", pattern="^[ABCD]+$")
    tasks: tuple[str, ...] | Literal["all"] = "all"
    episodes: int = Field(48, ge=2)
    validation_episodes: int = Field(8, ge=1)
    chain_length: int = Field(1, ge=1)
    noise: float = Field(0.0, ge=0.0, le=1.0)
    format: Literal["calvin", "packed"] = "calvin"
    paired_share: float = Field(0.2, gt=0.0, lt=1.0)

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: tuple[str, ...] | str) -> tuple[str, ...] | str:
        from bench.calvin.tasks import TASKS

        unknown = [] if isinstance(tasks, str) else [task for task in tasks if task not in TASKS]
        if unknown:
            near = difflib.get_close_matches(unknown[0], TASKS, n=3)
            raise ValueError(f"unknown task {unknown[0]!r}; close matches: {', '.join(near) or 'none'}")
        return tasks


class WorldModelPart(_Part):
    """The wrist-view generator: a scale, and how long to train it.

    Attributes:
        scale: ``tiny`` (CPU), ``small`` (one GPU) or ``paper`` (VGGT-1B + Wan2.1-T2V-1.3B + CLIP ViT-H/14).
        stage1_steps: training steps of stage 1, or the scale's default.
        stage2_steps: training steps of stage 2, or the scale's default.
        stride: episode frames between two frames of a clip.
    """

    scale: Literal["tiny", "small", "paper"] = "tiny"
    stage1_steps: int | None = Field(None, ge=1)
    stage2_steps: int | None = Field(None, ge=1)
    stride: int = Field(1, ge=1)


class PolicyPart(_Part):
    """The policy trained for each arm.

    Attributes:
        kind: ``flow`` (flow matching), ``bc`` (regression) or ``vpp`` (flow matching on a video predictor's features).
        scale: ``tiny``, ``small``, ``base`` (not ``vpp``) or ``paper`` (``vpp`` only: Stable Video Diffusion).
        steps: training steps, the same for every arm, or the scale's default.
        batch: samples a step, or the scale's default.
        demonstrations: trained on the first n demonstrations only (``bench/subset.py``), or on all; for learning
            curves.  The world model still has the whole paired share.
        recolour: strength of random recolouring of training images, 0 to 1, for scenes that training does not have.
        video_steps: training steps of ``vpp``'s video predictor, or the scale's default.
        video_weights: Hugging Face id or folder of the video model of ``vpp`` at ``paper``, or the released VPP's.
    """

    kind: Literal["flow", "bc", "vpp"] = "flow"
    scale: Literal["tiny", "small", "base", "paper"] = "tiny"
    steps: int | None = Field(None, ge=1)
    batch: int | None = Field(None, ge=1)
    demonstrations: int | None = Field(None, ge=1)
    recolour: float = Field(0.0, ge=0.0, le=1.0)
    video_steps: int | None = Field(None, ge=1)
    video_weights: str | None = None

    @model_validator(mode="after")
    def _kind_has_it(self) -> PolicyPart:
        scales = ("tiny", "small", "paper") if self.kind == "vpp" else ("tiny", "small", "base")
        if self.scale not in scales:
            raise ValueError(f"{self.kind!r} has the scales {', '.join(scales)}, got {self.scale!r}")
        if self.recolour and self.kind == "vpp":
            raise ValueError("recolour: 'vpp' has none; leave it out")
        if self.video_steps is not None and (self.kind != "vpp" or self.scale == "paper"):
            raise ValueError(f"video_steps: {self.kind!r} at {self.scale!r} trains no video predictor")
        if self.video_weights is not None and self.scale != "paper":
            raise ValueError(f"video_weights: only 'vpp' at 'paper' reads them, got {self.kind!r} at {self.scale!r}")
        return self


class RolloutPart(_Part):
    """How policies are tested.

    Attributes:
        scene: the scene of the rollouts.
        chains: the first n of CALVIN's 1000 evaluation chains.
        steps_per_subtask: CALVIN gives 360 (``calvin_agent/evaluation/evaluate_policy.py``).
        bounds: also roll out ``expert`` and ``random``, the bounds of every table.
    """

    scene: Literal["A", "B", "C", "D"] = "D"
    chains: int = Field(1000, ge=1, le=1000)
    steps_per_subtask: int = Field(360, ge=1)
    bounds: tuple[Literal["expert", "random"], ...] = ()


class Suite(_Part):
    """One experiment: data, world model, policy, arms, seeds and rollouts.

    Attributes:
        name: names the run.
        data: where demonstrations come from.
        world_model: the generator.
        policy: the policy.
        arms: names of the arms, see :func:`parse_arm`.
        seeds: training seeds; every arm is trained once for each.
        rollout: the test.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    data: DataPart = DataPart()
    world_model: WorldModelPart = WorldModelPart()
    policy: PolicyPart = PolicyPart()
    arms: Annotated[tuple[str, ...], Field(min_length=1)] = ("anchor", "paired", "generated", "real")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)], ...], Field(min_length=1)] = (0,)
    rollout: RolloutPart = RolloutPart()

    @model_validator(mode="after")
    def _arms_make_sense(self) -> Suite:
        for values, what in ((self.arms, "arms"), (self.seeds, "seeds")):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} are named twice: {list(values)}")
        there, wanted = self.data.episodes * self.data.chain_length, self.policy.demonstrations
        if self.data.source == "collect" and wanted is not None and wanted > there:
            raise ValueError(f"policy.demonstrations is {wanted}, but data collects at most {there}")
        for arm in map(parse_arm, self.arms):
            if arm.share is not None and arm.share <= self.data.paired_share:
                raise ValueError(f"arm {arm.name!r} needs a share above data.paired_share ({self.data.paired_share})")
        return self

    @property
    def generators(self) -> tuple[str, ...]:
        """Names of the generators that the arms need, each once, in order."""
        return tuple(dict.fromkeys(arm.generator for arm in map(parse_arm, self.arms) if arm.generator))

    def to_json(self) -> dict[str, Any]:
        """Return the suite as plain JSON data."""
        return self.model_dump(mode="json")


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "suite"
    came = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{came}{more}"


def policy_part(**settings: Any) -> PolicyPart:
    """Return the policy that a command's options describe.

    Raises:
        UserError: what a suite would be refused for; the message names the setting, the value and what is wrong.
    """
    try:
        return PolicyPart(**settings)
    except ValidationError as error:
        raise UserError(f"policy: {_one_line(error).removeprefix('suite: ')}") from None


def load_suite(path_or_name: str | Path) -> Suite:
    """Read a suite from a YAML file, or by the name of one in ``bench/suites``.

    Raises:
        UserError: no such file, not YAML, or not a suite; the message names the field, the value and what to do.
    """
    path = Path(path_or_name)
    if not path.is_file() and (SUITES / f"{path_or_name}.yaml").exists():
        path = SUITES / f"{path_or_name}.yaml"
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in SUITES.glob("*.yaml")))
        raise UserError(f"no suite {str(path_or_name)!r}: expected a YAML file or one of {known}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: expected a YAML suite, got {' '.join(str(error).split())}; mend the file") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of suite fields, got {type(data).__name__}; see bench/suites/")
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}; mend the suite, bench/suite.py documents each field") from None
