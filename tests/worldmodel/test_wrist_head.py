"""The wrist head reads all tokens of all anchors, refines, and can be started at a pose."""

from __future__ import annotations

import torch

from worldmodel import geometry
from worldmodel.stage1_config import Stage1Config
from worldmodel.wrist_head import WristHead

CONFIG = Stage1Config.tiny().vggt


def _head() -> WristHead:
    torch.manual_seed(0)
    return WristHead(CONFIG).eval()


def test_one_encoding_a_round_for_any_number_of_anchors() -> None:
    head = _head()
    for views in (1, 3):
        rounds = head(torch.randn(2, views, 7, 2 * CONFIG.width))
        assert len(rounds) == CONFIG.iterations
        assert all(encoding.shape == (2, geometry.ENCODING_DIM) for encoding in rounds)
        assert all((encoding[:, 7:] >= 0).all() for encoding in rounds)


def test_every_token_of_every_anchor_matters() -> None:
    head = _head()
    tokens = torch.randn(1, 2, 5, 2 * CONFIG.width, requires_grad=True)
    head(tokens)[-1][:, :7].sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad.abs().sum(dim=-1) > 0).all()


def test_reading_out_only_the_query_changes_nothing() -> None:
    layer = _head().token_aggregation_layers[0]
    tokens = torch.randn(2, 9, 2 * CONFIG.width)
    torch.testing.assert_close(layer(tokens, keep=1), layer(tokens, keep=9)[:, :1])


def test_a_started_head_predicts_its_start() -> None:
    head = _head()
    pose = geometry.encode_pose(torch.eye(4), torch.tensor([1.0, 1.2]))
    head.start_from(pose)
    for encoding in head(torch.randn(3, 1, 7, 2 * CONFIG.width)):
        torch.testing.assert_close(encoding, pose.expand(3, 9), atol=0.1, rtol=0)


def test_the_paper_size_has_the_parameters_of_the_release() -> None:
    """About 367 million, as counted in WristWorld's published head."""
    with torch.device("meta"):
        head = WristHead(Stage1Config.paper().vggt)
    count = sum(parameter.numel() for parameter in head.parameters())
    assert 360e6 < count < 375e6
