"""An arm's numbers as they stand in a record, made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def _arm(length: float | None, **changes: Any) -> dict[str, Any]:
    share = None if length is None else length / 5
    return {
        "average_length": length,
        "interval": None if length is None else [length - 0.1, length + 0.1],
        "chain_success": [share] * 5,
        "chains": 16,
        "seeds": [0],
        "says": "a <b>bold</b> claim",
        "train_wrist": {"real": 3, "generated": 2, "absent": 1},
        "test_wrist": "real",
        **changes,
    }


@pytest.fixture
def arm() -> Callable[..., dict[str, Any]]:
    """Return a function of an average length, or None where nothing was run; keywords replace what it gives."""
    return _arm
