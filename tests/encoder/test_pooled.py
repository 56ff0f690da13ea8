from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_retrieval.encoder.echo import BEFORE, BETWEEN, EchoEncoder
from safe_retrieval.encoder.pooled import PooledEncoder, mean_states
from safe_retrieval.training.teachers import EncoderTeacher
from safe_retrieval.types import Encoder
from tests.support.tiny_models import Family, tiny_model

TEXTS = ["how do tides work", "Paris", "the violin lies beside the harbour and the moon"]


def states(ids: list[int], *, bidirectional: bool = False) -> torch.Tensor:
    """(n, H) by plain transformers, one text at a time."""
    model = tiny_model()
    mask = torch.zeros(1, 1, len(ids), len(ids)) if bidirectional else None
    with torch.inference_mode():
        out = model.model.get_decoder()(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False)
    return out.last_hidden_state[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_vector_is_the_mean_of_the_states(bidirectional: bool) -> None:
    model = tiny_model()
    vectors = PooledEncoder(model, bidirectional=bidirectional).encode_queries(TEXTS)
    for vector, ids in zip(vectors, model.tokenizer.encode_text(TEXTS, max_tokens=512), strict=True):
        expected = states(ids, bidirectional=bidirectional).mean(0)
        np.testing.assert_allclose(vector, (expected / expected.norm()).numpy(), atol=1e-5)


def test_an_echo_averages_the_second_copy_alone() -> None:
    model = tiny_model()
    before, between, text = model.tokenizer.encode_text([BEFORE, BETWEEN, TEXTS[0]], max_tokens=512)
    expected = states([*before, *text, *between, *text])[-len(text) :].mean(0)
    (vector,) = EchoEncoder(model).encode_queries(TEXTS[:1])
    np.testing.assert_allclose(vector, (expected / expected.norm()).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", [PooledEncoder, EchoEncoder])
def test_order_and_batch_do_not_matter(kind: type[PooledEncoder]) -> None:
    encoder = kind(tiny_model())
    alone = np.concatenate([encoder.encode_documents([text]) for text in TEXTS])
    together = encoder.encode_documents(TEXTS[::-1], batch_size=2)[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert isinstance(encoder, Encoder)
    assert encoder.encode(TEXTS).refusal is None


def test_empty_and_long_texts_have_vectors() -> None:
    encoder = EchoEncoder(tiny_model())
    assert encoder.encode_queries(["", "x" * 10_000, "<|im_end|>\x00"]).shape == (3, encoder.dimension)
    assert max(encoder.token_counts(["x y " * 10_000])) < 2 * 256 + 80


def test_spaces_tell_models_and_readings_apart() -> None:
    model = tiny_model()
    encoders = [PooledEncoder(model), PooledEncoder(model, bidirectional=True), EchoEncoder(model)]
    encoders.append(PooledEncoder(tiny_model(Family.LLAMA)))
    assert len({encoder.space for encoder in encoders}) == len(encoders)


def test_the_teacher_speaks_the_space_of_the_encoder() -> None:
    teacher = EncoderTeacher(PooledEncoder(tiny_model(), bidirectional=True))
    encoder = PooledEncoder(tiny_model(), bidirectional=True)
    assert (teacher.space, teacher.dimension) == (encoder.space, encoder.dimension)
    np.testing.assert_array_equal(teacher.targets(TEXTS), encoder.encode_documents(TEXTS))


def test_starts_leave_positions_out() -> None:
    ids = tiny_model().tokenizer.encode_text(TEXTS[:1], max_tokens=512)
    pooled = mean_states(tiny_model(), ids, starts=[len(ids[0]) - 1])
    np.testing.assert_allclose(pooled[0], states(ids[0])[-1].numpy(), atol=1e-5)
