"""``wristbench parity | perf …``: how true the world is, and how fast each hot path."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.verbs.common import Verbs, add_inference, add_ray, add_world, seed, whole


def _parity(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.calvin.parity import parity

    return parity(
        args.assets,
        args.reference,
        builtin=args.builtin,
        led_button=args.led_button,
        cross_count=args.cross,
        sheets=args.sheets,
    )


def _perf_env(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.perf.env import measure, measure_many

    world = {"scene": args.scene, "assets": args.calvin_assets, "renderer": args.renderer}
    result = measure(args.steps, **world)
    if args.workers:
        result["crowd"] = [measure_many(workers, args.steps, **world) for workers in args.workers]
    return result


def _perf_collect(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.demonstrations import CollectOptions
    from bench.perf.collect import measure

    options = CollectOptions(
        scenes=args.scenes,
        episodes=args.episodes,
        validation_episodes=len(args.scenes),
        seed=args.seed,
        depth=not args.no_depth,
        assets=args.calvin_assets,
        renderer=args.renderer,
    )
    return measure(
        options,
        workers=args.workers,
        formats=args.formats,
        folder=args.out,
        ray_address=args.ray_address,
        progress=not args.quiet,
    )


def _perf_experts(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.perf.experts import measure

    return measure(
        args.scenes,
        args.starts,
        tasks=args.tasks,
        seed=args.seed,
        noise=args.noise,
        assets=args.calvin_assets,
        workers=args.workers,
        ray_address=args.ray_address,
        progress=not args.quiet,
    )


def _perf_data(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.perf.data import measure

    return measure(args.dataset, frames=args.frames, seconds=args.seconds, lerobot=args.lerobot_python)


def _perf_policy(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.perf.policy import PolicyPerf, measure, parse_changes

    options = PolicyPerf(
        kind=args.kind,
        scale=args.scale,
        parts=tuple(args.parts),
        device=args.device,
        steps=args.steps,
        batch=args.batch,
        launch=args.launch,
        parallel=args.parallel,
        changes=parse_changes(args.change, args.kind),
    )
    return measure(options)


def _perf_rollout(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.perf.rollout import PerfOptions, measure
    from bench.rollout.world import WorldOptions

    options = PerfOptions(
        policy=args.policy,
        workers=tuple(args.workers),
        chains=args.chains,
        lanes=args.lanes,
        servers=args.servers,
        inference=args.inference,
        batch=args.batch,
        slow_policy_ms=args.slow_policy_ms,
        steps_per_subtask=args.steps_per_subtask,
        ray_address=args.ray_address,
    )
    return measure(options, WorldOptions(args.scene, args.calvin_assets, args.renderer), progress=not args.quiet)


def _perf_serve(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.perf.serve import measure

    return measure(
        args.policy,
        protocol=args.protocol,
        clients=args.clients,
        requests=args.requests,
        device=args.device,
        pad=args.pad,
    )


def add(verbs: Verbs) -> None:
    """Add this file's verbs."""
    parity = verbs.add("parity", _parity, "compare this CALVIN world with recordings of the original",
                       "parity --assets calvin_env --reference recordings --json")  # fmt: skip
    parity.add_argument("--assets", type=Path, metavar="DIR", help="a calvin_env checkout (holds data/)")
    parity.add_argument("--reference", type=Path, required=True, metavar="DIR",
                        help="recordings of the original; what it lacks counts as 0")  # fmt: skip
    parity.add_argument("--builtin", action="store_true", help="judge the built-in scenes instead of CALVIN's assets")
    parity.add_argument("--led-button", choices=("main", "pinned"), default="main", help="calvin_env's commit")
    parity.add_argument("--cross", type=whole, default=0, metavar="N",
                        help="also record N demonstrations on each table and replay them on the other")  # fmt: skip
    parity.add_argument("--sheets", type=Path, metavar="DIR", help="also write contact sheets beside the original's")
    perf = Verbs(verbs.group("perf", "measure the speed of a hot path", "example:\n  wristbench perf env --json"))
    env = perf.add("env", _perf_env, "steps a second of the CALVIN world", "perf env --steps 300 --json")
    env.add_argument("--scene", choices=tuple("ABCD"), default="D")
    env.add_argument("--steps", type=whole, default=300, metavar="N")
    env.add_argument("--workers", type=whole, nargs="+", default=[], metavar="W", help="also with W processes at once")
    add_world(env)
    collect = perf.add("collect", _perf_collect, "frames a minute that are collected, and what the time goes on",
                       "perf collect --episodes 34 --workers 2 --formats packed --json")  # fmt: skip
    collect.add_argument("--scenes", default="D", metavar="ABCD")
    collect.add_argument("--episodes", type=whole, default=68, metavar="N", help="demonstrations of each run")
    collect.add_argument("--workers", type=whole, nargs="+", default=[2], metavar="W", help="one run for each")
    collect.add_argument("--formats", choices=("calvin", "packed"), nargs="+", default=["calvin", "packed"])
    collect.add_argument("--no-depth", action="store_true")
    collect.add_argument("--seed", type=seed, default=0, metavar="N")
    collect.add_argument("--out", type=Path, metavar="DIR", help="the disk to write to; default: temporary files")
    collect.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster; default: this machine")
    add_world(collect)
    experts = perf.add("experts", _perf_experts, "how often the scripted experts succeed, by task and scene",
                       "perf experts --scenes D --starts 5 --workers 2")  # fmt: skip
    experts.add_argument("--scenes", default="ABCD", metavar="ABCD")
    experts.add_argument("--starts", type=whole, default=100, metavar="N", help="random starts of each task and scene")
    experts.add_argument("--tasks", default="all", metavar="TASK,…", help="all, or names separated by commas")
    experts.add_argument(
        "--noise", type=float, default=0.0, metavar="S", help="disturb motion, not labels; 0.2 is much"
    )
    experts.add_argument("--seed", type=seed, default=0, metavar="N")
    experts.add_argument("--calvin-assets", type=Path, metavar="DIR", help="a calvin_env checkout; default: built-in")
    add_ray(experts)
    data = perf.add("data", _perf_data, "frames a second of every format, beside CALVIN's np.load and LeRobot's loader",
                    "perf data --dataset task_D_D --json")  # fmt: skip
    data.add_argument("--dataset", type=Path, metavar="DIR", help="a CALVIN data set; default: one made on the spot")
    data.add_argument("--frames", type=whole, default=1024, metavar="N", help="about how many frames are used")
    data.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="how long each way of reading is measured"
    )
    data.add_argument("--lerobot-python", metavar="PYTHON", help="the Python that has lerobot; default: this one")
    policy = perf.add("policy", _perf_policy, "training samples a second and latency of a policy, beside the device's",
                      "perf policy --scale tiny --json")  # fmt: skip
    policy.add_argument("--kind", choices=("flow", "vpp"), default="flow")
    policy.add_argument("--scale", choices=("tiny", "small", "base", "paper"), default="small", help="paper: vpp only")
    policy.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    policy.add_argument("--steps", type=whole, default=60, metavar="N", help="training steps; half of them warm up")
    policy.add_argument("--batch", type=whole, metavar="B", help="samples a step; default: the scale's own")
    policy.add_argument("--parts", choices=("train", "latency"), nargs="+", default=["train", "latency"])
    policy.add_argument("--launch", choices=("eager", "compile", "graph", "compile+graph"),
                        help="how training steps are launched; default: as training does by itself")  # fmt: skip
    policy.add_argument("--parallel", type=whole, default=1, metavar="N", help="trainings side by side on the device")
    policy.add_argument("--change", nargs="+", default=[], metavar="NAME=VALUE", help="of the policy: stem_stride=2 …")
    rollout = perf.add("rollout", _perf_rollout, "chains an hour with 1, 2, 4 … workers, and where the time goes",
                       "perf rollout --policy tiny --workers 1 2 --json")  # fmt: skip
    rollout.add_argument("--policy", default="small", metavar="NAME|DIR",
                         help="tiny, small or base (untrained), expert, random, or a checkpoint folder")  # fmt: skip
    rollout.add_argument("--workers", type=whole, nargs="+", default=[1, 2], metavar="W", help="one rollout for each")
    rollout.add_argument("--chains", type=whole, metavar="N", help="of each rollout; default: 8 a worker")
    rollout.add_argument("--steps-per-subtask", type=whole, default=360, metavar="N")
    rollout.add_argument("--slow-policy-ms", type=float, default=0.0, metavar="MS",
                         help="least time of a forward: what a larger policy would take")  # fmt: skip
    rollout.add_argument("--scene", choices=tuple("ABCD"), default="D")
    rollout.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster; default: this machine")
    add_inference(rollout)
    add_world(rollout)
    rollout.set_defaults(show="perf rollout")
    serve = perf.add("serve", _perf_serve, "how long clients of a served policy wait, and beside a hostile one",
                     "perf serve --policy flow-untrained --json")  # fmt: skip
    serve.add_argument("--policy", default="flow-untrained", metavar="NAME|DIR", help="a name or a checkpoint folder")
    serve.add_argument("--protocol", choices=("openpi", "vla-eval"), default="openpi")
    serve.add_argument("--clients", type=whole, nargs="+", default=[1, 16, 64], metavar="N", help="at once")
    serve.add_argument("--requests", type=whole, default=640, metavar="N", help="answers counted for each number")
    serve.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    serve.add_argument("--pad", action="store_true", help="always fill batches up")
