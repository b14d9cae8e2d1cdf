"""Random changes of training images: what they leave alone, and that they are a function of their seed."""

from __future__ import annotations

import pytest
import torch

from policies.augment import RECOLOURED, draw_shift, draw_tint, recoloured, shifted, tinted


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (64, 20, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_shift_moves_the_picture_and_repeats_its_border(images):
    moved = shifted(images, torch.tensor([3]), torch.tensor([[2, -1]]))
    assert torch.equal(moved[0, :-2, 1:], images[3, 2:, :-1])
    assert torch.equal(moved[0, :-2, 0], images[3, 2:, 0])
    assert torch.equal(moved[0, -1, 1:], images[3, -1, :-1])


def test_shifts_stay_within_their_share_and_reach_both_ends():
    drawn = draw_shift(4000, 0.1, 40, torch.Generator().manual_seed(0))
    assert drawn is not None
    assert drawn.min() == -4
    assert drawn.max() == 4


def test_a_tint_changes_an_image_as_a_whole(images):
    tint = draw_tint(64, 0.1, torch.Generator().manual_seed(0))
    grey = torch.full_like(images, 100)
    changed = tinted(grey, tint)
    assert (changed == changed[:, :1, :1]).all()
    assert len(changed[:, 0, 0].unique(dim=0)) > 32


def test_recolouring_is_a_function_of_its_seed(images):
    once, again, other = recoloured(images, 0.5, 7), recoloured(images, 0.5, 7), recoloured(images, 0.5, 8)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_recolouring_leaves_the_promised_share_alone():
    images = torch.full((512, 16, 16, 3), 90, dtype=torch.uint8)
    untouched = (recoloured(images, 1.0, 0) == images).flatten(1).all(1).float().mean()
    assert untouched == pytest.approx(1 - RECOLOURED, abs=0.06)


def test_recolouring_keeps_edges_where_they_were():
    images = torch.zeros(32, 32, 32, 3, dtype=torch.uint8)
    images[:, :, 16:] = 255
    changed = recoloured(images, 0.4, 3).float().mean(-1)  # (32, 32, 32)
    steps = (changed[:, :, 1:] - changed[:, :, :-1]).mean(1).abs()  # (32, 31)
    assert (steps.argmax(1) == 15).all()


def test_no_strength_changes_nothing(images):
    assert recoloured(images, 0.0, 1) is images
    assert tinted(images, None) is images
    assert draw_shift(4, 0.0, 20, torch.Generator()) is None
    assert draw_tint(4, 0.0, torch.Generator()) is None
