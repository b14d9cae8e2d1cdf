"""Raw DROID episodes as small files: three videos, their stereo twins, ``trajectory.h5`` and the metadata."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import lerobot_files as files
import numpy as np

from bench.data.video import CODECS, encode

SERIALS = {"wrist": "11", "ext1": "22", "ext2": "33"}
FRAMES = 9
UUID = "LAB+5d05c5aa+2023-08-18-12h-01m-10s"
MATRIX = [[700.0, 0, 32], [0, 701.0, 18], [0, 0, 1]]


def write_episode(
    root: Path, place: str = "LAB/success/2023-08-18/Fri", *, uuid: str = UUID, frames: int = FRAMES
) -> Path:
    folder = root / place
    (folder / "recordings/MP4").mkdir(parents=True)
    told = {"uuid": uuid, "current_task": "Close the drawer", "trajectory_length": frames, "success": True}
    told |= {f"{camera}_cam_serial": serial for camera, serial in SERIALS.items()}
    (folder / f"metadata_{uuid}.json").write_text(json.dumps(told))
    for seed, serial in enumerate(SERIALS.values()):
        encode(folder / f"recordings/MP4/{serial}.mp4", [files.pictures(seed, frames)], 60, CODECS["lossless"])
        encode(folder / f"recordings/MP4/{serial}-stereo.mp4", [files.pictures(9, frames)], 60, CODECS["h264"])
    rng = np.random.default_rng(0)
    with h5py.File(folder / "trajectory.h5", "w") as file:
        for name, size in (("cartesian_position", 6), ("joint_positions", 7)):
            file[f"observation/robot_state/{name}"] = rng.normal(size=(frames, size))
        file["observation/robot_state/gripper_position"] = rng.uniform(size=frames)
        for name, size in (("joint_position", 7), ("cartesian_velocity", 6)):
            file[f"action/{name}"] = rng.normal(size=(frames, size))
        file["action/gripper_position"] = rng.uniform(size=frames)
        for serial in SERIALS.values():
            file[f"observation/camera_extrinsics/{serial}_left"] = np.tile(rng.normal(size=6), (frames, 1))
            if serial != SERIALS["ext2"]:
                file[f"observation/camera_intrinsics/{serial}_left"] = np.tile(MATRIX, (frames, 1, 1))
    return folder
