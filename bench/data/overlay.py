"""Generated wrist views beside a data set, never over it.

An overlay is a folder of its own: ``index.json`` says which data set it belongs to (its hash), what generated the views
(provenance) and, per episode, a file named by the SHA-256 of its content.  Frames are kept exactly, as deflated
``.npy`` pieces of 64 frames, so that a stretch is read without unpacking the rest.  The data set is only read.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.data.arrays import ArraySpec, load_npz
from bench.data.episode import Episode, FrameSource
from bench.data.rig import CALVIN
from bench.errors import UserError

GENERATED_WRIST = CALVIN.generated
"""The key under which a CALVIN episode with an overlay gives the generated wrist view."""

_PIECE = 64
_MAX_FILE_BYTES = 4 << 30


class Overlay:
    """The generated wrist views of a data set's episodes; any number of processes may read, one at a time may add.

    Attributes:
        directory: its folder.
        dataset: hash of the data set that it belongs to (:func:`bench.data.fingerprint.dataset_hash`).
        provenance: what generated the views, as JSON data.
    """

    def __init__(self, directory: Path, index: Mapping[str, Any]) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.directory = directory
        self.dataset: str = index["dataset"]
        self.provenance: dict[str, Any] = index["provenance"]
        self._entries: dict[str, dict[str, Any]] = dict(index["episodes"])
        self._verified: set[str] = set()

    @classmethod
    def create(cls, directory: Path | str, dataset_hash: str, provenance: Mapping[str, Any]) -> Overlay:
        """Start an overlay, or go on with one that an interrupted run left.

        Raises:
            UserError: the folder holds an overlay of another data set or another generator.
        """
        directory = Path(directory)
        plain = json.loads(json.dumps(provenance))
        if (directory / "index.json").is_file():
            overlay = cls.open(directory, dataset_hash)
            if overlay.provenance != plain:
                raise UserError(f"{directory}: expected views of this generator, got another's; choose another folder")
            return overlay
        overlay = cls(directory, {"dataset": dataset_hash, "provenance": plain, "episodes": {}})
        overlay._write_index()
        return overlay

    @classmethod
    def open(cls, directory: Path | str, dataset_hash: str | None = None) -> Overlay:
        """Open an overlay.

        Args:
            directory: its folder.
            dataset_hash: hash of the data set that it is to be read with; None skips the comparison.

        Raises:
            UserError: there is none, its index is damaged, or it belongs to another data set.
        """
        path = Path(directory) / "index.json"
        try:
            index = json.loads(path.read_text())
            overlay = cls(path.parent, index)
            for entry in overlay._entries.values():
                _check_entry(entry)
        except OSError as error:
            raise UserError(f"{path}: expected an overlay's index, got {error.strerror}; generate the views") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{path}: expected an overlay's index, got damaged JSON; generate the views again"
            ) from None
        if dataset_hash is not None and overlay.dataset != dataset_hash:
            raise UserError(
                f"{directory}: expected an overlay of data set {dataset_hash[:12]}, got one of {overlay.dataset[:12]}; "
                "the recordings changed or this is another's: generate the views again"
            )
        return overlay

    @property
    def episodes(self) -> tuple[str, ...]:
        """Ids of the episodes that have generated views."""
        return tuple(self._entries)

    def __contains__(self, episode: str) -> bool:
        return episode in self._entries

    def add(self, episode: str, frames: NDArray[np.uint8], condition: NDArray[np.uint8] | None = None) -> None:
        """Store an episode's generated wrist view; an episode that is there already is replaced.

        Args:
            episode: its id.
            frames: uint8 (T, H, W, 3), one for every frame of the episode.
            condition: uint8 (T, h, w, 3), the condition maps behind them, or None.

        Raises:
            UserError: another type or shape.
        """
        arrays = {"wrist": frames} | ({} if condition is None else {"condition": condition})
        for name, array in arrays.items():
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or len(array) != len(frames):
                raise UserError(
                    f"overlay {name}: expected uint8 ({len(frames)}, H, W, 3), got {array.dtype} {array.shape}"
                )
        if len(frames) == 0:
            raise UserError(f"overlay: expected frames of episode {episode}, got none")
        content = _packed(arrays)
        digest = hashlib.sha256(content).hexdigest()
        atomic.write_bytes(self._file(digest), content)
        self._entries[episode] = {
            "frames": len(frames),
            "size": list(frames.shape[1:3]),
            "condition_size": None if condition is None else list(condition.shape[1:3]),
            "sha256": digest,
        }
        self._write_index()

    def load(self, episode: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return the generated wrist frames ``start:stop`` of an episode, uint8 (T, H, W, 3).

        Raises:
            UserError: the episode has none, the range leaves it, or the file is missing, truncated or changed.
        """
        return self._load(episode, "wrist", self._entry(episode)["size"], start, stop)

    def load_condition(self, episode: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8] | None:
        """Return the condition maps ``start:stop``, uint8 (T, h, w, 3), or None where none were stored."""
        size = self._entry(episode).get("condition_size")
        return None if size is None else self._load(episode, "condition", size, start, stop)

    def attach(self, episode: Episode) -> Episode:
        """Return the episode with one more key, its rig's ``generated``; an episode without views as it is.

        CALVIN's is ``rgb_gripper_generated``, LeRobot's ``observation.images.wrist_generated``.

        Raises:
            UserError: the overlay's views are not as many as the episode's frames.
        """
        if episode.id not in self:
            return episode
        frames = self._entry(episode.id)["frames"]
        if frames != len(episode):
            raise UserError(
                f"overlay: expected {len(episode)} frames of episode {episode.id}, got {frames}; generate again"
            )
        return replace(
            episode, source=_Overlaid(episode.source, self, episode.id, episode.first, episode.rig.generated)
        )

    def _entry(self, episode: str) -> dict[str, Any]:
        if episode not in self._entries:
            raise UserError(f"{self.directory}: expected views of episode {episode}, got none; generate them first")
        return self._entries[episode]

    def _file(self, digest: str) -> Path:
        return self.directory / "views" / f"{digest}.npz"

    def _load(self, episode: str, name: str, size: Sequence[int], start: int, stop: int | None) -> NDArray[np.uint8]:
        entry = self._entry(episode)
        frames = int(entry["frames"])
        stop = frames if stop is None else stop
        if not 0 <= start < stop <= frames:
            raise UserError(f"overlay of {episode}: expected 0 <= start < stop <= {frames}, got {start}:{stop}")
        path = self._file(entry["sha256"])
        self._verify(path, entry["sha256"])
        specs = {}
        for piece in range(start // _PIECE, (stop - 1) // _PIECE + 1):
            length = min(_PIECE, frames - piece * _PIECE)
            specs[f"{name}_{piece:05d}"] = ArraySpec((length, *size, 3), ("uint8",))
        pieces = load_npz(path, specs, max_bytes=_MAX_FILE_BYTES)
        offset = start // _PIECE * _PIECE
        return np.concatenate([pieces[key] for key in specs])[start - offset : stop - offset]

    def _verify(self, path: Path, digest: str) -> None:
        """Compare a file's content with its name, once."""
        if digest in self._verified:
            return
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path}: expected generated views, got {error.strerror}; generate them again") from None
        if found != digest:
            raise UserError(
                f"{path}: expected content of that hash, got {found[:12]}…: damaged; generate the views again"
            )
        self._verified.add(digest)

    def _write_index(self) -> None:
        index = {"dataset": self.dataset, "provenance": self.provenance, "episodes": self._entries}
        atomic.write_json(self.directory / "index.json", index)


def _check_entry(entry: Mapping[str, Any]) -> None:
    """Raise a ValueError, KeyError or TypeError for an index entry that :meth:`Overlay.add` cannot have written."""
    sizes = [entry["frames"], *entry["size"], *(entry.get("condition_size") or ())]
    if not all(isinstance(size, int) and 0 < size < 1 << 24 for size in sizes) or len(entry["size"]) != 2:
        raise ValueError(f"sizes {sizes}")
    if len(entry["sha256"]) != 64 or not set(entry["sha256"]) <= set("0123456789abcdef"):
        raise ValueError(f"hash {entry['sha256']}")


def _packed(arrays: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """Return a zip of ``.npy`` pieces; the same frames give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            for piece, start in enumerate(range(0, len(array), _PIECE)):
                buffer = io.BytesIO()
                np.save(buffer, np.ascontiguousarray(array[start : start + _PIECE]), allow_pickle=False)
                member = zipfile.ZipInfo(f"{name}_{piece:05d}.npy")
                archive.writestr(member, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
    return content.getvalue()


@dataclass(frozen=True)
class _Overlaid:
    """An episode's own frames with the generated view as one more key."""

    source: FrameSource
    overlay: Overlay
    episode: str
    first: int
    generated: str

    def keys(self, frame: int) -> tuple[str, ...]:
        """Return the recorded keys and the generated one."""
        return (*self.source.keys(frame), self.generated)

    def read(self, frames: range, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the recorded arrays and, if asked for, the generated one."""
        own = [key for key in keys if key != self.generated]
        arrays = self.source.read(frames, own) if own else {}
        if self.generated in keys:
            start = frames[0] - self.first
            views = self.overlay.load(self.episode, start, frames[-1] - self.first + 1)
            arrays[self.generated] = views[:: frames.step]
        return arrays
