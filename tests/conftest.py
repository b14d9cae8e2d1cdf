"""Fixtures that every test may use: where the recordings of the original lie, if they are here at all."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of recordings beside the checkout; skip the test where there is none."""
    if not (SHARED / "calvin" / "ref").is_dir():
        pytest.skip("no ../shared beside this checkout: recordings of the original CALVIN are not available")
    return SHARED
