"""The YAML file that maps a LeRobot folder of any robot (a Franka Panda, say) to anchors and wrist.

::

    anchors: [observation.images.front, observation.images.side]
    wrist: observation.images.hand
    state: observation.state          # optional, as all below
    action: action
    instruction: language_instruction # a column; without it LeRobot's tasks are read
    cameras:
      observation.images.front:
        intrinsics: [fx, fy, cx, cy]  # pixels of the stored picture
        pose: [x, y, z, roll, pitch, yaw]        # of the camera in the robot's base frame; metres, radians
      observation.images.hand:
        intrinsics: [fx, fy, cx, cy]
        pose_column: camera_extrinsics.hand      # or mount: [...] with gripper_column: <x y z roll pitch yaw>

It lies as ``rig.yaml`` in the data set's folder, or is named on the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.data.arrays import printable
from bench.data.json_yaml import read_yaml
from bench.data.rig import Lens, NamedRig, anchor_names
from bench.errors import UserError
from worldmodel.api import WRIST

RIG_FILE = "rig.yaml"
"""Its name in a data set's folder."""

Pose = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=6, max_length=6)]
Intrinsics = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=4, max_length=4)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CameraEntry(_Strict):
    """What the file tells of one camera."""

    intrinsics: Intrinsics
    pose: Pose | None = None
    pose_column: str | None = None
    mount: Pose | None = None
    gripper_column: str | None = None

    @model_validator(mode="after")
    def _one_pose(self) -> Self:
        if sum(value is not None for value in (self.pose, self.pose_column, self.mount)) > 1:
            raise ValueError("expected one of pose, pose_column and mount, got several")
        if (self.mount is None) != (self.gripper_column is None):
            raise ValueError("expected mount and gripper_column together, got one of them")
        if min(self.intrinsics[:2]) <= 0:
            raise ValueError("expected fx and fy above 0")
        return self


class RigFile(_Strict):
    """The whole file."""

    anchors: Annotated[list[str], Field(min_length=1, max_length=16)]
    wrist: str | None = None
    state: str | None = None
    action: str | None = None
    instruction: str | None = None
    cameras: dict[str, CameraEntry] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        named = [*self.anchors, *([self.wrist] if self.wrist else [])]
        if len(set(named)) != len(named):
            raise ValueError("expected every camera once among anchors and wrist")
        stray = sorted(set(self.cameras) - set(named))
        if stray:
            raise ValueError(f"expected cameras: of anchors and wrist alone, got {stray[0]!r}")
        return self


def load_rig(path: Path, pictures: Mapping[str, tuple[int, int]], columns: Collection[str]) -> NamedRig:
    """Return the rig that a YAML file describes.

    Args:
        path: the file.
        pictures: the data set's keys that hold pictures, with their stored (height, width).
        columns: its other keys.

    Raises:
        UserError: no such file, a wrong word in it, or a key that the data set lacks.
    """
    if not path.is_file():
        raise UserError(f"{path}: expected a YAML file that names anchors and wrist, got no such file")
    content = read_yaml(path)
    try:
        told = RigFile.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}") from None
    for key in (*told.anchors, *([told.wrist] if told.wrist else [])):
        _require(path, "a camera", key, pictures)
    poses = [name for entry in told.cameras.values() for name in (entry.pose_column, entry.gripper_column)]
    for column in (told.state, told.action, told.instruction, *poses):
        if column is not None:
            _require(path, "a column", column, columns)
    views = dict(zip(anchor_names(len(told.anchors)), told.anchors, strict=True))
    views |= {WRIST: told.wrist} if told.wrist else {}
    lenses = {view: _lens(told.cameras[key], pictures[key]) for view, key in views.items() if key in told.cameras}
    return NamedRig(views, told.state, told.action, told.instruction, lenses)


def _lens(entry: CameraEntry, size: tuple[int, int]) -> Lens:
    fx, fy, cx, cy = entry.intrinsics
    pose = tuple(entry.pose) if entry.pose else None
    mount = tuple(entry.mount) if entry.mount else None
    return Lens((fx, fy, cx, cy), size, pose, entry.pose_column, mount, entry.gripper_column)


def _require(path: Path, what: str, key: str, present: Collection[str]) -> None:
    if key in present:
        return
    near = difflib.get_close_matches(key, present, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise UserError(
        f"{path}: expected {what} of the data set ({printable(', '.join(sorted(present)), 300)}), "
        f"got {printable(key)!r}{meant}"
    )


def _first(error: ValidationError) -> str:
    """Return the first fault of a file in words: where, what was expected, what came."""
    faults: list[Any] = error.errors(include_url=False)
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    where = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "extra_forbidden":
        names = [*RigFile.model_fields, *CameraEntry.model_fields]
        near = difflib.get_close_matches(str(fault["loc"][-1]), names, 1)
        meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(RigFile.model_fields)}"
        return printable(f"unknown entry {where!r}; {meant}", 300)
    came = "" if fault["type"] in ("missing", "value_error") else f", got {fault['input']!r}"
    return printable(f"{where}: {fault['msg'].removeprefix('Value error, ')}{came}", 300)
