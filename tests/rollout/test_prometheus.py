"""What Prometheus is told of a rollout, read back by Prometheus's own parser."""

from __future__ import annotations

import shutil
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rollout_doubles import TASKS, chains

from bench.errors import UserError
from bench.rollout import prometheus, servers
from bench.rollout.prometheus import MetricsOptions, exported
from bench.rollout.sources import PolicySource
from bench.rollout.workers import roll_out
from bench.rollout.world import WorldOptions

JOB = {"arm": "real", "seed": "3"}


def run(out: Path, workers: int, metrics: Any, count: int = 6, **options: Any) -> Any:
    world = {"slow_s": options.pop("slow_s", 0.0), "trouble": options.pop("trouble", {})}
    return roll_out(
        PolicySource("rollout_doubles:NoisyPolicy"), chains(count), arm="real", seed=3, workers=workers, out=out,
        world=WorldOptions(factory="rollout_doubles:PointWorld", options=world), steps_per_subtask=25,
        instructions={task: task for task in TASKS}, progress=False, metrics=metrics, **options,
    )  # fmt: skip


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return read(text)[f"wristbench_{name}", tuple(sorted(labels.items()))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_file_says_what_the_ledger_says_and_goes_on_where_an_earlier_run_stopped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.prom"
    with exported(MetricsOptions(file=file)) as metrics:
        first = run(tmp_path / "out", 0, metrics, 3)
    text = file.read_text()
    assert value(text, "chains_wanted", **JOB) == value(text, "chains_done_total", **JOB) == 3
    with exported(MetricsOptions(file=file)) as metrics:
        rows = run(tmp_path / "out", 0, metrics, 6)
    text = file.read_text()
    assert value(text, "chains_wanted", **JOB) == value(text, "chains_done_total", **JOB) == 6
    assert value(text, "chains_missing_total", **JOB) == 0
    assert value(text, "average_length", **JOB) == pytest.approx(sum(row.solved for row in rows) / 6)
    assert value(text, "env_steps_total") == sum(sum(row.steps) for row in rows) - sum(sum(r.steps) for r in first)
    assert value(text, "worker_seconds_total", part="policy") > 0
    assert not [path for path in tmp_path.iterdir() if path.name not in ("metrics.prom", "out")], "no half-written file"


def test_faults_and_actors_are_counted(ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "POLL_S", 0.2)
    file = tmp_path / "metrics.prom"
    with exported(MetricsOptions(file=file)) as metrics:
        rows = run(tmp_path / "out", 2, metrics, 12, trouble={4: "die"}, slow_s=0.01, inference="actor", max_batch=4)
    text = file.read_text()
    assert len(rows) == 11
    assert value(text, "chains_missing_total", **JOB) == 1
    assert value(text, "worker_restarts_total") == 2
    server = {"model": "policy", "server": "0"}
    assert value(text, "inference_batches", **server) > 0
    assert 0 < value(text, "inference_batch_fill_ratio", **server) <= 1
    assert value(text, "inference_queue_seconds", quantile="0.95", **server) >= 0
    assert value(text, "inference_predict_seconds", quantile="0.5", **server) > 0


def test_port_is_scraped_while_the_rollout_goes_on_and_listens_on_loopback_only(tmp_path: Path) -> None:
    port, seen = free_port(), []

    def scrape(_ledger: Any) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            seen.append(answer.read().decode())
        return False

    with exported(MetricsOptions(port=port)) as metrics:
        listening = [c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]
        run(tmp_path, 0, metrics, 3, until=scrape)
    assert [value(text, "chains_done_total", **JOB) for text in seen] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_nothing_is_made_where_nobody_asks() -> None:
    with exported(MetricsOptions()) as metrics:
        assert metrics is None


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"files that end in \.prom"):
        MetricsOptions(file=tmp_path / "metrics.txt")
    with pytest.raises(UserError, match="1 to 65535, got 0"):
        MetricsOptions(port=0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"metrics at 127.0.0.1:{port}: .*in use"), exported(MetricsOptions(port)):
            pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="give another place"),
        exported(MetricsOptions(file=tmp_path / "file" / "m.prom")),
    ):
        pass
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UserError, match="pip install"), exported(MetricsOptions(port=1)):
        pass


def test_file_that_cannot_be_written_any_more_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "collector"
    folder.mkdir()
    monkeypatch.setattr(prometheus, "WRITE_S", 0.0)
    with exported(MetricsOptions(file=folder / "m.prom")) as metrics:
        shutil.rmtree(folder)
        assert len(run(tmp_path / "out", 0, metrics, 3)) == 3
    assert not folder.exists()
