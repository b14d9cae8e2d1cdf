"""Starting Ray, once for a process, so that every stage and rollout shares it.

A Ray started here listens on the loopback interface only, has no dashboard and keeps its token authentication.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

from bench.errors import UserError

OBJECT_STORE_BYTES = 300 * 2**20
PACKAGES = ("bench", "policies", "worldmodel")


def start_ray(address: str | None = None, *, cpus: int | None = None, gpus: int | None = None) -> Any:
    """Return the ``ray`` module, connected; a Ray that this process already has is used as it is.

    Args:
        address: a running cluster, as in ``ray.init(address=…)``; None starts one on this machine.
        cpus: how many CPUs a Ray started here may hand out; None for all.
        gpus: the same of GPUs.

    Raises:
        UserError: Ray does not start, or there is no cluster at ``address``.
    """
    try:
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if not ray.is_initialized():
            ray.init(**_options(address, cpus, gpus))
    except (ImportError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"reach the Ray cluster at {address!r}" if address else "start Ray on this machine"
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot {where}: {first_line}; --workers 0 rolls out without Ray") from error
    return ray


def _options(address: str | None, cpus: int | None, gpus: int | None) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if address:
        return {"address": address, "runtime_env": {"py_modules": package_folders()}, **quiet}
    return {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "object_store_memory": OBJECT_STORE_BYTES,
        **quiet,
    }


def package_folders() -> list[str]:
    """Return the folders of this project's packages: what a cluster's other machines need."""
    return [str(Path(str(importlib.import_module(name).__file__)).parent) for name in PACKAGES]
