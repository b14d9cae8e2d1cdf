"""A rollout's figures for Prometheus: on a port of its own, or in a file for node_exporter's textfile collector.

Both are off unless asked for, and the port is opened on the loopback interface unless another is named.  What watches
a rollout never ends it: a file that cannot be written any more is left as it is.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.rollout.chain import ChainResult
from bench.rollout.spent import PARTS

LOOPBACK = "127.0.0.1"
WRITE_S = 5.0
"""How old the file may become; collectors look every 15 s or more."""
COUNTS = ("steps", "requests")
PREFIX = "wristbench"


@dataclass(frozen=True)
class MetricsOptions:
    """Where the figures go.

    Attributes:
        port: to be scraped at, or None.
        host: interface of that port.
        file: ends in ``.prom``; written again every few seconds, whole or not at all; or None.
    """

    port: int | None = None
    host: str = LOOPBACK
    file: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a port that is none, and a file that no collector would read."""
        if self.port is not None and not 1 <= self.port <= 65535:
            raise UserError(f"metrics port: expected 1 to 65535, got {self.port}; give --metrics-port 9464")
        if self.file is not None and self.file.suffix != ".prom":
            raise UserError(f"metrics file {self.file}: node_exporter reads files that end in .prom; name it so")


class RolloutMetrics:
    """Counts what happens in a rollout; see :func:`exported`."""

    def __init__(self, registry: Any, file: Path | None) -> None:
        from prometheus_client import Counter, Gauge

        def counter(name: str, about: str, *labels: str) -> Any:
            return Counter(f"{PREFIX}_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Any:
            return Gauge(f"{PREFIX}_{name}", about, labels, registry=registry)

        self._registry, self._file, self._written = registry, file, 0.0
        self._scores: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        job = ("arm", "seed")
        self._wanted = gauge("chains_wanted", "Chains that were asked for.", *job)
        self._done = counter("chains_done", "Finished chains, those of earlier runs into the folder included.", *job)
        self._missing = counter("chains_missing", "Chains given up after repeated faults of the machinery.", *job)
        self._length = gauge("average_length", "Subtasks solved in a row (0-5), mean over the finished chains.", *job)
        self._steps = counter("env_steps", "Control steps of the chains that this run finished.")
        self._seconds = counter("worker_seconds", "Seconds that workers gave to finished chains, by part.", "part")
        self._restarts = counter("worker_restarts", "Workers hired in the place of lost ones.")
        server = ("model", "server")
        self._batches = gauge("inference_batches", "Forwards of an inference actor since it started.", *server)
        self._fill = gauge("inference_batch_fill_ratio", "How full its batches were, mean (0-1).", *server)
        self._queue = gauge(
            "inference_queue_seconds", "A request's wait for its forward, latest 10000.", *server, "quantile"
        )
        self._predict = gauge("inference_predict_seconds", "A forward, latest 10000.", *server, "quantile")

    def begin(self, keys: Iterable[tuple[str, int, int]], rows: Iterable[ChainResult]) -> None:
        """Take what is asked for (arm, seed, chain) and what was finished before."""
        wanted: defaultdict[tuple[str, str], int] = defaultdict(int)
        for arm, seed, _ in keys:
            wanted[arm, str(seed)] += 1
        for job, count in wanted.items():
            self._wanted.labels(*job).set(count)
            for one in (self._done, self._missing):
                one.labels(*job).inc(0)
        for row in rows:
            self._score(row)
        self.write()

    def done(self, row: ChainResult, spent: Mapping[str, float]) -> None:
        """Count a finished chain and where its worker's time went."""
        self._score(row)
        self._steps.inc(sum(row.steps))
        for part in PARTS:
            if part not in COUNTS and spent.get(part, 0.0) > 0:
                self._seconds.labels(part).inc(spent[part])
        self.write()

    def missing(self, arm: str, seed: int) -> None:
        """Count a chain that was given up."""
        self._missing.labels(arm, str(seed)).inc()
        self.write()

    def restarted(self) -> None:
        """Count a worker that was hired for a lost one."""
        self._restarts.inc()

    def served(self, actors: Sequence[tuple[str, int, Mapping[str, float | int | None]]]) -> None:
        """Take each inference actor's model, number and statistics (:meth:`policies.batching.Gatherer.statistics`)."""
        for model, number, told in actors:
            server = (model, str(number))
            self._batches.labels(*server).set(told["batches"] or 0)
            if told["batches"]:
                self._fill.labels(*server).set(told["batch_fill"])
                for gauge, quantile, name in (
                    (self._queue, "0.5", "queue_p50_ms"),
                    (self._queue, "0.95", "queue_p95_ms"),
                    (self._predict, "0.5", "predict_p50_ms"),
                ):
                    gauge.labels(*server, quantile).set((told[name] or 0.0) / 1e3)
        self.write()

    def write(self, *, now: bool = False) -> None:
        """Write the file, if there is one and it is old enough."""
        if self._file is None or not (now or time.monotonic() - self._written > WRITE_S):
            return
        with contextlib.suppress(OSError):
            self.write_now(self._file)

    def write_now(self, file: Path) -> None:
        """Write the file whole or not at all; unlike our other files' its half-written name does not end in .prom.

        Raises:
            OSError: it cannot be written.
        """
        from prometheus_client import write_to_textfile

        write_to_textfile(str(file), self._registry)
        self._written = time.monotonic()

    def _score(self, row: ChainResult) -> None:
        job = row.arm, str(row.seed)
        self._scores[job].append(row.solved)
        self._done.labels(*job).inc()
        self._length.labels(*job).set(sum(self._scores[job]) / len(self._scores[job]))


@contextlib.contextmanager
def exported(options: MetricsOptions) -> Iterator[RolloutMetrics | None]:
    """Give the metrics of one rollout, scraped or written until the block ends; None where nobody asked for them.

    Raises:
        UserError: prometheus_client is not installed, the port is taken or the file cannot be written.
    """
    if options.port is None and options.file is None:
        yield None
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise UserError("metrics need prometheus-client: pip install prometheus-client") from None
    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry, options.file)
    with contextlib.ExitStack() as stack:
        try:
            if options.file is not None:
                metrics.write_now(options.file)
                stack.callback(metrics.write, now=True)
            if options.port is not None:
                server, _ = start_http_server(options.port, options.host, registry)
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
        except OSError as error:
            where = options.file if options.port is None else f"{options.host}:{options.port}"
            raise UserError(f"metrics at {where}: {error.strerror or error}; give another place") from error
        yield metrics
