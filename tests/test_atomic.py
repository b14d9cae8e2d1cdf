from __future__ import annotations

from pathlib import Path

import pytest

from bench import atomic
from bench.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    atomic.write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        atomic.write_json(target, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "stage"
    with pytest.raises(RuntimeError), atomic.new_directory(target) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert not any(tmp_path.iterdir())
    with atomic.new_directory(target) as temporary:
        (temporary / "whole").touch()
    assert [p.name for p in target.iterdir()] == ["whole"]


def test_what_is_written_can_be_read_by_whoever_the_umask_allows(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    atomic.write_text(tmp_path / "text", "x")
    with atomic.new_directory(tmp_path / "folder"):
        pass
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "text").stat().st_mode == plain.stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("writer", [atomic.replacing, atomic.new_directory])
def test_a_place_that_cannot_be_is_one_line(writer):
    with (
        pytest.raises(UserError, match=r"cannot write to /proc/nowhere: .*choose another --out"),
        writer(Path("/proc/nowhere/file")),
    ):
        pass
