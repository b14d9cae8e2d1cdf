"""LeRobot folders, with a double of LeRobot: what is asked of it, what must be declared, what is refused."""

from __future__ import annotations

import json
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from policies.api import CALVIN_ACTIONS, Observation, Policy, PolicyError
from policies.lerobot import DECLARATION_FILE, LeRobotDeclaration, LeRobotPolicy, is_lerobot_folder
from policies.registry import load_policy

ANCHOR_KEY, WRIST_KEY, STATE = "observation.images.image", "observation.images.wrist_image", "observation.state"


def feature(*shape: int) -> SimpleNamespace:
    return SimpleNamespace(shape=shape)


class Network(torch.nn.Module):
    """Its chunk follows from the normalised picture, the state, the sentence, noise, and what it remembers."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config, self.seen = config, 0

    def reset(self) -> None:
        self.seen = 0

    def predict_action_chunk(self, frame):
        self.seen += 1
        assert not self.training
        mean = torch.stack([frame[key].mean() for key in (ANCHOR_KEY, WRIST_KEY) if key in frame]).sum()
        state = frame[STATE].sum() if STATE in frame else torch.zeros(())
        words = sum(map(len, frame["task"]))
        entries = self.config.output_features["action"].shape[0]
        noise = torch.randn(1, self.config.chunk_size, entries) if self.config.noisy else torch.zeros(1)
        return torch.zeros(1, self.config.chunk_size, entries) + mean + state + words + noise + 100 * self.seen


@pytest.fixture
def lerobot(monkeypatch, tmp_path):
    """Stand-ins for the two modules that are used, and a folder whose config they read."""
    settings = {
        "type": "act",
        "n_obs_steps": 1,
        "chunk_size": 4,
        "n_action_steps": 3,
        "noisy": False,
        "input_features": {ANCHOR_KEY: feature(3, 200, 200), WRIST_KEY: feature(3, 84, 84), STATE: feature(15)},
        "output_features": {"action": feature(7)},
    }
    seen = SimpleNamespace(settings=settings, overrides=None, folder=tmp_path)

    def make_pre_post_processors(config, pretrained_path, preprocessor_overrides):
        seen.overrides = preprocessor_overrides

        def before(frame):
            return {**frame, ANCHOR_KEY: frame[ANCHOR_KEY] - 0.5, "task": [frame["task"]]}

        return before, lambda actions: actions * 2

    configs = types.ModuleType("lerobot.configs.policies")
    configs.PreTrainedConfig = SimpleNamespace(from_pretrained=lambda folder: SimpleNamespace(**settings))
    factory = types.ModuleType("lerobot.policies.factory")
    factory.get_policy_class = lambda kind: SimpleNamespace(from_pretrained=lambda _, config: Network(config))
    factory.make_pre_post_processors = make_pre_post_processors
    for name in ("lerobot", "lerobot.configs", "lerobot.policies"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, configs.__name__, configs)
    monkeypatch.setitem(sys.modules, factory.__name__, factory)
    (tmp_path / "config.json").write_text(json.dumps({"type": "act", "input_features": {}}))
    declare(tmp_path, actions="calvin")
    return seen


def declare(folder, **said) -> None:
    (folder / DECLARATION_FILE).write_text(json.dumps(said))


@pytest.fixture
def seeing(observations_of) -> list[Observation]:
    return observations_of(3, proprio=True)


def expected(observation: Observation, steps: int = 1) -> float:
    pictures = observation.views["anchor"].mean() / 255 - 0.5 + observation.views["wrist"].mean() / 255
    return 2 * (pictures + observation.proprio.sum() + len(observation.instruction) + 100 * steps)


def test_the_folder_is_told_from_one_of_ours(lerobot, tmp_path):
    assert is_lerobot_folder(tmp_path)
    assert not is_lerobot_folder(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"format": "wristworld-policy"}')
    assert not is_lerobot_folder(tmp_path)


def test_answers_are_the_networks_between_its_processors(lerobot, seeing):
    policy = load_policy(lerobot.folder, actions=CALVIN_ACTIONS, views=("anchor", "wrist"))
    assert isinstance(policy, Policy)
    assert (policy.spec.chunk, policy.spec.execute, policy.spec.uses_proprio) == (4, 3, True)
    assert lerobot.overrides == {"device_processor": {"device": "cpu"}}
    actions = policy.act(seeing, range(3))
    assert (actions.shape, actions.dtype) == ((3, 4, 7), np.float32)
    for chunk, observation in zip(actions, seeing, strict=True):
        np.testing.assert_allclose(chunk, expected(observation), rtol=1e-4)


def test_nothing_is_remembered_from_question_to_question(lerobot, seeing):
    policy = load_policy(lerobot.folder)
    first = policy.act(seeing[:1], [0])
    policy.act(seeing, range(3))
    np.testing.assert_array_equal(policy.act(seeing[:1], [0]), first)


def test_noise_follows_the_seed_and_leaves_others_alone(lerobot, seeing):
    lerobot.settings["noisy"] = True
    policy = load_policy(lerobot.folder)
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    together = policy.act(seeing, [5, 6, 2**64 - 1])
    assert torch.equal(torch.rand(1), wanted)
    np.testing.assert_array_equal(policy.act(seeing[1:2], [6])[0], together[1])
    assert not np.array_equal(policy.act(seeing[:1], [6]), together[:1])


def test_the_state_is_made_of_the_declared_entries(lerobot, seeing):
    lerobot.settings["input_features"][STATE] = feature(2)
    declare(lerobot.folder, actions="calvin", state_entries=[0, 14])
    got = load_policy(lerobot.folder).act(seeing[:1], [0])[0, 0, 0]
    observation = seeing[0]
    other = observation.proprio.sum() - observation.proprio[[0, 14]].sum()
    np.testing.assert_allclose(got, expected(observation) - 2 * other, rtol=1e-4)


def test_actions_are_converted_where_that_is_declared(lerobot, seeing):
    declare(lerobot.folder, actions={"gripper_open": -1.0, "metres_per_unit": 1.0}, convert_to="calvin")
    policy = load_policy(lerobot.folder, actions=CALVIN_ACTIONS)
    chunk = policy.act(seeing[:1], [0])[0]
    np.testing.assert_allclose(chunk[0], expected(seeing[0]) * np.array([50, 50, 50, 1, 1, 1, -1]), rtol=1e-4)


def test_a_convention_that_differs_is_refused(lerobot):
    declare(lerobot.folder, actions={"gripper_open": -1.0})
    with pytest.raises(PolicyError, match="gripper_open"):
        load_policy(lerobot.folder, actions=CALVIN_ACTIONS)


@pytest.mark.parametrize(
    ("settings", "said", "complaint"),
    [
        ({"n_obs_steps": 2}, {}, "2 observations in a row"),
        ({"output_features": {"action": feature(8)}}, {}, r"actions have shape \(8,\)"),
        ({}, {"views": {"anchor": ANCHOR_KEY}}, f"reads {WRIST_KEY}"),
        ({}, {"views": {"anchor": ANCHOR_KEY, "wrist": "observation.images.hand"}}, f"reads {WRIST_KEY}"),
        ({}, {"state_entries": [0, 1]}, "state_entries"),
        ({}, {"actions": "mine"}, "'mine'"),
        ({}, {"actions": {"rotation": "spin"}}, "spin"),
        ({}, {"actions": {"rotation": "quaternion_xyzw", "frame": "absolute"}}, "8"),
        ({}, {"cameras": {}}, "cameras"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(lerobot, settings, said, complaint):
    lerobot.settings.update(settings)
    declare(lerobot.folder, **{"actions": "calvin", **said})
    with pytest.raises(PolicyError, match=complaint) as caught:
        load_policy(lerobot.folder)
    assert "\n" not in str(caught.value)


def test_an_input_that_nobody_has_is_refused(lerobot):
    lerobot.settings["input_features"]["observation.environment_state"] = feature(4)
    with pytest.raises(PolicyError, match="environment_state"):
        load_policy(lerobot.folder)


@pytest.mark.parametrize("text", ["", "[", "7", '{"views": {}}'])
def test_a_declaration_that_is_missing_or_broken_is_refused(lerobot, text):
    path = lerobot.folder / DECLARATION_FILE
    path.write_text(text) if text else path.unlink()
    with pytest.raises(PolicyError, match=DECLARATION_FILE):
        load_policy(lerobot.folder)
    assert LeRobotPolicy(lerobot.folder, LeRobotDeclaration()).spec.name == "lerobot-act"


def test_pictures_of_another_size_are_refused_unless_the_policy_resizes(lerobot, seeing):
    lerobot.settings["input_features"][ANCHOR_KEY] = feature(3, 224, 224)
    with pytest.raises(PolicyError, match=r"\(224, 224\) pixels, got \(200, 200\)"):
        load_policy(lerobot.folder).act(seeing[:1], [0])
    lerobot.settings["resize_imgs_with_padding"] = (224, 224)
    assert load_policy(lerobot.folder).act(seeing[:1], [0]).shape == (1, 4, 7)


def test_a_missing_state_or_view_is_named(lerobot, observations_of):
    policy = load_policy(lerobot.folder)
    with pytest.raises(PolicyError, match="state"):
        policy.act(observations_of(1), [0])
    with pytest.raises(PolicyError, match="wrist"):
        policy.act(observations_of(1, wrist=False), [0])


def test_without_lerobot_it_says_what_to_do(lerobot, monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot.policies.factory", None)
    with pytest.raises(PolicyError, match="pip install lerobot"):
        load_policy(lerobot.folder)


def test_what_lerobot_cannot_load_is_one_line(lerobot, monkeypatch):
    def broken(folder):
        raise KeyError("act\nnope")

    monkeypatch.setattr(sys.modules["lerobot.configs.policies"].PreTrainedConfig, "from_pretrained", broken)
    with pytest.raises(PolicyError, match="LeRobot cannot load it: KeyError") as caught:
        load_policy(lerobot.folder)
    assert "\n" not in str(caught.value)
