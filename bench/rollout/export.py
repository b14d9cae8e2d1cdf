"""A ledger's rows as tables for other tools: one Parquet file with a row per chain, one with a row per subtask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.atomic import replacing
from bench.rollout.chain import ChainResult
from bench.rollout.ledger import disk_faults

CHAINS, SUBTASKS = "chains.parquet", "subtasks.parquet"


def export_parquet(rows: Sequence[ChainResult], folder: Path) -> None:
    """Write ``chains.parquet`` (a row as in ``chains.jsonl``) and ``subtasks.parquet``.

    A subtask's row has ``arm``, ``seed``, ``chain_id``, ``position`` (0..4), ``task``, ``tried``, ``solved`` and
    ``steps`` (null where it was not tried).
    """
    import pyarrow
    from pyarrow import parquet

    subtasks = [
        {
            "arm": row.arm,
            "seed": row.seed,
            "chain_id": row.chain_id,
            "position": position,
            "task": task,
            "tried": position < len(row.steps),
            "solved": position < row.solved,
            "steps": row.steps[position] if position < len(row.steps) else None,
        }
        for row in rows
        for position, task in enumerate(row.tasks)
    ]
    for name, entries in ((CHAINS, [row.to_json() for row in rows]), (SUBTASKS, subtasks)):
        with disk_faults(folder / name), replacing(folder / name) as beside:
            parquet.write_table(pyarrow.Table.from_pylist(entries), beside)
