"""The ledger: one line of JSON per finished chain, appended and flushed to disk before anyone counts it as done.

One process writes.  The first lines hold the protocol's fingerprint, and a ledger takes no rows under another one, so a
table never mixes two experiments.  A line that a crash tore in the middle is cut off when the ledger is opened again;
its chain is simply run once more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bench.atomic import make_directory, replacing, write_json
from bench.errors import UserError
from bench.rollout.chain import ChainResult

LEDGER_FILE, LEDGER_VERSION = "ledger.jsonl", 1
CLAIMS, CLAIM_S = 5, 0.05

Key = tuple[str, int, int]
"""(arm, seed, chain_id)."""


@dataclass
class Contents:
    """What the whole lines of a ledger say.

    Attributes:
        fingerprint: what the rows depend on besides arm, seed and chain.
        rows: the finished chains.
        missing: the chains that could not be run, and why.
    """

    fingerprint: dict[str, Any] = field(default_factory=dict)
    rows: dict[Key, ChainResult] = field(default_factory=dict)
    missing: dict[Key, str] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: bytes, path: Path) -> Contents:
        """Read whole lines.

        Raises:
            UserError: a line that no ledger of this version has; the message names ``path`` and the line.
        """
        contents = cls()
        for number, line in enumerate(lines.splitlines(), start=1):
            try:
                contents._take(json.loads(line), path, first=number == 1)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{path}, line {number}: not a ledger line ({error}); move the file away") from error
        return contents

    def _take(self, entry: dict[str, Any], path: Path, *, first: bool) -> None:
        if first and entry.get("ledger") != LEDGER_VERSION:
            raise UserError(
                f"{path}: expected ledger version {LEDGER_VERSION}, got {entry.get('ledger')!r}; use another --out"
            )
        if "fingerprint" in entry:
            self.fingerprint.update(entry["fingerprint"])
        elif "missing" in entry:
            note = entry["missing"]
            self.missing[(note["arm"], note["seed"], note["chain_id"])] = note["reason"]
        elif "ledger" not in entry:
            result = ChainResult.from_json(entry)
            key = (result.arm, result.seed, result.chain_id)
            if key in self.rows:
                raise ValueError(f"chain {result.chain_id} of arm {result.arm!r}, seed {result.seed} is there twice")
            self.rows[key] = result
            self.missing.pop(key, None)


def read_ledger(path: Path) -> tuple[Contents, bool]:
    """Return what a ledger says now, and whether a run holds it; neither waits nor disturbs that run.

    Raises:
        UserError: there is no ledger, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            try:  # before the content is read: what nobody holds then is all there will be
                fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.flock(file.fileno(), fcntl.LOCK_UN)
                held = False
            except BlockingIOError:
                held = True
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the folder of a rollout") from error
    return Contents.of(content[: content.rfind(b"\n") + 1], path), held


class Ledger:
    """Finished chains on disk, keyed by (arm, seed, chain_id).

    Args:
        path: the file, usually ``RUN/ledger.jsonl``; made if it is not there.
        fingerprint: what the rows depend on besides arm, seed and chain; compared with the file's own.

    Raises:
        UserError: the file was written under another fingerprint or version, is open elsewhere, or is no ledger.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.fingerprint: dict[str, Any] = {}
        self._rows: dict[Key, ChainResult] = {}
        self._missing: dict[Key, str] = {}
        self._file: IO[bytes] | None = None
        make_directory(path.parent)
        with disk_faults(path):
            self._file = path.open("a+b")
            self._claim()
            self._read()
        try:
            if self.size == 0:
                self._write({"ledger": LEDGER_VERSION})
            self.bind(fingerprint or {})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes on disk that hold whole lines."""
        return os.fstat(self._open.fileno()).st_size

    @property
    def _open(self) -> IO[bytes]:
        if self._file is None:
            raise UserError(f"{self.path}: the ledger is closed; open it again")
        return self._file

    def bind(self, facts: Mapping[str, Any]) -> None:
        """Add facts to the fingerprint; one that is there already must be equal.

        Raises:
            UserError: some facts differ; the message names them with both values.
        """
        plain = json.loads(json.dumps(facts, allow_nan=False))
        differing = [
            f"{name} (ledger {self.fingerprint[name]!r}, now {value!r})"
            for name, value in plain.items()
            if name in self.fingerprint and self.fingerprint[name] != value
        ]
        if differing:
            raise UserError(
                f"{self.path}: holds chains of another experiment; differing: {'; '.join(differing)}; "
                "use another --out or restore these settings"
            )
        new = {name: value for name, value in plain.items() if name not in self.fingerprint}
        if new:
            self._write({"fingerprint": new})
            self.fingerprint.update(new)

    def append(self, result: ChainResult) -> None:
        """Write one finished chain and flush it to disk.

        Raises:
            UserError: the chain is there already, or the disk is full.
        """
        key = (result.arm, result.seed, result.chain_id)
        if key in self._rows:
            raise UserError(f"{self.path}: chain {result.chain_id} of arm {result.arm!r}, seed {result.seed} is there")
        self._write(result.to_json())
        self._rows[key] = result
        self._missing.pop(key, None)

    def append_missing(self, key: Key, reason: str) -> None:
        """Note a chain that could not be run; a later row for it replaces the note."""
        arm, seed, chain_id = key
        self._write({"missing": {"arm": arm, "seed": seed, "chain_id": chain_id, "reason": reason}})
        self._missing[key] = reason

    def completed(self, arm: str | None = None, seed: int | None = None) -> list[ChainResult]:
        """Return the finished chains, of one arm and seed where given, ordered by arm, seed and chain."""
        chosen = (key for key in self._rows if arm in (None, key[0]) and seed in (None, key[1]))
        return [self._rows[key] for key in sorted(chosen)]

    def missing(self, arm: str | None = None, seed: int | None = None) -> dict[Key, str]:
        """Return the chains that could not be run, and why."""
        return {k: v for k, v in sorted(self._missing.items()) if arm in (None, k[0]) and seed in (None, k[1])}

    def export_jsonl(self, path: Path) -> None:
        """Write the rows, ordered, without the header: what other tools read as ``chains.jsonl``."""
        with disk_faults(path), replacing(path) as beside, beside.open("w") as out:
            for result in self.completed():
                out.write(json.dumps(result.to_json()) + "\n")

    def export_results_json(self, path: Path, arm: str, seed: int) -> None:
        """Write CALVIN's own ``results.json`` for one arm and seed."""
        with disk_faults(path):
            write_json(path, {"0": results_json(self.completed(arm, seed))})

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _claim(self) -> None:
        """Take the lock; somebody who only looks (:func:`read_ledger`) has it for an instant."""
        for _ in range(CLAIMS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._open.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(CLAIM_S)
        self.close()
        raise UserError(f"{self.path}: another run is writing to it; wait for that one or use another --out")

    def _read(self) -> None:
        self._open.seek(0)
        content = self._open.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._open.truncate(whole)
        try:
            contents = Contents.of(content[:whole], self.path)
        except UserError:
            self.close()
            raise
        self.fingerprint, self._rows, self._missing = contents.fingerprint, contents.rows, contents.missing

    def _write(self, entry: dict[str, Any]) -> None:
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        before = self.size
        with disk_faults(self.path):
            try:
                self._open.write(line)
                self._open.flush()
                os.fsync(self._open.fileno())
            except OSError:
                self._undo(before)
                raise

    def _undo(self, size: int) -> None:
        """Drop what a failed write left, in the file and in Python's buffer, so that the ledger stays whole."""
        stale, self._file = self._open, None
        with contextlib.suppress(OSError):
            stale.close()
        self._file = self.path.open("a+b")
        fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file.truncate(size)


def results_json(results: Sequence[ChainResult]) -> dict[str, Any]:
    """Return CALVIN's own summary (``calvin_agent/evaluation/utils.py: print_and_save``) of one arm's chains.

    Returns:
        ``avg_seq_len`` (mean number solved), ``chain_sr`` ({1..5: share with at least i solved}) and ``task_info``
        ({task: {success, total}}).
    """
    if not results:
        raise UserError("results: no finished chain to summarise; roll out at least one")
    longest = max(len(result.tasks) for result in results)
    tasks: dict[str, dict[str, int]] = {}
    for result in results:
        for position in range(len(result.steps)):
            entry = tasks.setdefault(result.tasks[position], {"success": 0, "total": 0})
            entry["total"] += 1
            entry["success"] += position < result.solved
    return {
        "avg_seq_len": sum(result.solved for result in results) / len(results),
        "chain_sr": {
            str(i): sum(result.solved >= i for result in results) / len(results) for i in range(1, longest + 1)
        },
        "task_info": dict(sorted(tasks.items())),
    }


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn a full disk, or one that cannot be written, into a user error that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: disk full; everything finished is kept, free some space and run again") from error
        raise UserError(f"{path}: cannot be written ({error.strerror}); give a writable --out") from error
