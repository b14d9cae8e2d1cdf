"""The import rules of the house, read from the source: who may know whom, and what may never be loaded."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bench", "policies", "worldmodel")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_rule_would_see_a_forbidden_import(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text("def f():\n    import ray.util\n    from bench.suite import Suite\n")
    assert roots(sample) == {"ray", "bench"}


@pytest.mark.parametrize("path", [p for p in FILES if place(p).split("/")[0] != "bench"], ids=place)
def test_policies_and_world_model_know_neither_each_other_nor_the_harness(path: Path) -> None:
    own = place(path).split("/")[0]
    assert not roots(path) & (set(PACKAGES) - {own})


@pytest.mark.parametrize("path", FILES, ids=place)
def test_ray_and_pybullet_stay_in_their_rooms(path: Path) -> None:
    where, names = place(path), roots(path)
    if "ray" in names:
        assert where.startswith("bench/rollout/") or where == "bench/stages.py"
    if names & {"pybullet", "pybullet_data", "pybullet_utils"}:
        assert where.startswith("bench/calvin/")
    assert "torchvision" not in names, "torchvision cannot be imported beside a CPU build of torch"


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "api.py"], ids=place)
def test_interfaces_import_numpy_and_the_standard_library_only(path: Path) -> None:
    assert roots(path) - set(sys.stdlib_module_names) <= {"numpy"}


@pytest.mark.parametrize("path", FILES, ids=place)
def test_nothing_is_loaded_that_could_run_foreign_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"pickle.load", "pickle.loads", "torch.load", "joblib.load", "yaml.load", "eval", "exec"}
        assert not any(k.arg == "allow_pickle" and getattr(k.value, "value", None) is True for k in node.keywords), (
            f"{place(path)}:{node.lineno} loads pickles"
        )


def test_no_file_is_longer_than_one_reading() -> None:
    long = {place(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def test_no_path_of_one_machine_is_written_down() -> None:
    own = str(ROOT)
    assert not [place(p) for p in FILES if own in p.read_text()]
