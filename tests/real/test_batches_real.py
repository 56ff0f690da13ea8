"""A query's vector does not depend on what it is encoded beside, in bfloat16 either, which rounds the most.

Where the processor has no bfloat16 of its own the other tests run in float32; this one asks for the dtype by name.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.blend import BlendEncoder, BlendWeight
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.encoder.shipped import shipped_adapter
from safe_retrieval.types import FloatMatrix, QueryEncoding

pytestmark = pytest.mark.real

BACKBONE = "qwen2.5-coder-0.5b-instruct"
LEAST_COSINE = 0.999

# of many lengths in tokens, so that a batch is padded in nearly every row
TEXTS = [
    "tea",
    "boil an egg",
    "Why is the sky blue?",
    "How do I prune an old apple tree?",
    "comet or asteroid?",
    "Which bread keeps longest, and how should it be stored at home?",
    "Two litres of paint: enough for nine metres of wall?",
    "Wie spät ist es in Lissabon?",
    "def fibonacci(n):",
    "Name three long rivers.",
    "tides",
    "My violin whistles; what can I change?",
]


class Ways(NamedTuple):
    """The texts encoded in three ways, rows in the order of ``TEXTS`` in each."""

    alone: QueryEncoding
    together: QueryEncoding
    backwards: QueryEncoding


@pytest.fixture(scope="module")
def ways() -> Ways:
    """Of the response encoder; the backbone runs for no other test, since bfloat16 is slow where it is emulated."""
    model = LanguageModel.load(BACKBONE, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    encoder = ResponseEncoder(model, load_adapter(shipped_adapter(BACKBONE)))
    alone = [encoder.encode([text]) for text in TEXTS]
    backwards = encoder.encode(TEXTS[::-1], batch_size=5)
    assert backwards.refusal is not None
    return Ways(
        QueryEncoding(
            np.concatenate([each.vectors for each in alone]),
            np.concatenate([each.refusal for each in alone if each.refusal is not None]),
        ),
        encoder.encode(TEXTS, batch_size=len(TEXTS)),
        QueryEncoding(backwards.vectors[::-1], backwards.refusal[::-1]),
    )


@pytest.fixture(scope="module")
def document_encoder() -> InputEncoder:
    return InputEncoder.load()


def least_cosine(vectors: FloatMatrix, others: FloatMatrix) -> float:
    return float(np.einsum("nd,nd->n", vectors, others).min())


@pytest.mark.parametrize("batched", ["together", "backwards"])
def test_response_vectors(ways: Ways, batched: str) -> None:
    assert least_cosine(getattr(ways, batched).vectors, ways.alone.vectors) > LEAST_COSINE


@pytest.mark.parametrize("batched", ["together", "backwards"])
def test_blended_vectors(ways: Ways, document_encoder: InputEncoder, batched: str) -> None:
    """As ``BlendEncoder.encode`` makes them: both its encoders are given the same batches."""
    encode = document_encoder.encode_queries
    step, batch_size = (1, len(TEXTS)) if batched == "together" else (-1, 5)
    own = encode(TEXTS[::step], batch_size=batch_size)[::step]
    alone = BlendEncoder.blend(ways.alone, encode(TEXTS, batch_size=1), BlendWeight())
    blended = BlendEncoder.blend(getattr(ways, batched), own, BlendWeight())
    assert least_cosine(blended.vectors, alone.vectors) > LEAST_COSINE
