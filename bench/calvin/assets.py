"""Where the files of a world lie: CALVIN's own URDFs and meshes, if somebody has them.

``WorldFiles`` is what a backend hands to the simulator; ``bench.calvin.builtin`` makes another one from numbers.
CALVIN's files are MIT-licensed and live in ``data/`` of a calvin_env checkout (https://github.com/mees/calvin_env);
nothing here copies them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.calvin.scene import SceneSpec
from bench.errors import UserError


@dataclass(frozen=True)
class WorldFiles:
    """The files from which one scene is loaded.

    Attributes:
        robot: URDF of the Panda with longer fingers; links and joint ids as in CALVIN's ``panda_longer_finger.urdf``.
        blocks: block name -> URDF.
        table: URDF of the play table.
        plane: URDF of the ground.
        scaling: PyBullet's ``globalScaling`` for blocks and table.
        original: these are CALVIN's own files: solver settings must be the original's.
    """

    robot: Path
    blocks: Mapping[str, Path]
    table: Path
    plane: Path
    scaling: float
    original: bool

    def __post_init__(self) -> None:
        for path in (self.robot, *self.blocks.values(), self.table, self.plane):
            if not path.is_file():
                raise UserError(f"world files: expected a file at {path}, got none; is the CALVIN checkout complete?")


def data_folder(root: Path) -> Path:
    """Return the ``data`` folder in ``root``: itself, or that of a calvin_env or a calvin checkout."""
    for candidate in (root, root / "data", root / "calvin_env" / "data"):
        if (candidate / "franka_panda" / "panda_longer_finger.urdf").is_file():
            return candidate
    raise UserError(
        f"CALVIN assets: expected data/franka_panda/panda_longer_finger.urdf under {root}, got no such file; "
        "give the folder of a calvin_env checkout"
    )


def find_assets() -> Path | None:
    """Return the ``data`` folder of an installed or named calvin_env, or None; nothing of it is imported.

    The environment variable ``CALVIN_ENV_ROOT`` names a checkout.
    """
    named = os.environ.get("CALVIN_ENV_ROOT")
    if named:
        return data_folder(Path(named))
    spec = importlib.util.find_spec("calvin_env")
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        return data_folder(Path(next(iter(spec.submodule_search_locations))).parent)
    except UserError:
        return None


def calvin_files(root: Path, scene: SceneSpec) -> WorldFiles:
    """Return the files of ``scene`` in CALVIN's own assets under ``root``."""
    data = data_folder(root)
    table = f"calvin_table_{scene.name}"
    return WorldFiles(
        robot=data / "franka_panda" / "panda_longer_finger.urdf",
        blocks={block.name: data / "blocks" / f"{block.name}_{block.size}.urdf" for block in scene.blocks},
        table=data / table / "urdf" / f"{table}.urdf",
        plane=data / "plane" / "plane.urdf",
        scaling=0.8,
        original=True,
    )
