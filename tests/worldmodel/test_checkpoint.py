"""Checkpoints come back as they were, refuse damage, and let a training run continue exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel import checkpoint
from worldmodel.api import WorldModelError


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b.c": torch.arange(4)}
    checkpoint.save(tmp_path / "c", {"width": 3}, tensors, {"tracks": "simulator"})
    config, loaded, extra = checkpoint.load(tmp_path / "c")
    assert config == {"width": 3}
    assert extra == {"tracks": "simulator"}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert len(checkpoint.weights_hash(tmp_path / "c")) == 64


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {}, {"a": torch.zeros(2)}, {})
    checkpoint.save(tmp_path, {}, {"a": torch.ones(2)}, {})
    assert torch.equal(checkpoint.load(tmp_path)[1]["a"], torch.ones(2))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_that_dies_before_its_last_rename_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, {"n": 1}, {"a": torch.zeros(2)}, {})
    write = checkpoint._replace

    def die_at_the_index(path: Path, data: bytes) -> None:
        if path.name == checkpoint.INDEX:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(checkpoint, "_replace", die_at_the_index)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, {"n": 2}, {"a": torch.ones(2)}, {})
    config, tensors, _ = checkpoint.load(tmp_path)
    assert config == {"n": 1}
    assert torch.equal(tensors["a"], torch.zeros(2))


def test_damage_and_absence_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(WorldModelError, match="no checkpoint"):
        checkpoint.load(tmp_path)
    checkpoint.save(tmp_path, {}, {"a": torch.zeros(20)}, {})
    data = next(tmp_path.glob("*.safetensors"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(bytes(content))
    with pytest.raises(WorldModelError, match="damaged"):
        checkpoint.load(tmp_path)
    index = json.loads((tmp_path / checkpoint.INDEX).read_text())
    (tmp_path / checkpoint.INDEX).write_text(json.dumps(index | {"tensors": "../elsewhere"}))
    with pytest.raises(WorldModelError, match="elsewhere"):
        checkpoint.load(tmp_path)
    (tmp_path / checkpoint.INDEX).write_text("{")
    with pytest.raises(WorldModelError, match="index"):
        checkpoint.load(tmp_path)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldModelError, match="JSON"):
        checkpoint.save(tmp_path, {}, {}, {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def _run(steps: int, folder: Path, stop: int | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    order = np.random.default_rng(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = checkpoint.load_training_state(folder)
    first = 0
    if state is not None:
        model.load_state_dict(state.tensors)
        state.restore_optimizer(optimizer)
        state.restore_rng(order)
        first = state.extra["step"]
    for step in range(first, steps):
        if step == stop:
            checkpoint.save_training_state(
                folder, {}, model.state_dict(), {"step": step}, optimizer=optimizer, numpy_generator=order
            )
            break
        inputs = torch.randn(4, 3) + float(order.normal())
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return model.weight.detach().clone()


def test_a_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = _run(10, tmp_path / "never")
    _run(10, tmp_path / "state", stop=4)
    assert torch.equal(_run(10, tmp_path / "state"), whole)


def test_a_finished_checkpoint_is_no_training_state(tmp_path: Path) -> None:
    assert checkpoint.load_training_state(tmp_path) is None
    checkpoint.save(tmp_path, {}, {"a": torch.zeros(1)}, {})
    with pytest.raises(WorldModelError, match="not a training state"):
        checkpoint.load_training_state(tmp_path)
