"""The ledger: whole rows or none, one writer, one experiment."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.rollout.chain import ChainResult
from bench.rollout.ledger import Ledger, results_json

TASKS = ("a", "b", "c", "d", "e")


def row(chain_id: int, solved: int = 2, arm: str = "real", seed: int = 0) -> ChainResult:
    return ChainResult(chain_id, arm, seed, TASKS, solved, (7,) * min(solved + 1, 5))


def test_rows_and_fingerprint_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.jsonl"
    with Ledger(path, {"scene": "D", "steps": 360}) as ledger:
        for chain_id in (3, 1, 2):
            ledger.append(row(chain_id))
        ledger.append(row(1, arm="anchor"))
    with Ledger(path, {"scene": "D"}) as again:
        assert again.fingerprint == {"scene": "D", "steps": 360}
        assert again.completed("real", 0) == [row(1), row(2), row(3)]
        assert again.completed() == [row(1, arm="anchor"), row(1), row(2), row(3)]
        assert again.completed("real", 1) == []


def test_another_experiment_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, {"scene": "D", "renderer": "gl", "steps": 360}).close()
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"differing: scene \(ledger 'D', now 'A'\); steps \(ledger 360, now 100\)"):
        Ledger(path, {"scene": "A", "renderer": "gl", "steps": 100})
    assert path.read_bytes() == before
    with Ledger(path, {"scene": "D"}) as ledger, pytest.raises(UserError, match="renderer"):
        ledger.bind({"renderer": "bullet-tiny"})


@pytest.mark.parametrize("torn", [b'{"chain_id": 9, "ar', b"{", b"\xff\xfe"])
def test_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append(row(0))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Ledger(path) as ledger:
        assert path.read_bytes() == whole
        ledger.append(row(9))
    assert [json.loads(line)["chain_id"] for line in path.read_bytes().splitlines()[1:]] == [0, 9]


def test_torn_header_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"led')
    with Ledger(path, {"scene": "D"}) as ledger:
        ledger.append(row(0))
    with Ledger(path, {"scene": "D"}) as ledger:
        assert ledger.completed() == [row(0)]


def test_every_prefix_of_a_ledger_opens(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, {"scene": "D"}) as ledger:
        for chain_id in range(3):
            ledger.append(row(chain_id))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with Ledger(path, {"scene": "D"}) as ledger:
            done = len(ledger.completed())
            assert done == max(content[:length].count(b"\n") - 2, 0)


@pytest.mark.parametrize("line", [b"not json\n", b'{"chain_id": 1}\n', b'{"missing": {}}\n', b"[1]\n"])
def test_foreign_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append(row(0))
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(UserError, match="line 3"):
        Ledger(path)


def test_file_that_is_no_ledger_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"something": "else"}\n')
    with pytest.raises(UserError, match="expected ledger version 1, got None"):
        Ledger(path)
    assert path.read_text() == '{"something": "else"}\n'


def test_a_chain_has_one_row(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(row(0))
        with pytest.raises(UserError, match="chain 0 of arm 'real', seed 0 is there"):
            ledger.append(row(0, solved=5))
        assert ledger.completed() == [row(0)]


def test_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path), pytest.raises(UserError, match="another run is writing"):
        Ledger(path)
    Ledger(path).close()


def test_missing_chain_is_noted_until_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append_missing(("real", 0, 4), "worker lost; then worker lost")
        ledger.append_missing(("real", 0, 5), "worker lost; then worker lost")
        ledger.append(row(5))
    with Ledger(path) as ledger:
        assert ledger.missing("real", 0) == {("real", 0, 4): "worker lost; then worker lost"}
        assert ledger.missing("anchor") == {}
        assert ledger.completed() == [row(5)]


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(row(0))
    whole = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if where == "fsync":
            patch.setattr(os, "fsync", full)
        else:

            class Full:
                def __init__(self, file: Any) -> None:
                    self.file = file

                def write(self, data: bytes) -> int:
                    self.file.write(data[: len(data) // 2])
                    self.file.flush()
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                def __getattr__(self, name: str) -> Any:
                    return getattr(self.file, name)

            patch.setattr(ledger, "_file", Full(ledger._file))
        with pytest.raises(UserError, match="disk full; everything finished is kept"):
            ledger.append(row(1))
        assert path.read_bytes() == whole
        stale = ledger._file
    ledger._file = stale  # monkeypatch put the first file back; the ledger had opened another
    ledger.append(row(1))
    ledger.close()
    with Ledger(path) as again:
        assert again.completed() == [row(0), row(1)]


def test_unwritable_place_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        Ledger(tmp_path / "ledger.jsonl")


def test_export_is_ordered_rows_without_header(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        for chain_id in (2, 0, 1):
            ledger.append(row(chain_id, solved=chain_id))
        ledger.export_jsonl(tmp_path / "chains.jsonl")
        ledger.export_results_json(tmp_path / "results.json", "real", 0)
    lines = [json.loads(line) for line in (tmp_path / "chains.jsonl").read_text().splitlines()]
    assert [line["chain_id"] for line in lines] == [0, 1, 2]
    assert {"chain_id", "arm", "seed", "tasks", "solved", "steps", "trace", "wall_s"} == set(lines[0])
    assert json.loads((tmp_path / "results.json").read_text())["0"]["avg_seq_len"] == 1.0


def test_calvin_results_count_what_was_tried() -> None:
    summary = results_json([row(0, 5), row(1, 0), row(2, 2)])
    assert summary["avg_seq_len"] == pytest.approx(7 / 3)
    assert summary["chain_sr"] == {"1": 2 / 3, "2": 2 / 3, "3": 1 / 3, "4": 1 / 3, "5": 1 / 3}
    assert summary["task_info"]["a"] == {"success": 2, "total": 3}
    assert summary["task_info"]["c"] == {"success": 1, "total": 2}
    assert summary["task_info"]["e"] == {"success": 1, "total": 1}
    with pytest.raises(UserError, match="no finished chain"):
        results_json([])
