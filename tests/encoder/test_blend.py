from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from safe_retrieval.encoder.blend import BlendEncoder, BlendWeight
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.errors import EncoderMismatchError, InputError
from safe_retrieval.types import Encoder, QueryEncoding
from tests.support.encoders import HashEncoder


class Answering(HashEncoder):
    """Stands in for a response encoder: other vectors in the same space."""

    def _vectors(self, texts: Any) -> Any:
        return super()._vectors([f"answer {text}" for text in texts])


def blend(**weight: float) -> BlendEncoder:
    response = cast("ResponseEncoder", Answering(refused=["forbidden"]))
    return BlendEncoder(response, HashEncoder(), weight=BlendWeight(**weight) if weight else None)


TEXTS = ["the violin", "a forbidden violin"]


def test_a_weight_meets_its_ends_and_never_falls() -> None:
    shares = BlendWeight().of(np.linspace(0, 1, 101, dtype=np.float32))
    assert shares.dtype == np.float32
    assert (shares[0], shares[50], shares[-1]) == (pytest.approx(0.2), pytest.approx(0.6), pytest.approx(1.0))
    assert (np.diff(shares) >= 0).all()


@pytest.mark.parametrize("sharpness", [0.1, 5.0, 1e4])
@pytest.mark.parametrize("middle", [0.2, 0.8])
def test_a_weight_of_any_shape_is_monotone(sharpness: float, middle: float) -> None:
    shares = BlendWeight(0.0, 1.0, sharpness, middle).of(np.linspace(0, 1, 101, dtype=np.float32))
    assert (np.diff(shares) >= 0).all()
    assert (shares[0], shares[-1]) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    falling = BlendWeight(1.0, 0.3, sharpness, middle).of(np.linspace(0, 1, 11, dtype=np.float32))
    assert (np.diff(falling) <= 0).all()


def test_vectors_by_hand() -> None:
    response = QueryEncoding(np.eye(2, dtype=np.float32)[[0, 0]], np.array([0.0, 1.0], dtype=np.float32))
    own = np.eye(2, dtype=np.float32)[[1, 1]]
    mixed = BlendEncoder.blend(response, own, BlendWeight(answered=0.25))
    length = np.hypot(0.25, 0.75)
    np.testing.assert_allclose(mixed.vectors, [[0.25 / length, 0.75 / length], [1.0, 0.0]], atol=1e-6)
    assert mixed.refusal is response.refusal


def test_an_encoder_of_queries_and_documents() -> None:
    encoder = blend()
    assert isinstance(encoder, Encoder)
    vectors, refusal = encoder.encode(TEXTS)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert refusal is not None
    assert refusal.tolist() == pytest.approx([0.1, 0.96])
    assert np.array_equal(vectors, encoder.encode_queries(TEXTS))
    own, answer = HashEncoder().encode_queries(TEXTS), Answering().encode_queries(TEXTS)
    towards_own, towards_answer = (np.einsum("nd,nd->n", vectors, other) for other in (own, answer))
    assert towards_own[0] > towards_answer[0]
    assert towards_answer[1] > towards_own[1]
    assert np.array_equal(encoder.encode_documents(TEXTS), HashEncoder().encode_documents(TEXTS))
    assert (encoder.dimension, encoder.space) == (32, "hash:32")
    assert encoder.encode([]).vectors.shape == (0, 32)


def test_another_space_is_refused() -> None:
    response = Answering(refused=[])
    with pytest.raises(EncoderMismatchError, match="give the adapter's teacher"):
        BlendEncoder(cast("ResponseEncoder", response), HashEncoder(space="elsewhere"))


@pytest.mark.parametrize("weight", [{"answered": -0.1}, {"refused": 1.1}, {"sharpness": 0.0}])
def test_weights_that_cannot_be(weight: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        blend(**weight)


def test_without_verdicts_there_is_no_blend() -> None:
    with pytest.raises(InputError, match="refusal probabilities"):
        BlendEncoder.blend(QueryEncoding(np.eye(2, dtype=np.float32), None), np.eye(2, dtype=np.float32), BlendWeight())


def test_an_adapter_brings_its_own_share_unless_another_is_asked_for() -> None:
    response = Answering(refused=["forbidden"])
    response.record.blend_share = 0.5
    usual, own = blend(), BlendEncoder(cast("ResponseEncoder", response), HashEncoder())
    assert (usual.weight, own.weight) == (BlendWeight(), BlendWeight(answered=0.5))
    asked = BlendEncoder(cast("ResponseEncoder", response), HashEncoder(), weight=BlendWeight(answered=0.2))
    assert np.array_equal(asked.encode_queries(TEXTS), usual.encode_queries(TEXTS))
    assert not np.array_equal(own.encode_queries(TEXTS), usual.encode_queries(TEXTS))
