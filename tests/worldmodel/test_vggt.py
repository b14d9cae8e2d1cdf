"""VGGT at any size: shapes, what the tokens know, names of the published weights, loading that never guesses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldmodel.api import Clip, WorldModelError
from worldmodel.stage1_config import Stage1Config
from worldmodel.vggt.config import VggtConfig
from worldmodel.vggt.layers import Attention, rotary_table
from worldmodel.vggt.loading import load_pretrained
from worldmodel.vggt.model import Vggt
from worldmodel.vggt.tracker import VggtTracker

SIBLING = VggtConfig(
    image_size=140, patch_size=14, width=16, depth=2, heads=2, registers=2, stem_depth=1, dense_features=8,
    dense_channels=(8, 8, 8, 8), dense_layers=(0, 0, 1, 1), pose_depth=1, pose_heads=2, iterations=2, wrist_layers=1,
    wrist_heads=2,
)  # fmt: skip
"""A VGGT of the published kind (DINOv2 stem, exponential depth, point and track heads), only much smaller."""


@pytest.fixture(scope="module")
def sibling() -> Vggt:
    torch.manual_seed(0)
    return Vggt(SIBLING).eval()


@pytest.mark.parametrize("config", [SIBLING, Stage1Config.tiny().vggt], ids=["dino", "conv"])
def test_shapes(config: VggtConfig) -> None:
    model = Vggt(config).eval()
    height, width = model.image_shape(120, 200)
    assert width == config.image_size
    assert height % config.patch_size == 0
    with torch.inference_mode():
        output = model(torch.rand(2, 3, 3, height, width))
    assert output.depth is not None
    assert output.depth.shape == (2, 3, height, width)
    assert (output.points is not None) == (config.points_from == "point")
    assert output.cameras[-1].shape == (2, 3, 9)
    assert output.wrist[-1].shape == (2, 9)


def test_views_beyond_the_first_may_change_places(sibling: Vggt) -> None:
    images = torch.rand(1, 3, 3, 56, 140)
    with torch.inference_mode():
        one, other = sibling(images), sibling(images[:, [0, 2, 1]])
    torch.testing.assert_close(one.wrist[-1], other.wrist[-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.cameras[-1], other.cameras[-1][:, [0, 2, 1]], atol=1e-5, rtol=1e-4)


def test_attention_sees_only_relative_positions() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2, normalise=True)
    x = torch.randn(1, 6, 16)
    rows, columns = torch.arange(6), torch.tensor([3, 1, 4, 1, 5, 9])
    here = attention(x, rotary_table(rows, columns, 8))
    there = attention(x, rotary_table(rows + 7, columns + 2, 8))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)
    turned = attention(x, rotary_table(columns, rows, 8))
    assert not torch.allclose(here, turned, atol=1e-4)


def test_the_paper_size_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = Vggt(Stage1Config.paper().vggt).state_dict()
    expected = {
        "aggregator.camera_token": (1, 2, 1, 1024),
        "aggregator.patch_embed.pos_embed": (1, 1370, 1024),
        "aggregator.patch_embed.blocks.23.ls2.gamma": (1024,),
        "aggregator.frame_blocks.23.attn.qkv.weight": (3072, 1024),
        "aggregator.global_blocks.0.attn.q_norm.weight": (64,),
        "camera_head.poseLN_modulation.1.weight": (6144, 2048),
        "point_head.scratch.output_conv2.2.weight": (4, 32, 1, 1),
        "depth_head.scratch.refinenet3.resConfUnit1.conv1.weight": (256, 256, 3, 3),
        "track_head.feature_extractor.scratch.output_conv1.weight": (128, 128, 3, 3),
        "track_head.tracker.updateformer.space_virtual2point_blocks.5.cross_attn.in_proj_weight": (1152, 384),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected
    count = sum(value.numel() for name, value in state.items() if not name.startswith("wrist_head."))
    assert 1.2e9 < count < 1.3e9  # VGGT-1B: 1.26 billion


def _write(folder: Path, model: Vggt, **changes: torch.Tensor) -> Path:
    folder.mkdir()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("wrist_head.")}
    state.pop("camera_head.base_pose")
    save_file({name: value.contiguous() for name, value in (state | changes).items()}, folder / "model.safetensors")
    return folder


def test_weights_of_a_sibling_load(tmp_path: Path, sibling: Vggt) -> None:
    folder = _write(tmp_path / "vggt", sibling, **{"extra.weight": torch.zeros(1)})
    torch.manual_seed(1)
    model = Vggt(SIBLING)
    report = load_pretrained(model, str(folder))
    assert report.missing == ()
    assert report.reshaped == ()
    assert report.unused == ("extra.weight",)
    for name, value in sibling.state_dict().items():
        if not name.startswith("wrist_head."):
            assert torch.equal(model.state_dict()[name], value), name
    assert report.to_json()["matched"] == report.matched


def test_a_few_other_shapes_are_reported(tmp_path: Path, sibling: Vggt) -> None:
    folder = _write(tmp_path / "vggt", sibling, **{"aggregator.camera_token": torch.zeros(1, 2, 1, 8)})
    report = load_pretrained(Vggt(SIBLING), str(folder))
    assert report.reshaped == ("aggregator.camera_token: (1, 2, 1, 16) != (1, 2, 1, 8)",)


def test_weights_of_another_size_are_refused(tmp_path: Path, sibling: Vggt) -> None:
    folder = _write(tmp_path / "vggt", sibling)
    with pytest.raises(WorldModelError, match="same size"):
        load_pretrained(Vggt(dataclasses.replace(SIBLING, width=32)), str(folder))


def test_sources_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    model = Vggt(Stage1Config.tiny().vggt)
    with pytest.raises(WorldModelError, match=r"no model\.safetensors"):
        load_pretrained(model, str(tmp_path))
    with pytest.raises(WorldModelError, match="neither a folder nor"):
        load_pretrained(model, "VGGT")
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(WorldModelError, match="cannot read"):
        load_pretrained(model, str(tmp_path))


def test_the_tracker_keeps_queries_inside_and_counts_in_stored_pixels(sibling: Vggt) -> None:
    random = np.random.default_rng(0)
    views = {
        "anchor": random.integers(0, 256, (2, 70, 70, 3), dtype=np.uint8),
        "wrist": random.integers(0, 256, (2, 35, 35, 3), dtype=np.uint8),
    }
    sibling.state_dict()["track_head.tracker.vis_predictor.0.bias"].fill_(10.0)
    found = VggtTracker(sibling, count=4).pairs(Clip(views))
    assert len(found) == 2
    for pairs in found:
        assert len(pairs) > 0
        assert (pairs.wrist > 0).all()
        assert (pairs.wrist < 35).all()
        assert (pairs.anchor < 70).all()
    with pytest.raises(WorldModelError, match="no 'wrist' view"):
        VggtTracker(sibling).pairs(Clip({"anchor": views["anchor"]}))


def test_impossible_sizes_are_refused() -> None:
    for changes in ({"image_size": 100}, {"heads": 5}, {"dense_layers": (0, 1, 2, 3)}, {"stem": "other"}):
        with pytest.raises(WorldModelError):
            dataclasses.replace(SIBLING, **changes)
