"""A counting bar says what goes on and how far it is, on stderr, and nothing where nothing is to be shown."""

from __future__ import annotations

import pytest

from bench.bars import counting
from bench.errors import UserError


def test_it_says_how_far_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    with counting("collect", lambda: 8, "frames", show=True) as advance:
        advance(3, worked=300)
        advance()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "collect" in shown.err
    assert "4/8" in shown.err
    assert "frames/s" in shown.err


def test_what_fails_before_anything_was_counted_leaves_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    def no_total() -> int:
        raise UserError("no such folder")

    with pytest.raises(UserError), counting("check", no_total, "frames", show=True):
        pass
    with pytest.raises(UserError), counting("check", 8, "frames", show=True):
        raise UserError("no such key")
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError), counting("check", 8, "frames", show=True) as advance:
        advance(3)
        raise UserError("disk full")
    assert "3/8" in capfd.readouterr().err


def test_nothing_is_counted_or_drawn_where_nothing_is_to_be_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def total() -> int:
        raise AssertionError("counting the total costs time")

    with counting("check", total, "frames", show=False) as advance:
        advance(3, worked=300)
        advance()
    assert capfd.readouterr() == ("", "")
