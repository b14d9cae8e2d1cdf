"""LeRobot's policy folders (``PreTrainedPolicy.save_pretrained``) as policies of this project.

A folder holds the network and its processors, but not which camera is which and what an action means.  That stands
in :data:`DECLARATION_FILE` beside them, or is given here; nothing is guessed.  ``predict_action_chunk`` is asked for
one observation at a time, after ``reset`` and with the request's seed, so an answer depends on the question alone; a
policy that reads several past observations cannot be asked so and is refused.  LeRobot loads code that a folder's
processors name: open folders that you trust.  Not here: LeRobot data sets (they are the harness's business).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import (
    ANCHOR,
    CALVIN_ACTIONS,
    PROPRIO_DIM,
    WRIST,
    ActionConvention,
    Observation,
    PolicyError,
    PolicySpec,
)
from policies.conventions import NAMED, conversion, width
from policies.simple import check_call

DECLARATION_FILE = "wristbench.json"
SEED_MASK = (1 << 63) - 1
RESIZERS = ("resize_imgs_with_padding", "image_resolution", "resize_shape")
"""Settings of LeRobot policies that bring pictures of any size to their own."""


@dataclass(frozen=True)
class LeRobotDeclaration:
    """What a LeRobot folder does not say.

    Attributes:
        views: view name to the policy's image feature.
        state: the policy's feature for the robot's state.
        state_entries: which entries of CALVIN's ``robot_obs`` make it up, in order.
        actions: what the policy's actions mean.
        convert_to: convention that they are turned into, None leaves them.
        execute: how many actions of a chunk are carried out; None for the policy's own ``n_action_steps``.
        optional_views: views that may be missing.
        arm: the arm of an experiment that it was trained for.
    """

    views: Mapping[str, str] = field(
        default_factory=lambda: {ANCHOR: "observation.images.image", WRIST: "observation.images.wrist_image"}
    )
    state: str = "observation.state"
    state_entries: tuple[int, ...] = tuple(range(PROPRIO_DIM))
    actions: ActionConvention = CALVIN_ACTIONS
    convert_to: ActionConvention | None = None
    execute: int | None = None
    optional_views: tuple[str, ...] = ()
    arm: str | None = None

    @classmethod
    def read(cls, folder: Path) -> LeRobotDeclaration:
        """Read :data:`DECLARATION_FILE`; ``actions`` and ``convert_to`` are a name or a convention's fields.

        Raises:
            PolicyError: it is not there, or cannot be read.
        """
        path = folder / DECLARATION_FILE
        try:
            data = dict(json.loads(path.read_text()))
        except FileNotFoundError:
            raise PolicyError(
                f"{folder}: a LeRobot policy does not say what its actions mean; write {DECLARATION_FILE} beside it, "
                'e.g. {"actions": "calvin", "views": {"anchor": "observation.images.image"}}'
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise PolicyError(f"{path}: cannot be read ({error})") from None
        try:
            if "actions" not in data:
                raise PolicyError("'actions' is missing: \"calvin\" or the fields of an action convention")
            for name in ("actions", "convert_to"):
                if isinstance(data.get(name), (str, dict)):
                    data[name] = _convention(data[name])
            for name in ("state_entries", "optional_views"):
                if name in data:
                    data[name] = tuple(data[name])
            return cls(**data)
        except (TypeError, ValueError) as error:
            raise PolicyError(f"{path}: {error}") from None


def _convention(said: str | Mapping[str, Any]) -> ActionConvention:
    if isinstance(said, str) and said not in NAMED:
        raise PolicyError(f"action convention {said!r}: expected one of {sorted(NAMED)} or a convention's fields")
    return NAMED[said] if isinstance(said, str) else ActionConvention(**said)


def is_lerobot_folder(folder: Path | str) -> bool:
    """Return whether a folder's ``config.json`` is LeRobot's."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and isinstance(config.get("type"), str) and "input_features" in config


class LeRobotPolicy:
    """A LeRobot policy as a :class:`policies.api.Policy`.

    Args:
        folder: what ``save_pretrained`` of the policy and of both its processors wrote.
        declaration: what the folder does not say; None reads it from :data:`DECLARATION_FILE`.
        device: where the network runs.

    Raises:
        PolicyError: LeRobot is not installed, the policy reads several observations, or the declaration does not fit.
    """

    def __init__(
        self, folder: Path | str, declaration: LeRobotDeclaration | None = None, *, device: str = "cpu"
    ) -> None:
        import torch

        folder = Path(folder)
        self._declared = declaration or LeRobotDeclaration.read(folder)
        self._device = torch.device(device)
        self._policy, self._before, self._after = _open(folder, device)
        self._config = self._policy.config
        self._spec = _fitting_spec(folder, self._config, self._declared)
        self._convert = None
        if self._declared.convert_to is not None:
            self._convert = conversion(self._declared.actions, self._declared.convert_to)
        self._entries = width(self._declared.actions)

    @property
    def spec(self) -> PolicySpec:
        """What the policy needs and gives."""
        return self._spec

    def act(self, batch: Sequence[Observation], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 (B, K, 7); one forward for each observation.

        Raises:
            PolicyError: a view or the robot's state is missing or of another size, or the policy gave no chunk.
        """
        check_call(self._spec, batch, seeds)
        chunks = np.empty((len(batch), self._spec.chunk, 7), np.float32)
        for chunk, observation, seed in zip(chunks, batch, seeds, strict=True):
            chunk[:] = self._one(observation, int(seed))
        return chunks

    def _one(self, observation: Observation, seed: int) -> NDArray[np.float32]:
        import torch

        frame = self._frame(observation)
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(seed & SEED_MASK)
            self._policy.reset()
            made = self._after(self._policy.predict_action_chunk(self._before(frame)))
        actions = np.asarray(made.detach().to("cpu", torch.float32))
        expected = (1, self._spec.chunk, self._entries)
        if actions.shape != expected:
            raise PolicyError(f"{self._spec.name}: expected a chunk {expected}, got {actions.shape}")
        return self._convert(actions[0]) if self._convert is not None else actions[0]

    def _frame(self, observation: Observation) -> dict[str, Any]:
        """Return the observation as LeRobot's processors take it: pictures (1, C, H, W) in 0..1, state (1, D)."""
        import torch

        frame: dict[str, Any] = {"task": observation.instruction, "robot_type": ""}
        for view, key in self._declared.views.items():
            if view in observation.views:
                image = observation.views[view]
                self._check_size(view, key, image.shape[:2])
                pixels = torch.from_numpy(np.ascontiguousarray(image).copy()).to(self._device)
                frame[key] = (pixels.float() / 255).permute(2, 0, 1)[None].contiguous()
        if self._spec.uses_proprio:
            if observation.proprio is None:
                raise PolicyError(f"{self._spec.name}: reads the robot's state, and the observation has none")
            state = observation.proprio[list(self._declared.state_entries)].astype(np.float32)
            frame[self._declared.state] = torch.from_numpy(state).to(self._device)[None]
        return frame

    def _check_size(self, view: str, key: str, size: tuple[int, ...]) -> None:
        if any(getattr(self._config, name, None) for name in RESIZERS):
            return
        expected = tuple(self._config.input_features[key].shape)[1:]
        if tuple(size) != expected:
            raise PolicyError(
                f"{self._spec.name}: expected view {view!r} of {expected} pixels, got {tuple(size)}; "
                "train the policy on pictures of the camera's own size"
            )


def _open(folder: Path, device: str) -> tuple[Any, Any, Any]:
    """Return the network and what stands before and after it."""
    try:
        factory = importlib.import_module("lerobot.policies.factory")
        configs = importlib.import_module("lerobot.configs.policies")
    except ImportError as error:
        raise PolicyError(
            f"{folder}: a LeRobot policy needs LeRobot, which cannot be imported here ({error}); "
            "pip install lerobot, or serve it where it is and give its address"
        ) from None
    try:
        config = configs.PreTrainedConfig.from_pretrained(str(folder))
        config.device = device
        if (getattr(config, "n_obs_steps", 1) or 1) > 1:
            raise PolicyError(
                f"{folder}: reads {config.n_obs_steps} observations in a row; only policies that read one can be asked "
                "as a pure function (serve it with its own server instead)"
            )
        policy = factory.get_policy_class(config.type).from_pretrained(str(folder), config=config)
        before, after = factory.make_pre_post_processors(
            config, str(folder), preprocessor_overrides={"device_processor": {"device": device}}
        )
    except PolicyError:
        raise
    except Exception as error:  # LeRobot and what it stands on raise many kinds
        raise PolicyError(f"{folder}: LeRobot cannot load it: {type(error).__name__}: {_short(error)}") from error
    return policy.to(device).eval(), before, after


def _fitting_spec(folder: Path, config: Any, declared: LeRobotDeclaration) -> PolicySpec:
    """Return the policy's spec after comparing what it reads and gives with what was declared."""
    features = dict(config.input_features or {})
    images = {key for key, feature in features.items() if len(tuple(feature.shape)) == 3}
    views = {view: key for view, key in declared.views.items() if key in images}
    unfed = sorted(images - set(views.values()))
    if unfed:
        raise PolicyError(
            f"{folder}: reads {', '.join(unfed)}, and no view is declared for it; "
            f'name it under "views" in {DECLARATION_FILE} (declared: {dict(declared.views)})'
        )
    unknown = sorted(set(features) - images - {declared.state})
    if unknown:
        raise PolicyError(f"{folder}: reads {', '.join(unknown)}, which an observation of this project does not have")
    uses_state = declared.state in features
    if uses_state and tuple(features[declared.state].shape) != (len(declared.state_entries),):
        raise PolicyError(
            f"{folder}: {declared.state} has shape {tuple(features[declared.state].shape)}, declared are "
            f'{len(declared.state_entries)} entries of robot_obs; give "state_entries" in {DECLARATION_FILE}'
        )
    entries, given = width(declared.actions), tuple(config.output_features["action"].shape)
    if given != (entries,):
        raise PolicyError(f"{folder}: actions have shape {given}; rotation {declared.actions.rotation!r} has {entries}")
    if declared.convert_to is None and entries != 7:
        raise PolicyError(f'{folder}: actions of {entries} numbers; declare "convert_to": "calvin" to have 7 of them')
    chunk: int = getattr(config, "chunk_size", None) or getattr(config, "n_action_steps", None) or 1
    execute: int = declared.execute or getattr(config, "n_action_steps", None) or chunk
    return PolicySpec(
        f"lerobot-{config.type}",
        views=tuple(views),
        optional_views=tuple(view for view in declared.optional_views if view in views),
        chunk=chunk,
        execute=min(execute, chunk),
        arm=declared.arm,
        actions=declared.convert_to or declared.actions,
        uses_proprio=uses_state,
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
