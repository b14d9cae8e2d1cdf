"""``wristbench serve``: a policy for robots and harnesses that speak openpi's or vla-eval's protocol."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.verbs.common import Verbs, say, whole

if TYPE_CHECKING:
    from policies.api import Policy


def _serve(args: argparse.Namespace) -> Mapping[str, Any]:
    from policies.conventions import METRIC_ACTIONS, Converted
    from policies.remote import TOKEN_VARIABLE
    from policies.server import ServerOptions, serve_until_stopped

    options = ServerOptions(
        protocol=args.protocol,
        host=args.host,
        port=args.port,
        token=args.token or os.environ.get(TOKEN_VARIABLE),
        names=dict(args.name),
        max_batch=args.batch,
        pad=args.pad,
    )
    from bench.jobs import device

    policy = _policy(args.policy, args.device or device())
    if args.metric:
        policy = Converted(policy, METRIC_ACTIONS)

    def ready(address: str) -> None:
        if not args.quiet:
            say(f"serving {policy.spec.name} at {args.protocol}://{address}; Ctrl-C stops it")

    statistics = serve_until_stopped(policy, options, ready)
    return {"policy": policy.spec.name, "protocol": args.protocol, **statistics}


def _policy(name: str, device: str) -> Policy:
    """Return the policy to be served: by name, folder or address, or one's own as ``module:callable``."""
    from bench.rollout.sources import PolicySource, is_callable
    from policies.api import Policy
    from policies.registry import load_policy

    if not is_callable(name):
        return load_policy(name, device=device)
    built = PolicySource(name).load()
    if not isinstance(built, Policy):
        raise UserError(
            f"policy {name!r}: expected act(batch, seeds) to serve, got a {type(built).__name__}, which "
            "remembers its subtask or reads the simulator; roll it out instead"
        )
    return built


def _name(text: str) -> tuple[str, str]:
    name, equals, key = text.partition("=")
    if not (name and equals and key):
        raise argparse.ArgumentTypeError(f"expected NAME=KEY, got {text}")
    return name, key


def add(verbs: Verbs) -> None:
    """Add this file's verbs."""
    serve = verbs.add("serve", _serve, "serve a policy to clients that speak openpi's or vla-eval's protocol",
                      "serve --policy policies/real-0 --protocol openpi --port 8000")  # fmt: skip
    serve.add_argument("--policy", required=True, metavar="NAME|DIR", help="a name (random, …), a checkpoint folder, "
                       "an address, or module:callable")  # fmt: skip
    serve.add_argument("--protocol", choices=("openpi", "vla-eval"), default="openpi")
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="interface; not loopback: needs a token")
    serve.add_argument("--port", type=whole, default=8000, metavar="N", help="0: any free one")
    serve.add_argument("--token", metavar="TEXT", help="clients must show it; better in WRISTBENCH_TOKEN")
    serve.add_argument("--name", type=_name, action="append", default=[], metavar="NAME=KEY",
                       help="what anchor, wrist, instruction or proprio is called on the wire")  # fmt: skip
    serve.add_argument("--metric", action="store_true", help="give steps in metres and radians, as vla-eval's CALVIN "
                       "benchmark takes them, instead of CALVIN's units")  # fmt: skip
    serve.add_argument("--batch", type=whole, default=16, metavar="B", help="most requests in one call of the policy")
    serve.add_argument("--pad", action="store_true", help="always fill batches up: answers to the last bit the same "
                       "whoever else asks")  # fmt: skip
    serve.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
