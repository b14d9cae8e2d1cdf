"""What travels between a worker and an inference actor."""

from __future__ import annotations

import numpy as np
import pytest

from bench.rollout.answering import Question
from bench.rollout.inference import packed_question, unpacked_question
from bench.rollout.sources import request_seed
from policies.api import Observation


@pytest.mark.parametrize("proprio", [None, np.arange(15, dtype=np.float32) / 3])
def test_question_arrives_as_it_was_sent(proprio: np.ndarray | None) -> None:
    random = np.random.default_rng(0)
    views = {
        name: random.integers(0, 255, (side, side + 1, 3), np.uint8) for name, side in (("anchor", 9), ("wrist", 4))
    }
    views["anchor2"] = views["anchor"][::2, ::-1]  # not contiguous
    sent = Question(Observation(views, "öffne die Schublade", proprio), request_seed(1, 2, 3))
    got = unpacked_question(packed_question(sent))
    assert (got.seed, got.observation.instruction) == (sent.seed, sent.observation.instruction)
    assert list(got.observation.views) == list(views)
    for name, view in views.items():
        np.testing.assert_array_equal(got.observation.views[name], view)
    if proprio is None:
        assert got.observation.proprio is None
    else:
        np.testing.assert_array_equal(got.observation.proprio, proprio)
        assert got.observation.proprio.dtype == np.float32
