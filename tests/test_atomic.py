from __future__ import annotations

from pathlib import Path

import pytest

from bench import atomic


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
