"""The view encoder: keypoints say where things are, positions tell the cells apart."""

from __future__ import annotations

import pytest
import torch

from policies.config import FlowPolicyConfig
from policies.encoders import Keypoints, Stem, ViewEncoder, grid_positions


def test_keypoints_follow_a_bright_spot():
    points = Keypoints(channels=1, points=1, dim=2)
    with torch.no_grad():
        points.maps.weight.fill_(50.0)
        points.out = torch.nn.Identity()  # type: ignore[assignment]
    maps = torch.zeros(2, 1, 5, 9)
    maps[0, 0, 4, 2] = maps[1, 0, 1, 8] = 1.0
    places = points(maps)[:, 0]
    assert torch.allclose(places, torch.tensor([[1.0, -0.5], [-0.5, 1.0]]), atol=1e-4)


@pytest.mark.parametrize("side", [4, 6, 10])
def test_positions_tell_all_cells_apart(side):
    positions = grid_positions(side, 128)
    assert positions.shape == (side * side, 128)
    apart = torch.cdist(positions, positions) + 1e3 * torch.eye(side * side)
    assert apart.min() > 0.5


@pytest.mark.parametrize("keypoints", [0, 8])
def test_tokens_are_cells_keypoints_and_the_absent_mark(keypoints):
    config = FlowPolicyConfig.tiny(keypoints=keypoints)
    encoder = ViewEncoder(64, config.width, 1, config.stem_stride, config.strides, config.dim, keypoints, 8)
    images = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    tokens, mask = encoder(images, torch.tensor([True, False, True]), torch.ones(3, 8))
    seen = 16 + (keypoints > 0)
    assert tokens.shape == (3, seen + 1, config.dim)
    assert mask.sum(1).tolist() == [seen, 1, seen]


@pytest.mark.parametrize("stride", [2, 4])
def test_the_stem_is_a_strided_convolution(stride):
    stem = Stem(width=5, stride=stride)
    images = torch.randint(0, 256, (2, 8 * stride, 5 * stride, 3), dtype=torch.uint8)
    plain = torch.nn.Conv2d.forward(stem, images.permute(0, 3, 1, 2) / 127.5 - 1)
    assert torch.allclose(stem(images), plain, atol=1e-5)
