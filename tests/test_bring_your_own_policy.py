"""The README's "Bring your own policy", tried word for word."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.server import serve

from bench.evaluate import RolloutOptions, roll_out_policy
from policies.addresses import parse_address
from policies.api import CALVIN_ACTIONS
from policies.lerobot import DECLARATION_FILE, LeRobotDeclaration
from policies.wire import pack_openpi, unpack

ROOT = Path(__file__).resolve().parents[1]
SECTION = (ROOT / "README.md").read_text().split("## Bring your own policy\n")[1].split("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def test_its_policy_takes_ten_lines_and_rolls_out(tmp_path):
    (code,), (command,) = blocks("python"), blocks("bash")
    lines = code.splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith("#")]) <= 10
    (tmp_path / lines[0].removeprefix("# ")).write_text(code)
    words = shlex.split(command)
    assert words[:2] == ["PYTHONPATH=.", "wristbench"]
    shorter = [*words[2:], "--chains", "1", "--steps-per-subtask", "2", "--workers", "0", "--renderer", "bullet-tiny"]
    done = subprocess.run(
        [sys.executable, "-c", "from bench.cli import main; main()", *shorter, "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["arm"] == "mine"
    assert (tmp_path / "results" / "mine" / "record.json").is_file()


SHORT = RolloutOptions(chains=1, workers=0, steps_per_subtask=12, renderer="bullet-tiny", progress=False)


def _address() -> str:
    (address,) = re.findall(r"'(openpi://[^']+)'", SECTION)
    return address


def test_its_openpi_address_rolls_out_a_server_that_knows_nothing_of_us(tmp_path):
    heard: list[dict] = []

    def handle(websocket):
        websocket.send(pack_openpi({}))
        for question in websocket:
            heard.append(unpack(question))
            websocket.send(pack_openpi({"actions": np.full((10, 7), 0.25), "server_timing": {"infer_ms": 1.0}}))

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.socket.getsockname()
        record = roll_out_policy(_address().replace("HOST:PORT", f"{host}:{port}"), tmp_path / "out", SHORT)
        server.shutdown()
    assert record["chains"] == 1
    assert len(heard) == 2, "twelve steps, ten actions an answer"
    assert heard[0]["observation/image"].shape == (200, 200, 3)
    assert heard[0]["observation/wrist_image"].shape == (84, 84, 3)
    assert isinstance(heard[0]["prompt"], str)


LEROBOT = {
    "__init__.py": "",
    "configs/__init__.py": "",
    "configs/policies.py": """
import json
from pathlib import Path
from types import SimpleNamespace

class PreTrainedConfig:
    @staticmethod
    def from_pretrained(folder):
        said = json.loads((Path(folder) / "config.json").read_text())
        for part in ("input_features", "output_features"):
            said[part] = {name: SimpleNamespace(shape=tuple(one["shape"])) for name, one in said[part].items()}
        return SimpleNamespace(**said)
""",
    "policies/__init__.py": "",
    "policies/factory.py": """
import torch

class Policy(torch.nn.Module):
    config = None

    @classmethod
    def from_pretrained(cls, folder, config):
        made = cls()
        made.config = config
        return made

    def reset(self):
        pass

    def predict_action_chunk(self, frame):
        return torch.full((1, self.config.chunk_size, 7), 0.25)

def get_policy_class(kind):
    return Policy

def make_pre_post_processors(config, pretrained_path, preprocessor_overrides=None):
    return (lambda frame: frame), (lambda actions: actions)
""",
}
"""What of LeRobot is used, where it is not installed (it needs Python 3.12)."""


@pytest.fixture
def lerobot_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy as LeRobot saves it: of LeRobot itself where it is installed, else of a stand-in."""
    folder = tmp_path / "act"
    shapes = {"observation.images.image": [3, 200, 200], "observation.images.wrist_image": [3, 84, 84]}
    for name in [name for name in sys.modules if name.partition(".")[0] == "lerobot"]:
        monkeypatch.delitem(sys.modules, name)  # pytest calls the folder tests/data/lerobot so
    installed = find_spec("lerobot")
    if installed is not None and installed.origin is not None:
        _save_act(folder, shapes)
        return folder
    for name, text in LEROBOT.items():
        file = tmp_path / "site" / "lerobot" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    folder.mkdir()
    features = {name: {"type": "VISUAL", "shape": shape} for name, shape in shapes.items()}
    features["observation.state"] = {"type": "STATE", "shape": [15]}
    settings = {"type": "act", "n_obs_steps": 1, "chunk_size": 10, "n_action_steps": 10, "input_features": features}
    settings["output_features"] = {"action": {"type": "ACTION", "shape": [7]}}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def _save_act(folder: Path, shapes: dict[str, list[int]]) -> None:
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    inputs = {name: PolicyFeature(FeatureType.VISUAL, tuple(shape)) for name, shape in shapes.items()}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (15,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    small = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 64, "n_encoder_layers": 1, "n_decoder_layers": 1}
    config = ACTConfig(
        input_features=inputs, output_features=outputs, chunk_size=10, n_action_steps=10, latent_dim=8,
        n_vae_encoder_layers=1, pretrained_backbone_weights=None, device="cpu", **small,
    )  # fmt: skip
    ACTPolicy(config).save_pretrained(folder)
    sizes = {**dict.fromkeys(shapes, (3, 1, 1)), "observation.state": (15,), "action": (7,)}
    stats = {name: {"mean": torch.zeros(size), "std": torch.ones(size)} for name, size in sizes.items()}
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)


def test_a_lerobot_folder_with_its_declaration_rolls_out(lerobot_folder, tmp_path):
    (declared,) = re.findall(r"`(\{.*?\})`", SECTION)
    (lerobot_folder / DECLARATION_FILE).write_text(declared)
    try:
        record = roll_out_policy(str(lerobot_folder), tmp_path / "out", SHORT)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "lerobot"]:
            del sys.modules[name]
    assert record["chains"] == 1
    assert (tmp_path / "out" / "results.json").is_file()


def test_its_address_and_its_declaration_can_be_read(tmp_path):
    address = _address()
    remote = parse_address(address.replace("HOST", "127.0.0.1").replace("PORT", "8000"))
    assert remote.declared is not None
    assert remote.declared.actions == CALVIN_ACTIONS
    (more,) = re.findall(r"`(&gripper_open[^`]+)`", SECTION)
    converted = parse_address(address.replace("HOST", "127.0.0.1").replace("PORT", "8000") + more)
    assert converted.convert_to == CALVIN_ACTIONS
    (declared,) = re.findall(r"`(\{.*?\})`", SECTION)
    (tmp_path / "wristbench.json").write_text(declared)
    assert LeRobotDeclaration.read(tmp_path) == LeRobotDeclaration()


@pytest.mark.parametrize("name", re.findall(r"`(policies\.\w+)\.(\w+)", SECTION))
def test_what_it_names_is_there(name):
    module, thing = name
    assert hasattr(__import__(module, fromlist=[thing]), thing)
