"""One Ray for all rollout tests, and the doubles on the path of every process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """Start a Ray of five CPUs and two GPUs, neither of which need exist; the code under test finds it running."""
    from bench.rollout.session import start_ray

    earlier = sys.modules.get("ray")
    if earlier is not None and earlier.is_initialized():
        earlier.shutdown()  # tests of other rooms start one without these GPUs
    ray = start_ray(cpus=5, gpus=2)
    yield ray
    ray.shutdown()
