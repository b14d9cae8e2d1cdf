"""Reading JSON and YAML files that may be damaged or hostile: sizes are bounded, no tag builds an object.

Not here: arrays (:mod:`bench.data.arrays`), and what the files mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from bench.data.arrays import first_line
from bench.errors import UserError

MAX_JSON_BYTES = 512 << 20
"""Largest JSON file that is read; the episode list of the whole DROID is under 0.1 GB."""

_MAX_YAML_BYTES = 1 << 20


def read_json(path: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        UserError: missing, too large, or damaged.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path}: expected at most {MAX_JSON_BYTES} bytes, got {path.stat().st_size}; refused")
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: expected a file of the data set, got no such file; fetch it again") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"cannot read {path}: damaged JSON ({first_line(error)}); fetch it again") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a small YAML mapping, or {} where the file is absent; tags that build objects are refused."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_YAML_BYTES:
        raise UserError(f"{path}: expected at most {_MAX_YAML_BYTES} bytes, got {path.stat().st_size}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}; fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, got {type(content).__name__}; fetch it again")
    return content
