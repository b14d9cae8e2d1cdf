"""How fast data sets are read: packed, as CALVIN's frame files, as LeRobot videos, beside the peers' own ways.

All are measured in one run on the same recordings, read from the page cache: CALVIN's way is one ``np.load`` a frame,
LeRobot's is its own ``LeRobotDataset`` in a process of its own, where it is installed.  Not here: the command line.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.calvin import CalvinDataset, CalvinWriter, frame_path
from bench.data.calvin.index import EMBEDDING_SIZE, save_object_npy, write_ranges
from bench.data.calvin.pack import PACKED_KEYS, pack
from bench.data.clips import clip_starts
from bench.data.episode import Episode, Window
from bench.data.export import export_lerobot
from bench.data.lerobot import LeRobotDataset
from bench.errors import UserError

WINDOW = 16
"""Frames of one read: a policy's or a world model's window."""

LEROBOT_PYTHON = "WRISTBENCH_LEROBOT_PYTHON"
"""Environment variable: the Python in which ``lerobot`` is installed, where it is not this one."""

_PICTURES = ("rgb_static", "rgb_gripper")
_VIDEOS = ("observation.images.anchor", "observation.images.wrist")
_THREADS = 2
_SECONDS = 2.0
_MILLION = 1_795_045
_EPISODES, _WINDOWS = 147, 17_870


def measure(
    directory: Path | None = None, *, frames: int = 1024, seconds: float = _SECONDS, lerobot: str | None = None
) -> dict[str, Any]:
    """Return frames a second of every way of reading, with peak memory.

    Args:
        directory: a CALVIN data set with ``training/``; None makes one of moving noise.
        frames: about how many frames are measured.
        seconds: how long each way is measured.
        lerobot: the Python in which ``lerobot`` is installed; None takes the environment's, else this one.

    Raises:
        UserError: the data set is packed or too short.
    """
    if frames < 2 * WINDOW or not seconds > 0:
        raise UserError(
            f"perf data: expected at least {2 * WINDOW} frames and some time, got {frames} and {seconds:g} s"
        )
    with tempfile.TemporaryDirectory(prefix="wristworld-perf-") as folder:
        scratch = Path(folder)
        dataset = _made(scratch / "calvin", frames) if directory is None else CalvinDataset(directory)
        if dataset.format != "CALVIN":
            raise UserError(f"{directory}: expected CALVIN's frame files to measure, got {dataset.format}")
        used = _some(dataset, frames)
        if sum(map(len, used)) < 2 * WINDOW:
            raise UserError(f"{directory}: expected at least {2 * WINDOW} frames, got {sum(map(len, used))}")
        part = _Part(dataset, used)
        result: dict[str, Any] = {
            "frames": sum(map(len, used)),
            "bytes_per_frame": _bytes(used[0]),
            "made_here": directory is None,
            "threads": _THREADS,
            "window": WINDOW,
        }
        start = time.perf_counter()
        packed = pack(part, scratch / "packed")  # type: ignore[arg-type]
        result["pack_frames_per_s"] = len(packed) / (time.perf_counter() - start)
        start = time.perf_counter()
        export_lerobot(part, scratch / "lerobot")
        result["export_frames_per_s"] = len(packed) / (time.perf_counter() - start)
        ways = {
            "packed": _reads(packed.episodes, PACKED_KEYS, seconds),
            "frame_files": _reads(used, PACKED_KEYS, seconds),
            "lerobot_videos": _reads(LeRobotDataset(scratch / "lerobot").episodes, (*_VIDEOS, "action"), seconds),
        }
        peers = {
            "calvin_np_load": _calvin_peer(part, seconds),
            "lerobot_loader": _lerobot_peer(scratch / "lerobot", lerobot, seconds),
        }
        result |= {"frames_per_s": ways, "peers_frames_per_s": peers, "ratios": _ratios(ways, peers)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result | {"peak_rss_mb": peak, "index_memory_mb": {"frames": _MILLION, "peak": _index_memory()}}


class _Part(CalvinDataset):
    """Some episodes of a data set, under its own name."""

    def __init__(self, dataset: CalvinDataset, episodes: Sequence[Episode]) -> None:
        self.__dict__.update(dataset.__dict__)
        self.episodes = tuple(episodes)


def _some(dataset: CalvinDataset, frames: int) -> tuple[Episode, ...]:
    chosen: list[Episode] = []
    for episode in dataset.episodes:
        if sum(map(len, chosen)) >= frames:
            break
        chosen.append(episode)
    return tuple(chosen)


def _bytes(episode: Episode) -> int:
    return sum(array.nbytes for array in episode.load(PACKED_KEYS, 0, 1).values())


def _reads(episodes: Sequence[Episode], keys: Sequence[str], seconds: float) -> dict[str, dict[str, float]]:
    """Return frames a second of reading on, of windows anywhere, and of single frames anywhere."""
    starts = [(episode, start) for episode in episodes for start in clip_starts(len(episode), WINDOW, WINDOW)]
    rng = np.random.default_rng(0)

    def windows(order: Sequence[int]) -> Callable[[int], int]:
        def read(step: int) -> int:
            episode, start = starts[order[step % len(order)]]
            return _touch(episode.load(keys, start, start + WINDOW))

        return read

    def single(step: int) -> int:
        episode = episodes[step % len(episodes)]
        frame = int(picks[step % len(picks)] % len(episode))
        return _touch(episode.load(keys, frame, frame + 1))

    picks = rng.integers(0, 1 << 30, 4096)
    shuffled = rng.permutation(len(starts)).tolist()
    return {
        "sequential": _rate(windows(range(len(starts))), seconds, threads=1),
        "random_windows": _rate(windows(shuffled), seconds, threads=1),
        "random_windows_two_threads": _rate(windows(shuffled), seconds, threads=_THREADS),
        "random_frames": _rate(single, seconds, threads=1),
    }


def _touch(arrays: dict[str, NDArray[Any]]) -> int:
    """Copy every byte, as a training must, and return the number of frames."""
    for array in arrays.values():
        array.copy()
    return len(next(iter(arrays.values())))


def _rate(read: Callable[[int], int], seconds: float, threads: int) -> dict[str, float]:
    """Return frames a second of wall time and of CPU time over ``seconds``, after some reads to warm up."""
    for step in range(8):
        read(step)
    start, busy = time.perf_counter(), time.process_time()

    def work(thread: int) -> int:
        done, step = read(thread), thread + threads  # one at least, however late a busy machine starts a thread
        while time.perf_counter() - start < seconds:
            done += read(step)
            step += threads
        return done

    if threads == 1:
        total = work(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            total = sum(pool.map(work, range(threads)))
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    return {"per_s": total / wall, "per_cpu_s": total / cpu}


def _calvin_peer(dataset: CalvinDataset, seconds: float) -> dict[str, dict[str, float]]:
    """Read as CALVIN's own loader does (calvin_models ``datasets/disk_dataset.py``): one ``np.load`` a frame."""
    numbers = [frame for episode in dataset.episodes for frame in range(episode.first, episode.last + 1)]
    rng = np.random.default_rng(0)

    def frame(number: int) -> dict[str, NDArray[Any]]:
        with np.load(frame_path(dataset.directory, number), allow_pickle=False) as file:
            return {key: file[key] for key in PACKED_KEYS}

    def window(starts: Sequence[int]) -> Callable[[int], int]:
        def read(step: int) -> int:
            at = starts[step % len(starts)]
            rows = [frame(number) for number in numbers[at : at + WINDOW]]
            stacked = {key: np.stack([row[key] for row in rows]) for key in PACKED_KEYS}
            return len(stacked[PACKED_KEYS[0]])

        return read

    ordered = range(0, len(numbers) - WINDOW + 1, WINDOW)
    anywhere = rng.integers(0, len(numbers) - WINDOW + 1, 4096).tolist()
    return {
        "sequential": _rate(window(ordered), seconds, threads=1),
        "random_windows": _rate(window(anywhere), seconds, threads=1),
        "random_frames": _rate(lambda step: len([frame(numbers[anywhere[step % 4096]])]), seconds, threads=1),
    }


_LEROBOT = """
import json, sys, time
try:
    import lerobot, torch
    from lerobot.datasets import LeRobotDataset
except ImportError as error:
    print(json.dumps({"absent": f"lerobot is not installed in {sys.executable}"}))
    raise SystemExit
torch.set_num_threads(1)
root, window, seconds, backend = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
keys = ("observation.images.anchor", "observation.images.wrist", "action")
def rate(data, order, frames):
    for index in order[:3]:
        data[index]
    start, busy, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        data[order[done % len(order)]]
        done += 1
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    return {"per_s": done * frames / wall, "per_cpu_s": done * frames / cpu}
def opened(frames):
    times = {key: [i / 30 for i in range(frames)] for key in keys} if frames > 1 else None
    return LeRobotDataset("perf/perf", root=root, delta_timestamps=times, video_backend=backend)
one, many = opened(1), opened(window)
generator = torch.Generator().manual_seed(0)
anywhere = torch.randint(len(one) - window, (4096,), generator=generator).tolist()
print(json.dumps({
    "version": lerobot.__version__, "video_backend": backend,
    "sequential": rate(many, list(range(0, len(one) - window, window)), window),
    "random_windows": rate(many, anywhere, window),
    "random_frames": rate(one, anywhere, 1),
}))
"""


def _lerobot_peer(root: Path, python: str | None, seconds: float) -> dict[str, Any]:
    """Time LeRobot's own loader on the same export, with the decoder of its two that works here."""
    python = python or os.environ.get(LEROBOT_PYTHON, sys.executable)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root.parent / "hf"), "OMP_NUM_THREADS": "1"}
    failed = "nothing was said"
    for backend in ("torchcodec", "pyav"):
        command = [python, "-c", _LEROBOT, str(root), str(WINDOW), str(seconds), backend]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
            if ran.returncode == 0:
                found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
                return found
            failed = ran.stderr.strip().splitlines()[-1][:200] if ran.stderr.strip() else failed
        except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
            failed = f"{type(error).__name__}: {error}"[:200]
    return {"absent": f"lerobot did not run: {failed}"}


def _ratios(ways: Mapping[str, Any], peers: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return how many times faster each of ours is than a peer that reads the same frames."""
    pairs = (("packed", "calvin_np_load"), ("frame_files", "calvin_np_load"), ("packed", "lerobot_loader"),
             ("lerobot_videos", "lerobot_loader"))  # fmt: skip
    ratios: dict[str, dict[str, float]] = {}
    for own, peer in pairs:
        for what in ("sequential", "random_windows", "random_frames"):
            theirs = peers[peer].get(what)
            if theirs:
                ratios[f"{own} / {peer}, {what}"] = {
                    name: value / theirs[name] for name, value in ways[own][what].items() if theirs[name] > 0
                }
    return ratios


def _made(root: Path, frames: int) -> CalvinDataset:
    """Write a data set whose pictures shrink about as well as CALVIN's: soft patches that move, a little noise."""
    rng = np.random.default_rng(0)
    writer = CalvinWriter(root)
    for start in range(0, frames, 256):
        count = min(256, frames - start) + 1
        robot = np.cumsum(rng.normal(0, 0.004, (count, 15)), axis=0)
        arrays = {"robot_obs": robot, "scene_obs": rng.normal(size=(count, 24))}
        for key, side in zip(_PICTURES, (200, 84), strict=True):
            coarse = rng.integers(0, 250, (side // 4, side // 4 + count, 3)).repeat(4, 0).repeat(4, 1)
            noise = rng.integers(0, 5, (side, side, 3))
            arrays[key] = np.stack([coarse[:, t : t + side] + noise for t in range(count)]).astype(np.uint8)
        sentence = f"do number {start}"
        writer.add_episode(arrays, [Window(0, min(64, count - 1), "open_drawer", sentence)], "D", str(start))
    return writer.finish()


def _index_memory() -> float:
    """Return megabytes of Python memory that opening an index as large as task_ABC_D's takes at its peak."""
    with tempfile.TemporaryDirectory(prefix="wristworld-perf-") as folder:
        split = Path(folder) / "training"
        edges = np.linspace(0, _MILLION, _EPISODES + 1).astype(np.int64)
        write_ranges(split, list(zip(edges[:-1].tolist(), (edges[1:] - 1).tolist(), strict=True)))
        starts = np.linspace(0, _MILLION - 70, _WINDOWS).astype(np.int64)
        language = {
            "ann": [f"sentence {at}" for at in starts],
            "task": ["open_drawer"] * _WINDOWS,
            "emb": np.zeros((_WINDOWS, 1, EMBEDDING_SIZE), np.float32),
        }
        spans = [(at, at + np.int64(63)) for at in starts]
        info = {"episodes": [], "indx": spans}
        path = split / "lang_annotations" / "auto_lang_ann.npy"
        save_object_npy(path, {"language": language, "info": info})
        tracemalloc.start()
        try:
            frames = len(CalvinDataset(folder))
            _current, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        if frames != _MILLION:
            raise UserError(f"expected an index of {_MILLION} frames, got {frames}; report this")
        return peak / 1e6
