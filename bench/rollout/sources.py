"""Where a rollout's actions come from: policies by name, folder or Python path, and the script that knows the state.

A source is a recipe, small and picklable, that each worker follows for itself; a policy is never sent over the wire.
Not here: any network and any training.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from policies.api import CALVIN_ACTIONS, Observation, Policy, PolicyError, PolicySpec, StatefulPolicy
from policies.batching import shaped
from policies.hub import HUB_PREFIX, download
from worldmodel.api import WristGenerator


class ModelLostError(Exception):
    """The process that a model lives in is gone: a fault of the machinery, not of the model.

    Args:
        model: ``"policy"`` or ``"generator"``, which of a chain's two.
        reason: one line.
    """

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(reason)
        self.model = model


BUILT_IN = ("expert", "random")


def is_remote(name: str) -> bool:
    """Return whether ``name`` is the address of a policy that lives elsewhere, see :mod:`policies.addresses`."""
    return "://" in name and not name.startswith(HUB_PREFIX)


def is_callable(name: str) -> bool:
    """Return whether ``name`` is ``"module:callable"``: neither an address, nor a folder with a colon in its name."""
    return ":" in name and "://" not in name and not Path(name).is_dir()


def request_seed(*parts: int) -> int:
    """Return a 63-bit seed made from whole numbers; the same on every machine and in every process."""
    digest = hashlib.blake2b(",".join(str(int(part)) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@runtime_checkable
class Script(Protocol):
    """Acts from the simulator's own state, which no policy may see: the scripted expert."""

    spec: PolicySpec

    def actions(self, env: Any, task: str, rng: np.random.Generator) -> Iterator[NDArray[np.floating]]:
        """Yield (7,) actions for one subtask, without end."""
        ...


class Expert:
    """``bench.calvin.expert`` as a source of actions."""

    spec = PolicySpec("expert", views=(), chunk=1, execute=1)

    def actions(self, env: Any, task: str, rng: np.random.Generator) -> Iterator[NDArray[np.floating]]:
        """Yield the expert's actions; it tries again for as long as the subtask lasts."""
        from bench.calvin.expert import expert_actions

        return expert_actions(env, task, rng)


def ask(policy: Policy, observation: Observation, seed: int) -> NDArray[np.float32]:
    """Return the (K, 7) chunk for one observation.

    Raises:
        PolicyError: the policy raised, or gave what is no chunk of actions.
    """
    spec = policy.spec
    try:
        chunk = np.asarray(policy.act([observation], [seed]))
    except PolicyError:
        raise
    except Exception as error:  # a policy is anyone's code
        raise PolicyError(f"policy {spec.name!r} raised {type(error).__name__}: {error}") from error
    return checked_chunk(spec, chunk)


def checked_chunk(spec: PolicySpec, answer: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (K, 7) chunk in an answer (1, K, 7).

    Raises:
        PolicyError: another shape, a NaN or an infinity; the message names it.
    """
    shaped(answer, spec, 1)
    if not np.isfinite(answer).all():
        entry = tuple(int(i) for i in np.argwhere(~np.isfinite(answer))[0][1:])
        raise PolicyError(
            f"policy {spec.name!r} gave {answer[0][entry]} at (step, entry) {entry}; actions must be finite"
        )
    chunk: NDArray[np.float32] = answer[0]
    return chunk


@dataclass(frozen=True)
class PolicySource:
    """How a worker comes by its policy.

    Attributes:
        name: ``"expert"``, ``"random"`` or another name that ``policies/registry.py`` knows, a checkpoint folder, a
            server's address (``openpi://HOST:PORT``), a Hugging Face repository (``hf://OWNER/NAME``), or
            ``"module:callable"`` for one of your own.
        options: keyword arguments for the callable.
        device: where a network runs, ``"cpu"`` or ``"cuda:0"``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Make a folder's path absolute: a worker need not run where the driver does."""
        if Path(self.name).is_dir():
            object.__setattr__(self, "name", str(Path(self.name).resolve()))

    def load(self) -> Policy | Script | StatefulPolicy:
        """Build the policy here, in this process."""
        if self.name == "expert":
            return Expert()
        if self.name == "random":
            from policies.simple import RandomPolicy

            return RandomPolicy(**self.options)
        if not is_callable(self.name):
            from policies.registry import load_policy

            _refuse_unknown(self.name)
            return load_policy(self.name, device=self.device)
        built: Policy | Script | StatefulPolicy = called(self.name, self.options, "policy")
        if not isinstance(built, (Policy, Script, StatefulPolicy)):
            raise UserError(f"policy {self.name!r} is a {type(built).__name__} without spec and act(batch, seeds)")
        return built

    def identity(self) -> dict[str, Any]:
        """Return what makes this policy itself.

        A checkpoint is known by its content, not by its folder; one that a server has by what the server says of it.

        Raises:
            PolicyError: the server is not there.
        """
        if Path(self.name).is_dir():
            return {"checkpoint": folder_hash(Path(self.name))}
        if self.name.startswith(HUB_PREFIX):
            return {"checkpoint": folder_hash(download(self.name.removeprefix(HUB_PREFIX)))}
        known = {"name": self.name, "options": {key: _known_as(value) for key, value in self.options.items()}}
        if not is_remote(self.name):
            return known
        from policies.addresses import connect

        with closing(connect(self.name)) as remote:
            return known | {"served": remote.served}


@dataclass(frozen=True)
class GeneratorSource:
    """How a worker comes by the world model that draws the wrist view in the loop.

    Attributes:
        name: ``"module:callable"``.
        options: keyword arguments for the callable; one that names a folder is known by the folder's content.
        windowed: its streams look at an episode's latest frames only, so that an actor can serve it.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    windowed: bool = False

    @classmethod
    def trained(cls, folder: Path, device: str = "cpu") -> GeneratorSource:
        """Return the recipe of a trained generator: a folder that ``worldmodel.baselines`` can load."""
        options = {"directory": str(folder.resolve()), "device": device}
        return cls("worldmodel.baselines:load_generator", options, windowed=True)

    @property
    def device(self) -> str:
        """Where it runs, ``"cpu"`` where its options do not say."""
        return str(self.options.get("device", "cpu"))

    def load(self) -> WristGenerator:
        """Build the generator here, in this process."""
        built: WristGenerator = called(self.name, self.options, "world model")
        return built

    def identity(self) -> dict[str, Any]:
        """Return what makes this generator itself."""
        return {"name": self.name, "options": {key: _known_as(value) for key, value in self.options.items()}}


def check_fit(spec: PolicySpec, arm: str, available: tuple[str, ...]) -> None:
    """Refuse a policy of another arm, one that needs a view the arm lacks, or that means its actions otherwise."""
    if spec.arm is not None and spec.arm != arm:
        raise UserError(
            f"policy {spec.name!r} was trained for arm {spec.arm!r}, not {arm!r}; give that arm's checkpoint"
        )
    lacking = spec.missing_views(available)
    if lacking:
        raise UserError(
            f"policy {spec.name!r} needs view {', '.join(lacking)}; arm {arm!r} shows {', '.join(available)} at test"
        )
    differences = spec.actions.differences(CALVIN_ACTIONS)
    if differences:
        raise UserError(f"policy {spec.name!r}: its actions differ from CALVIN's in {'; '.join(differences)}")


def folder_hash(folder: Path) -> str:
    """Return a hash over the names and contents of a checkpoint's files, those in its subfolders included."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _refuse_unknown(name: str) -> None:
    """Refuse what is neither a name nor a place; the registry knows only the policies that need no simulator."""
    from policies.registry import POLICIES

    known = tuple(dict.fromkeys((*BUILT_IN, *POLICIES)))
    if ":" in name or name in known or Path(name).is_dir():
        return
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"names are {', '.join(known)}"
    raise UserError(
        f"policy {name!r}: no such folder; give a checkpoint folder, an address, 'module:callable' or a name: {hint}"
    )


def _known_as(option: Any) -> Any:
    is_folder = isinstance(option, (str, Path)) and Path(option).is_dir()
    return folder_hash(Path(option)) if is_folder else option


def called(target: str, options: Mapping[str, Any], what: str) -> Any:
    """Call ``"module:callable"`` with ``options`` and return what it made; ``what`` goes into errors."""
    module, colon, attribute = target.partition(":")
    if not colon:
        raise UserError(f"{what} {target!r}: expected 'module:callable', got no colon")
    try:
        found = attrgetter(attribute)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise UserError(f"{what} {target!r}: {error}; is its package installed where the workers run?") from error
    return found(**options)
