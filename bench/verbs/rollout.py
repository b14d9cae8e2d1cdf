"""``wristbench rollout | watch``: one policy on CALVIN's chains, and looking at a run while it goes on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.verbs.common import Verbs, add_inference, add_ray, add_world, seed, whole


def _rollout(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.evaluate import RolloutOptions, roll_out_policy
    from bench.rollout.prometheus import MetricsOptions

    options = RolloutOptions(
        scene=args.scene,
        chains=args.chains,
        workers=args.workers,
        seed=args.seed,
        steps_per_subtask=args.steps_per_subtask,
        assets=args.calvin_assets,
        renderer=args.renderer,
        ray_address=args.ray_address,
        inference=args.inference,
        lanes=args.lanes,
        servers=args.servers,
        batch=args.batch,
        films=args.film,
        film_format=args.film_format,
        instructions=args.instructions,
        against=args.against,
        early_stop=args.early_stop,
        progress=not args.quiet,
        metrics=MetricsOptions(args.metrics_port, args.metrics_host, args.metrics_file),
    )
    return roll_out_policy(args.policy, args.out, options)


def _watch(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.rollout.watch import follow, look

    return look(args.run) if args.once or args.quiet else follow(args.run)


def _films(text: str) -> str | int:
    if text in ("none", "failures", "successes", "all"):
        return text
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected failures, successes, all or a number, got {text}")
    return int(text)


def add(verbs: Verbs) -> None:
    """Add this file's verbs."""
    rollout = verbs.add("rollout", _rollout, "roll out a policy on CALVIN's chains",
                        "rollout --policy expert --chains 20 --workers 2 --out results/expert")  # fmt: skip
    rollout.add_argument("--policy", required=True, metavar="NAME|DIR",
                         help="expert, random, a checkpoint folder, openpi://HOST:PORT, vla-eval://HOST:PORT, or "
                         "module:callable")  # fmt: skip
    rollout.add_argument("--scene", choices=tuple("ABCD"), default="D", help="the world that it is tested in")
    rollout.add_argument("--chains", type=whole, default=1000, metavar="N", help="the first N of the 1000")
    rollout.add_argument("--steps-per-subtask", type=whole, default=360, metavar="N", help="CALVIN gives 360")
    rollout.add_argument("--instructions", default="evaluation", metavar="WHICH",
                         help="evaluation, or training:SEED: one training sentence per task")  # fmt: skip
    rollout.add_argument("--seed", type=seed, default=0, metavar="N", help="of the policy's noise")
    rollout.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the rows; goes on after a kill")
    rollout.add_argument("--film", type=_films, default="none", metavar="WHICH",
                         help="keep a film of failures, successes, all, or the first N chains")  # fmt: skip
    rollout.add_argument("--film-format", choices=("mp4", "rrd"), default="mp4", help="rrd: for Rerun, if installed")
    rollout.add_argument("--against", type=Path, metavar="RUN", help="compare with an earlier rollout, chain by chain")
    rollout.add_argument("--early-stop", type=float, metavar="LEVEL",
                         help="end when --against is decided at this error level, e.g. 0.05")  # fmt: skip
    metrics = rollout.add_argument_group("metrics for Prometheus")
    metrics.add_argument("--metrics-port", type=whole, metavar="PORT", help="to be scraped at http://127.0.0.1:PORT")
    metrics.add_argument("--metrics-host", default="127.0.0.1", metavar="ADDRESS", help="interface of that port")
    metrics.add_argument(
        "--metrics-file", type=Path, metavar="FILE.prom", help="for node_exporter's textfile collector"
    )
    add_inference(rollout)
    add_ray(rollout)
    add_world(rollout)
    watch = verbs.add("watch", _watch, "follow a rollout from another terminal", "watch results/expert")
    watch.add_argument("run", type=Path, metavar="RUN", help="folder of a rollout, or of a suite's run")
    watch.add_argument("--once", action="store_true", help="look once instead of until the run ends")
