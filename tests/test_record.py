"""What a record says of the machine and the program that made it."""

from __future__ import annotations

import importlib.metadata

import pytest

from bench.record import environment


def test_a_tree_that_is_not_installed_makes_records_too(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_ours(name: str) -> str:
        if name == "wristworld-bench":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    known = environment("cpu")
    monkeypatch.setattr(importlib.metadata, "version", without_ours)
    assert environment("cpu") == known | {"wristworld-bench": None}
