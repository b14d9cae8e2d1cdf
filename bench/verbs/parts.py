"""``wristbench collect | train-policy``: the parts of the main job, each alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.verbs.common import Verbs, add_ray, add_world, seed, whole


def _collect(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.demonstrations import CollectOptions, collect

    tasks = tuple(args.tasks.split(",")) if args.tasks != "all" else "all"
    options = CollectOptions(
        scenes=args.scenes,
        tasks=tasks,
        episodes=args.episodes,
        validation_episodes=args.validation_episodes,
        chain_length=args.chain_length,
        noise=args.noise,
        seed=args.seed,
        assets=args.calvin_assets,
        renderer=args.renderer,
        depth=not args.no_depth,
        format=args.format,
    )
    return collect(args.out, options, workers=args.workers, progress=not args.quiet, ray_address=args.ray_address)


def _train_policy(args: argparse.Namespace) -> Mapping[str, Any]:
    from bench.policy_training import TrainOptions, train_policies
    from bench.suite import policy_part

    options = TrainOptions(
        arms=tuple(args.arm.split(",")),
        seeds=args.seeds,
        overlay=args.overlay,
        paired_share=args.paired_share,
        policy=policy_part(
            kind=args.kind,
            scale=args.scale,
            steps=args.steps,
            batch=args.batch,
            demonstrations=args.demonstrations,
            recolour=args.recolour,
            video_steps=args.video_steps,
            video_weights=args.video_weights,
        ),
        time_limit_s=args.time_limit,
        launch=args.launch,
        workers=args.workers,
        ray_address=args.ray_address,
        log=args.log,
        progress=not args.quiet,
    )
    return train_policies(args.dataset, args.out, options)


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(seed(one) for one in text.split(","))


def add(verbs: Verbs) -> None:
    """Add this file's verbs."""
    collect = verbs.add("collect", _collect, "collect demonstrations with scripted experts",
                        "collect --scenes D --tasks open_drawer,close_drawer --episodes 20 --out demos")  # fmt: skip
    collect.add_argument("--scenes", default="D", metavar="ABCD", help="letters of the scenes, in equal parts")
    collect.add_argument("--tasks", default="all", metavar="TASK,…", help="all, or names separated by commas")
    collect.add_argument("--episodes", type=whole, default=100, metavar="N", help="training demonstrations, or chains")
    collect.add_argument("--validation-episodes", type=whole, default=10, metavar="N",
                         help="of a split of its own, at least 1")  # fmt: skip
    collect.add_argument("--chain-length", type=whole, default=1, metavar="K",
                         help="an episode is up to K tasks in a row without a reset, each annotated")  # fmt: skip
    collect.add_argument(
        "--noise", type=float, default=0.0, metavar="S", help="disturb motion, not labels; 0.2 is much"
    )
    collect.add_argument("--seed", type=seed, default=0, metavar="N", help="another one gives other demonstrations")
    collect.add_argument("--format", choices=("calvin", "packed"), default="calvin",
                         help="a compressed file a frame, or memory-mapped shards; both are read the same")  # fmt: skip
    collect.add_argument("--no-depth", action="store_true", help="no depth: the tiny and small world models need it")
    collect.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the data set; goes on after a kill")
    train = verbs.add("train-policy", _train_policy, "train policies of several arms and seeds on one data set",
                      "train-policy --arm anchor,real --seeds 0,1,2 --dataset demos --out policies")  # fmt: skip
    train.add_argument("--arm", required=True, metavar="ARM,…", help="anchor, real, paired, generated, …")
    train.add_argument("--seeds", type=_seeds, default=(0,), metavar="N,…", help="a policy of each arm for each")
    train.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="a data set in CALVIN's format")
    train.add_argument("--overlay", type=Path, metavar="DIR", help="generated wrist views of its training split")
    train.add_argument("--paired-share", type=float, default=0.2, metavar="P", help="episodes with wrist recordings")
    train.add_argument("--kind", choices=("flow", "bc", "vpp"), default="flow", help="bc: regression instead of flow "
                       "matching; vpp: on a video model's features")  # fmt: skip
    train.add_argument("--scale", choices=("tiny", "small", "base", "paper"), default="small", help="paper: vpp only")
    train.add_argument("--steps", type=whole, metavar="N", help="training steps; default: the scale's own")
    train.add_argument("--batch", type=whole, metavar="B", help="samples a step; default: the scale's own")
    train.add_argument("--recolour", type=float, default=0.0, metavar="S",
                       help="recolour training images at random, 0 to 1, for scenes not trained on")  # fmt: skip
    train.add_argument("--video-steps", type=whole, metavar="N", help="vpp: training steps of its video predictor")
    train.add_argument("--video-weights", metavar="ID|DIR", help="vpp at paper: a Stable Video Diffusion pipeline")
    train.add_argument("--demonstrations", type=whole, metavar="N", help="train on the first N only; a smaller set "
                       "lies within a larger one, tasks and scenes in proportion")  # fmt: skip
    train.add_argument("--time-limit", type=float, metavar="S", help="end each training after S seconds; arms that are "
                       "compared are better given steps")  # fmt: skip
    train.add_argument("--launch", choices=("eager", "compile", "graph", "compile+graph"),
                       help="how training steps are launched; default: the policy's own choice")  # fmt: skip
    train.add_argument("--log", choices=("none", "tensorboard", "wandb", "trackio"), default="none",
                       help="where the curves go besides history.jsonl and loss.png")  # fmt: skip
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets a folder for each policy")
    add_ray(train)
    add_ray(collect)
    add_world(collect)
