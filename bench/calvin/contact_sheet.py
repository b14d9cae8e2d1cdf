"""The same states seen side by side: our built-in table, CALVIN's assets in our renderer, and the original's picture.

One picture per scene, a row per state, both cameras.  For eyes; the numbers are in ``parity.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench import atomic
from bench.calvin.env import CalvinEnv

Picture = NDArray[np.uint8]

ROWS = 4
SIDE = 200
_HEAD = 18
_GAP = 4
_QUALITY = 90
_VIEWS = {"rgb_static": "anchor camera", "rgb_gripper": "wrist camera"}


def write_sheets(
    out: Path, recorded: Mapping[str, NDArray[np.generic]], assets: Path | None, rows: int = ROWS
) -> list[str]:
    """Draw recorded states on every table there is and write ``scene_A.jpg`` … into ``out``.

    Args:
        out: folder, made if need be.
        recorded: ``scene``, ``reset_robot_obs``, ``reset_scene_obs``, ``rgb_static``, ``rgb_gripper``, a row per state.
        assets: a calvin_env checkout; None leaves its column out.
        rows: states of each scene, evenly spread over the recorded ones.

    Returns:
        the files.
    """
    atomic.make_directory(out)
    files = []
    for scene in sorted(set(recorded["scene"].tolist())):
        of_scene = np.nonzero(recorded["scene"] == scene)[0]
        chosen = of_scene[np.linspace(0, len(of_scene) - 1, min(rows, len(of_scene))).round().astype(int)]
        columns = {"built-in": _drawn(scene, None, recorded, chosen)}
        if assets is not None:
            columns["CALVIN's assets"] = _drawn(scene, assets, recorded, chosen)
        columns["original"] = [{view: recorded[view][row] for view in _VIEWS} for row in chosen]
        path = out / f"scene_{scene}.jpg"
        with atomic.replacing(path) as temporary:
            _sheet(columns).save(temporary, format="JPEG", quality=_QUALITY)
        files.append(str(path))
    return files


def _drawn(
    scene: str, assets: Path | None, recorded: Mapping[str, NDArray[np.generic]], rows: Sequence[int]
) -> list[Mapping[str, Picture]]:
    env = CalvinEnv(scene, assets=assets)
    try:
        states = (
            {"robot_obs": recorded["reset_robot_obs"][row], "scene_obs": recorded["reset_scene_obs"][row]}
            for row in rows
        )
        return [env.reset(options=state)[0]["rgb_obs"] for state in states]
    finally:
        env.close()


def _sheet(columns: Mapping[str, Sequence[Mapping[str, Picture]]]) -> Image.Image:
    """Lay the pictures out: a block of columns per camera, the camera's pictures of one state side by side."""
    height = len(next(iter(columns.values())))
    step = SIDE + _GAP
    sheet = Image.new("RGB", (len(_VIEWS) * len(columns) * step, _HEAD + height * step), "white")
    write = ImageDraw.Draw(sheet).text
    for block, (view, camera) in enumerate(_VIEWS.items()):
        for position, (name, pictures) in enumerate(columns.items()):
            x = (block * len(columns) + position) * step
            write((x + 2, 3), f"{camera}: {name}", fill="black")
            for row, views in enumerate(pictures):
                picture = Image.fromarray(views[view]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                sheet.paste(picture, (x, _HEAD + row * step))
    return sheet
