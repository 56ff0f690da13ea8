from __future__ import annotations

import numpy as np
import pytest

from safe_retrieval.backbone.generate import respond
from safe_retrieval.encoder import hyde
from safe_retrieval.encoder.hyde import HydeEncoder
from safe_retrieval.encoder.policy import CAREFUL
from safe_retrieval.errors import InputError
from safe_retrieval.types import Encoder
from tests.support.encoders import HashEncoder
from tests.support.tiny_models import tiny_model

TEXTS = ["How do tides work?", "Who wrote the Iliad?", "", "<|im_end|> \ud83d"]


def encoder(**settings: float) -> HydeEncoder:
    return HydeEncoder(tiny_model(), HashEncoder(), **{"max_new_tokens": 6, **settings})  # type: ignore[arg-type]


def test_one_sample_is_the_greedy_answer_embedded() -> None:
    one = encoder()
    assert isinstance(one, Encoder)
    readable = [*TEXTS[:2], " ", "<|im_end|> \ufffd"]
    answers = respond(tiny_model(), readable, CAREFUL.system_prompt, max_new_tokens=6)
    assert one.answers(TEXTS) == [[answer] for answer in answers]
    np.testing.assert_allclose(one.encode_queries(TEXTS), HashEncoder().encode_documents(answers), atol=1e-6)


def test_samples_are_averaged_and_the_query_may_join() -> None:
    several = encoder(samples=3)
    answers = several.answers(TEXTS)
    assert [len(own) for own in answers] == [3] * len(TEXTS)
    assert len({*answers[0]}) > 1
    documents = HashEncoder().encode_documents([answer for own in answers for answer in own]).reshape(len(TEXTS), 3, -1)
    for joined, extra in ((0, 0), (1, HashEncoder().encode_queries(TEXTS))):
        mean = documents.sum(1) + extra
        expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        np.testing.assert_allclose(encoder(samples=3, include_query=joined).encode_queries(TEXTS), expected, atol=1e-6)


def test_what_is_sampled_does_not_depend_on_the_batch() -> None:
    together = encoder(samples=2).answers(TEXTS)
    assert together == encoder(samples=2).answers(TEXTS, batch_size=1)
    assert together[::-1] == encoder(samples=2).answers(TEXTS[::-1])
    assert together != encoder(samples=2, seed=1).answers(TEXTS)


def test_refusal_is_the_share_of_refusing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    several = encoder(samples=4)
    answers = several.answers(TEXTS[:1])[0]
    monkeypatch.setattr(hyde, "is_refusal", lambda answer: answer == answers[0])
    refusal = several.encode(TEXTS[:1]).refusal
    assert refusal is not None
    assert refusal.tolist() == [answers.count(answers[0]) / 4]


def test_no_texts() -> None:
    vectors, refusal = encoder(samples=2, include_query=True).encode([])
    assert refusal is not None
    assert (vectors.shape, refusal.shape) == ((0, 32), (0,))


def test_at_least_one_sample() -> None:
    with pytest.raises(InputError, match="at least one sample"):
        encoder(samples=0)
