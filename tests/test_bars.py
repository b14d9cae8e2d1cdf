"""A counting bar says what goes on and how far it is, on stderr, and nothing where nothing is to be shown."""

from __future__ import annotations

import pytest

from bench.bars import counting


def test_it_says_how_far_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    with counting("collect", lambda: 8, "frames", show=True) as advance:
        advance(3, worked=300)
        advance()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "collect" in shown.err
    assert "4/8" in shown.err
    assert "frames/s" in shown.err


def test_nothing_is_counted_or_drawn_where_nothing_is_to_be_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def total() -> int:
        raise AssertionError("counting the total costs time")

    with counting("check", total, "frames", show=False) as advance:
        advance(3, worked=300)
        advance()
    assert capfd.readouterr() == ("", "")
