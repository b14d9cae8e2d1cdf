"""The world of a rollout as a recipe, and the protocol's fingerprint: what numbers must share to be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.rollout.api import World
from bench.rollout.chain import STEPS_PER_SUBTASK
from bench.rollout.sources import called

PACKAGES_THAT_MATTER = ("numpy", "pybullet", "pybullet-arm64")


@dataclass(frozen=True)
class WorldOptions:
    """How a worker comes by its world; small and picklable.

    Attributes:
        scene: CALVIN scene, ``"A"`` to ``"D"``.
        assets: a CALVIN checkout whose models are used, or None for the built-in ones.
        renderer: ``"auto"``, ``"gl"``, ``"bullet-egl"`` or ``"bullet-tiny"``.
        led_button: ``"main"`` or ``"pinned"``, CALVIN's two behaviours of the LED button.
        factory: ``"module:callable"`` that makes another world of the same interface, or None.
        options: keyword arguments for the factory.
    """

    scene: str = "D"
    assets: Path | str | None = None
    renderer: str = "auto"
    led_button: str = "main"
    factory: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the checkout's path absolute: a worker need not run where the driver does."""
        if self.assets is not None:
            object.__setattr__(self, "assets", str(Path(self.assets).resolve()))

    def build(self) -> World:
        """Build the world here, in this process."""
        if self.factory is not None:
            made: World = called(self.factory, self.options, "world")
            return made
        from bench.calvin.env import CalvinEnv

        world: World = CalvinEnv(self.scene, assets=self.assets, renderer=self.renderer, led_button=self.led_button)
        return world

    def identity(self) -> dict[str, Any]:
        """Return what was asked for; which renderer ``"auto"`` became is a fact of the worker."""
        world = self.factory or ("CALVIN assets" if self.assets else "built-in")
        return {"world": world, "scene": self.scene, "led_button": self.led_button}


def world_facts(world: World) -> dict[str, Any]:
    """Return what only a built world knows and what its numbers depend on: renderer and package versions."""
    facts: dict[str, Any] = {"renderer": getattr(world, "renderer", type(world).__name__)}
    for package in PACKAGES_THAT_MATTER:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return facts


def protocol_fingerprint(
    world: WorldOptions,
    *,
    steps_per_subtask: int = STEPS_PER_SUBTASK,
    instructions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the protocol as plain data; two rollouts are comparable where it is equal.

    Args:
        world: the world's recipe.
        steps_per_subtask: step budget.
        instructions: task to sentence, or None for the evaluation sentences.
    """
    facts = {**world.identity(), "steps_per_subtask": steps_per_subtask}
    if world.factory is None:
        from bench.calvin.sequences import SEQUENCES_HASH

        facts["sequences"] = SEQUENCES_HASH
    if instructions is not None:
        facts["instructions"] = "given:" + plain_hash(dict(instructions))
    elif world.factory is None:
        from bench.calvin.instructions import INSTRUCTIONS_HASH

        facts["instructions"] = INSTRUCTIONS_HASH
    return facts


def plain_hash(data: Any) -> str:
    """Return a short hash of plain JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
