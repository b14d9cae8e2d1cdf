"""The engine: nothing is done twice, nothing half-done looks whole, one run at a time."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.stages import RunFolder, Wanted, content_key, disk_full, parallel


def count(calls: list[Path], **outputs: Any):
    def work(folder: Path) -> dict[str, Any]:
        calls.append(folder)
        return outputs

    return work


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = RunFolder(tmp_path).stage("collect", {"episodes": 3}, [], count(calls, frames=7))
    again = RunFolder(tmp_path).stage("collect", {"episodes": 3}, [], count(calls, frames=8))
    assert len(calls) == 1
    assert (first.reused, again.reused) == (False, True)
    assert again.outputs == {"frames": 7}


def test_a_stage_is_run_again_when_its_configuration_or_an_input_changed(tmp_path: Path) -> None:
    calls: list[Path] = []
    folder = RunFolder(tmp_path)
    small = folder.stage("collect", {"episodes": 3}, [], count(calls))
    large = folder.stage("collect", {"episodes": 4}, [], count(calls))
    folder.stage("train", {}, [small], count(calls))
    folder.stage("train", {}, [large], count(calls))
    assert len(set(calls)) == 4


def test_an_interrupted_stage_continues_in_its_own_folder(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> dict[str, Any]:
        (folder / "step-1").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunFolder(tmp_path).stage("train", {}, [], interrupted)
    said: list[str] = []
    calls: list[Path] = []
    RunFolder(tmp_path, said.append).stage("train", {}, [], count(calls))
    assert (calls[0] / "step-1").exists()
    assert said[0] == "train: continuing"


def test_outputs_that_are_not_json_never_become_a_proof(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        RunFolder(tmp_path).stage("score", {}, [], count([], value=float("nan")))
    assert not list(tmp_path.rglob("stage.json"))


def test_a_spoilt_proof_is_named(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("score", {}, [], count([]))
    (stage.directory / "stage.json").write_text("{")
    with pytest.raises(UserError, match=r"stage\.json"):
        RunFolder(tmp_path).stage("score", {}, [], count([]))


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(UserError, match="in use by another run"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    with RunFolder(tmp_path).locked():
        pass


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out"):
        RunFolder(tmp_path / "file" / "run")


def test_the_key_does_not_depend_on_the_order_of_words() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    assert json.dumps(content_key()) == f'"{content_key()}"'


def test_a_full_disk_is_seen_through_what_it_caused() -> None:
    consequence = RuntimeError()
    consequence.__cause__ = OSError(errno.ENOSPC, "full")
    assert disk_full(consequence)
    assert not disk_full(ValueError())


def double_or_refuse(job: int) -> int:
    if job < 0:
        raise UserError(f"job {job} is negative")
    return 2 * job


@pytest.mark.parametrize("workers", [0, 2])
def test_parallel_keeps_the_order_and_raises_what_the_job_raised(workers: int) -> None:
    seen: dict[int, int] = {}
    results = parallel(double_or_refuse, list(range(7)), workers=workers, each=lambda i, r: seen.update({i: r}))
    assert results == [0, 2, 4, 6, 8, 10, 12]
    assert seen == dict(enumerate(results))
    with pytest.raises(UserError, match="job -1 is negative"):
        parallel(double_or_refuse, [1, -1, 2], workers=workers)


def test_a_stage_that_is_taken_back_goes_on_with_what_it_holds(tmp_path: Path) -> None:
    wanted = Wanted("rollout", {}, [])
    run = RunFolder(tmp_path)
    assert run.found(wanted) is None
    calls: list[Path] = []
    done = run.stage("rollout", {}, [], count(calls, missing=1))
    (done.directory / "ledger").touch()
    found = run.found(wanted)
    assert found is not None
    assert found.outputs == {"missing": 1}
    run.reopen(wanted)
    again = RunFolder(tmp_path).stage("rollout", {}, [], count(calls, missing=0))
    assert (again.directory / "ledger").exists()
    assert len(calls) == 2
