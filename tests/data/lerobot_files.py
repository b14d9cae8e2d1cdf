"""LeRobot folders that tests make: v2.1 by hand, as its documentation lays it out, and v3.0 by our own export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data.video import CODECS, encode

ANCHORS = ("observation.images.exterior_1_left", "observation.images.exterior_2_left")
WRIST = "observation.images.wrist_left"
RATE = 15
LENGTHS = (7, 12)
SENTENCES = ("put the cup on the shelf", "close the drawer")


def pictures(seed: int, frames: int, height: int = 36, width: int = 64) -> np.ndarray:
    """Return frames that tell their number in the grey of their left half, smooth enough for lossy videos."""
    images = np.zeros((frames, height, width, 3), np.uint8)
    images[:, :, : width // 2] = (np.arange(frames) * 17 % 256).astype(np.uint8)[:, None, None, None]
    images[:, :, width // 2 :] = (seed * 40) % 256
    return images


def info(version: str, *, features: dict | None = None) -> dict:
    picture = {"dtype": "video", "shape": [36, 64, 3], "names": ["height", "width", "channels"]}
    numbers = {
        "observation.state": ("float32", 8),
        "action": ("float32", 8),
        "camera_extrinsics.wrist_left": ("float32", 6),
    }
    index = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}
    told = dict.fromkeys((*ANCHORS, WRIST), picture)
    told |= {key: {"dtype": dtype, "shape": [size], "names": None} for key, (dtype, size) in numbers.items()}
    told |= {
        key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in (index | {"task_index": "int64"}).items()
    }
    told["language_instruction"] = {"dtype": "string", "shape": [1], "names": None}
    return {
        "codebase_version": version,
        "robot_type": "franka",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "total_videos": 6,
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": RATE,
        "splits": {"train": "0:2"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": told if features is None else features,
    }


def numbers(episode: int, frames: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(episode)
    return {
        "observation.state": rng.normal(size=(frames, 8)).astype(np.float32),
        "action": rng.normal(size=(frames, 8)).astype(np.float32),
        "camera_extrinsics.wrist_left": rng.normal(size=(frames, 6)).astype(np.float32),
    }


def write_v21(root: Path, *, codec: str = "lossless") -> Path:
    """Write two episodes of a DROID-like data set in v2.1; the second changes its task halfway."""
    meta = root / "meta"
    meta.mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps(info("v2.1")))
    (meta / "tasks.jsonl").write_text(
        "".join(json.dumps({"task_index": i, "task": s}) + "\n" for i, s in enumerate(SENTENCES))
    )
    lines, first = [], 0
    for episode, frames in enumerate(LENGTHS):
        tasks = np.zeros(frames, np.int64)
        if episode == 1:
            tasks[frames // 2 :] = 1
        lines.append(
            json.dumps({"episode_index": episode, "tasks": [SENTENCES[i] for i in np.unique(tasks)], "length": frames})
        )
        columns = {key: pa.array(list(array)) for key, array in numbers(episode, frames).items()}
        count = np.arange(frames)
        columns |= {
            "timestamp": pa.array((count / RATE).astype(np.float32)),
            "frame_index": pa.array(count),
            "episode_index": pa.array(np.full(frames, episode)),
            "index": pa.array(first + count),
            "task_index": pa.array(tasks),
            "language_instruction": pa.array([SENTENCES[i] for i in tasks]),
        }
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        for seed, key in enumerate((*ANCHORS, WRIST)):
            video = root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4"
            encode(video, [pictures(seed + 3 * episode, frames)], RATE, CODECS[codec])
        first += frames
    (meta / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    return root
