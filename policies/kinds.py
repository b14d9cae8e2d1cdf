"""The kinds of trained policies: their configurations and networks, by the name in a checkpoint.

A kind is a network behind :class:`policies.flow.FlowPolicy`, with the same data, training loop and action head; what
differs is how views become tokens.  ``bc`` is not one of them: it is the flow policy with another head.
"""

from __future__ import annotations

from typing import Any

from policies.api import PolicyError
from policies.config import FlowPolicyConfig
from policies.network import FlowNetwork
from policies.vpp.config import VideoPolicyConfig

CONFIGS: dict[str, type[FlowPolicyConfig]] = {kind.kind: kind for kind in (FlowPolicyConfig, VideoPolicyConfig)}


def config_class(kind: str) -> type[FlowPolicyConfig]:
    """Return the configuration's class; ``PolicyError`` names the kinds that exist."""
    if kind not in CONFIGS:
        raise PolicyError(f"unknown kind of policy {kind!r}; known: {sorted(CONFIGS)}")
    return CONFIGS[kind]


def new_network(config: FlowPolicyConfig, **options: Any) -> FlowNetwork:
    """Return an untrained network of the configuration's kind; ``options`` as its class takes them."""
    if isinstance(config, VideoPolicyConfig):
        from policies.vpp.network import VideoNetwork

        return VideoNetwork(config, **options)
    return FlowNetwork(config, **options)
