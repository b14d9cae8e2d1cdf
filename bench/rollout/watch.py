"""Following a rollout from another terminal: what its ledger says now, whether anybody still writes to it, time left.

Only reads: a run is followed without its help, finished, running or dead.  Not here: the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from bench import atomic
from bench.errors import UserError
from bench.metrics.success import summarise
from bench.rollout.ledger import LEDGER_FILE, Key, read_ledger

PLAN_FILE = "plan.json"
EVERY_S = 2.0
RESAMPLES = 1000


def write_plan(folder: Path, keys: list[Key], done: int) -> None:
    """Write beside a ledger what its run is about to do: all chains of each arm and seed, those done before included.

    Args:
        folder: the ledger's.
        keys: every (arm, seed, chain) that is asked for.
        done: how many of them were finished before.
    """
    arms: dict[str, int] = {}
    for arm, seed, _ in keys:
        arms[f"{arm}/{seed}"] = arms.get(f"{arm}/{seed}", 0) + 1
    who = {"process": os.getpid(), "host": socket.gethostname()}
    plan = {"chains": arms, "done_before": done, "began": time.time(), **who}
    atomic.write_json(folder / PLAN_FILE, plan)


def end_plan(folder: Path) -> None:
    """Write down that enough is known: chains that are not done are not wanted any more."""
    atomic.write_json(folder / PLAN_FILE, {**_plan(folder), "over": True})


def find_ledger(run: Path) -> Path:
    """Return the ledger of a rollout's folder, or the newest one of a suite's run.

    Raises:
        UserError: there is none (yet).
    """
    found = [path for path in (run / LEDGER_FILE, *run.glob(f"stages/*/{LEDGER_FILE}")) if path.is_file()]
    if not found:
        raise UserError(f"{run}: no {LEDGER_FILE} here or in its stages; give the folder of a rollout that has begun")
    return max(found, key=lambda path: path.stat().st_mtime)


def look(run: Path) -> dict[str, Any]:
    """Return the state of a run.

    Returns:
        ``state`` (``"running"``, ``"finished"``, ``"stopped"``: somebody must start it again), ``done``, ``missing``,
        ``total`` (None where the run left no plan), ``chains_per_hour`` and ``eta_s`` (None where unknown), ``reasons``
        (of the missing chains, the last five) and ``arms``: "arm/seed" to ``done``, ``total``, ``missing``,
        ``average_length``, ``interval`` (95 %), ``chain_success`` (None where no chain is done).

    Raises:
        UserError: no rollout is there, or its ledger is damaged.
    """
    path = find_ledger(run)
    contents, held = read_ledger(path)
    plan = _plan(path.parent)
    planned: Mapping[str, int] = plan.get("chains", {})
    by_arm: dict[str, list[Any]] = {name: [] for name in planned}
    for (arm, seed, _), row in sorted(contents.rows.items()):
        by_arm.setdefault(f"{arm}/{seed}", []).append(row)
    lost = [f"{arm}/{seed}" for arm, seed, _ in contents.missing]
    done, total = len(contents.rows), max(sum(planned.values()), len(contents.rows)) if planned else None
    whole = total is None or plan.get("over", False) or done + len(lost) >= total
    state = "running" if held else "finished" if whole else "stopped"
    until = time.time() if held else path.stat().st_mtime
    elapsed = until - plan["began"] if plan else 0.0
    rate = (done - plan["done_before"]) / elapsed if elapsed > 0 else 0.0
    left = total - done - len(lost) if total is not None else 0
    return {
        "ledger": str(path),
        "state": state,
        "done": done,
        "missing": len(lost),
        "total": total,
        "chains_per_hour": 3600 * rate if rate > 0 else None,
        "eta_s": left / rate if state == "running" and rate > 0 else None,
        "reasons": [f"{a}/{s} chain {c}: {why}" for (a, s, c), why in list(contents.missing.items())[-5:]],
        "arms": {name: _arm(rows, planned.get(name), lost.count(name)) for name, rows in by_arm.items()},
    }


def _plan(folder: Path) -> dict[str, Any]:
    try:
        plan = json.loads((folder / PLAN_FILE).read_text())
    except (OSError, ValueError):  # an older rollout, or somebody else's file: what is done shows from the ledger
        return {}
    return plan if isinstance(plan, dict) and {"chains", "done_before", "began"} <= plan.keys() else {}


def _arm(rows: list[Any], planned: int | None, missing: int) -> dict[str, Any]:
    counts = {"done": len(rows), "total": planned, "missing": missing}
    if not rows:
        return {**counts, "average_length": None, "interval": None, "chain_success": None}
    scored = summarise(rows, resamples=RESAMPLES).to_json()
    return {**counts, **{name: scored[name] for name in ("average_length", "interval", "chain_success")}}


def picture(state: Mapping[str, Any]) -> Group:
    """Return the state as a table with a line below it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("arm/seed", "chains", "lost", "length", "95 %", "1/5 %", "2/5", "3/5", "4/5", "5/5"):
        table.add_column(name, justify="left" if name == "arm/seed" else "right", no_wrap=True)
    for name, arm in state["arms"].items():
        counts = [f"{arm['done']}/{arm['total'] or '?'}", str(arm["missing"] or "")]
        if arm["average_length"] is None:
            table.add_row(escape(name), *counts)
            continue
        low, high = arm["interval"]
        shares = [f"{100 * share:.0f}" for share in arm["chain_success"]]
        table.add_row(escape(name), *counts, f"{arm['average_length']:.2f}", f"{low:.2f}–{high:.2f}", *shares)
    parts = [state["state"], f"{state['done']} of {state['total'] or '?'} chains"]
    if state["missing"]:
        parts.append(f"{state['missing']} missing")
    if state["chains_per_hour"]:
        parts.append(f"{state['chains_per_hour']:.0f} chains/h")
    if state["eta_s"] is not None:
        parts.append(f"{duration(state['eta_s'])} left")
    return Group(table, " · ".join(parts), *(escape(reason) for reason in state["reasons"]))


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def follow(run: Path, *, every_s: float = EVERY_S) -> dict[str, Any]:
    """Show a run on stderr until it is no longer running or the user has seen enough; return its last state."""
    state = look(run)
    screen = Live(picture(state), console=Console(stderr=True), auto_refresh=False, transient=True)
    with contextlib.suppress(KeyboardInterrupt), screen as live:  # only the looking ends; the run goes on
        while state["state"] == "running":
            time.sleep(every_s)
            state = look(run)
            live.update(picture(state), refresh=True)
    return state
