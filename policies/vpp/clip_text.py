"""Sentences as VPP's video model reads them: the hidden states of CLIP's text model, side by side in one vector.

Twenty tokens of 512 numbers with ViT-B/32's (VPP: ``clip_token_length: 20``, ``openai/clip-vit-base-patch32``).  Not
here: what the action head makes of them, or other encoders (:mod:`policies.text`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import PolicyError

SOURCE = "openai/clip-vit-base-patch32"
TOKENS = 20


@lru_cache(maxsize=1)
def _model(source: str) -> tuple[Any, Any]:
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(source), CLIPTextModel.from_pretrained(source, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PolicyError(
            f"text encoder {source!r}: neither a folder of a CLIP text model nor to be had from the Hugging Face hub "
            f"({reason}); give its folder: text='clip:DIR'"
        ) from None


@lru_cache(maxsize=1024)
def clip_embed(source: str, sentence: str) -> NDArray[np.float32]:
    """Return the (TOKENS × D,) hidden states of ``sentence``.

    Args:
        source: Hugging Face id or folder of the text model; empty for VPP's.
        sentence: an instruction; what is too long is cut, as VPP does.

    Raises:
        PolicyError: the model cannot be had.
    """
    import torch

    tokenizer, model = _model(source or SOURCE)
    tokens = tokenizer(sentence, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**tokens).last_hidden_state  # (1, TOKENS, D)
    vector = hidden.flatten().numpy().astype(np.float32)
    vector.flags.writeable = False
    return vector
