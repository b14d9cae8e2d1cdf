"""Recipes for policies and worlds, their identities, and a Ray that does not start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.rollout import session
from bench.rollout.chain import evaluation_chains, run_chain
from bench.rollout.session import start_ray
from bench.rollout.sources import GeneratorSource, PolicySource, check_fit, folder_hash, request_seed
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions, protocol_fingerprint, world_facts
from policies.api import ActionConvention, PolicySpec
from policies.registry import load_policy


def test_seeds_of_neighbouring_requests_are_unrelated() -> None:
    seeds = {request_seed(*where) for where in product((0, 1), repeat=4)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(1, 23) != request_seed(12, 3)


def test_seed_is_the_same_in_another_process() -> None:
    code = "from bench.rollout.sources import request_seed; print(request_seed(0, 17, 3, 120))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[2], capture_output=True, check=True
    )
    assert int(told.stdout) == request_seed(0, 17, 3, 120)


def test_checkpoint_is_known_by_its_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "weights.safetensors").write_bytes(b"w" * 1000)
    assert folder_hash(one) == folder_hash(two)
    assert PolicySource(str(one)).identity() == PolicySource(str(two)).identity()
    generators = [GeneratorSource.trained(folder) for folder in (one, two)]
    assert generators[0].identity() == generators[1].identity()
    (two / "weights.safetensors").write_bytes(b"w" * 999 + b"v")
    assert PolicySource(str(one)).identity() != PolicySource(str(two)).identity()
    assert generators[0].identity() != generators[1].identity()


def test_relative_folder_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy").mkdir()
    monkeypatch.chdir(tmp_path)
    source = PolicySource("policy")
    monkeypatch.chdir("/")
    assert source.name == str((tmp_path / "policy").resolve())


def test_folder_without_a_policy_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config"):
        roll_out(
            PolicySource(str(tmp_path)),
            evaluation_chains(1),
            arm="real",
            seed=0,
            workers=0,
            out=tmp_path / "out",
            world=WorldOptions(factory="rollout_doubles:PointWorld"),
        )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (PolicySpec("p", arm="anchor"), "trained for arm 'anchor', not 'real'"),
        (PolicySpec("p", views=("anchor", "wrist", "top")), "needs view top"),
        (PolicySpec("p", actions=ActionConvention(metres_per_unit=0.05)), "metres_per_unit: 0.05 != 0.02"),
    ],
)
def test_policy_that_does_not_fit_the_arm_is_refused(spec: PolicySpec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_fit(spec, "real", ("anchor", "wrist"))


def test_fitting_policy_passes() -> None:
    check_fit(PolicySpec("p", optional_views=("wrist",), arm="anchor"), "anchor", ("anchor",))


def test_fingerprint_follows_the_protocol() -> None:
    base = protocol_fingerprint(WorldOptions())
    assert base == protocol_fingerprint(WorldOptions(renderer="gl"))  # what "auto" became is a fact of the worker
    assert {"scene", "steps_per_subtask", "sequences", "instructions", "led_button", "world"} == set(base)
    others = [
        protocol_fingerprint(WorldOptions(scene="A")),
        protocol_fingerprint(WorldOptions(led_button="pinned")),
        protocol_fingerprint(WorldOptions(assets="/somewhere")),
        protocol_fingerprint(WorldOptions(), steps_per_subtask=100),
        protocol_fingerprint(WorldOptions(), instructions={"open_drawer": "open it"}),
    ]
    assert all(other != base for other in others)


def test_ray_that_does_not_start_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def broken(**_: Any) -> None:
        raise RuntimeError("no port is free\nand more lines")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", broken)
    monkeypatch.setattr(session, "_answers", lambda *_: True)
    with pytest.raises(UserError, match="cannot start Ray on this machine: no port is free; --workers 0"):
        start_ray()
    with pytest.raises(UserError, match=r"cannot reach the Ray cluster at '10\.0\.0\.1:6379'"):
        start_ray("10.0.0.1:6379")


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(UserError, match="nobody answers there"):
            start_ray(address)


def test_chains_are_calvins() -> None:
    chains = evaluation_chains(3)
    assert [chain.chain_id for chain in chains] == [0, 1, 2]
    assert all(len(c.tasks) == 5 and len(c.robot_obs) == 15 and len(c.scene_obs) == 24 for c in chains)
    assert len(evaluation_chains()) == 1000


def test_random_policy_and_expert_in_the_real_world() -> None:
    env = WorldOptions(renderer="bullet-tiny").build()
    assert world_facts(env)["renderer"] == "bullet-tiny"
    first, second = evaluation_chains(2)
    expert = PolicySource("expert").load()
    fresh = run_chain(env, expert, second, seed=0, steps_per_subtask=120)
    assert fresh.solved > 0
    moved = run_chain(env, PolicySource("random").load(), first, seed=0, steps_per_subtask=12)
    assert moved.steps == (12,)
    # the world forgets what was done before: a chain comes out the same after another one
    assert run_chain(env, expert, second, seed=0, steps_per_subtask=120) == fresh
    env.close()  # type: ignore[attr-defined]


def test_every_registered_name_is_a_policy_here_too_and_a_typo_is_told_the_nearest() -> None:
    assert PolicySource("hold-still").load().spec.name == load_policy("hold-still").spec.name
    with pytest.raises(UserError, match="did you mean 'expert'"):
        PolicySource("exprt").load()
