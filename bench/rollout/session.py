"""Starting Ray, once for a process, so that every stage and rollout shares it.

A Ray started here listens on the loopback interface only, has no dashboard and keeps its token authentication, which
Ray switches on by itself for such a cluster.  Where a running cluster's address is given, Ray leaves authentication off
in the driver even if this user has a token, and takes 127.0.0.1 for the machine's outward address: both are mended.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from bench import scratch
from bench.errors import UserError

OBJECT_STORE_BYTES = 300 * 2**20
PACKAGES = ("bench", "policies", "worldmodel")

CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""``0``: this machine's node is called 127.0.0.1 and its servers listen there only (ray ``_private/services.py``)."""
AUTH_MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
INLINE, INLINE_BYTES = "RAY_max_direct_call_object_size", 2**20
"""A request's images (0.14 MB) travel in the call itself; by the object store they cost three times the CPU time."""
USAGE = "RAY_USAGE_STATS_ENABLED"
"""A Ray started here tells nobody that it was: Ray's makers are sent statistics otherwise."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROBE_S = 3.0


def start_ray(address: str | None = None, *, cpus: int | None = None, gpus: int | None = None) -> Any:
    """Return the ``ray`` module, connected; a Ray that this process already has is used as it is.

    Args:
        address: a running cluster, as in ``ray.init(address=…)``; None for that of the ``ray job`` this process is, or
            of ``RAY_ADDRESS``, and else one that is started on this machine.
        cpus: how many CPUs a Ray started here may hand out; None for all.
        gpus: the same of GPUs.

    Raises:
        UserError: Ray does not start, or there is no cluster at ``address``.
    """
    address = cluster_address(address)
    if address is not None and ("ray" not in sys.modules or not sys.modules["ray"].is_initialized()):
        _expect_somebody(address)
    if "ray" not in sys.modules:  # what is registered first is called last: when Ray has ended its workers
        atexit.register(scratch.sweep, scratch.this_run(), scratch.PATIENCE_S)
    try:
        _set_up(address)
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if not ray.is_initialized():
            ray.init(**_options(address, cpus, gpus))
    except (ImportError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"reach the Ray cluster at {address!r}" if address else "start Ray on this machine"
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot {where}: {first_line}; --workers 0 rolls out without Ray") from error
    return ray


def _expect_somebody(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would ask there for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit() and not _answers(host.strip("[]"), int(port)):
        raise UserError(
            f"cannot reach the Ray cluster at {address!r}: nobody answers there; start one with `ray start --head`, or "
            "leave the address out"
        )


def cluster_address(given: str | None) -> str | None:
    """Return where the cluster is, or None for a Ray of this machine; a ``ray job`` has its own in ``RAY_ADDRESS``."""
    return given or os.environ.get("RAY_ADDRESS")


def _set_up(address: str | None) -> None:
    """Set what Ray reads from the environment when it is imported; the processes that it starts inherit it."""
    if "ray" in sys.modules:
        return
    if address is None:
        os.environ.setdefault(INLINE, str(INLINE_BYTES))
        os.environ.setdefault(USAGE, "0")
    if address is None or _listens_on_loopback_only(address):
        os.environ.setdefault(CLUSTER_SWITCH, "0")
    if address is not None and _has_token():
        os.environ.setdefault(AUTH_MODE, "token")


def _has_token() -> bool:
    """Say whether this user has a Ray token; a cluster without authentication does not mind one."""
    given = os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH)
    return bool(given) or (Path.home() / ".ray" / "auth_token").is_file()


def _listens_on_loopback_only(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if host not in LOOPBACK or not port.isdigit():
        return False
    return _answers("127.0.0.1", int(port)) and not _answers(_outward_address(), int(port))


def _outward_address() -> str:
    """Return the address that this machine has for others; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=PROBE_S):
            return True
    except OSError:
        return False


def _options(address: str | None, cpus: int | None, gpus: int | None) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if address and JOB in os.environ:  # its submitter said what the other machines need
        return {"address": address, **quiet}
    if address:
        return {"address": address, "runtime_env": {"py_modules": package_folders()}, **quiet}
    return {
        "address": "local",
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
