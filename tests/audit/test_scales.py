from __future__ import annotations

import numpy as np
import pytest

from safe_retrieval.audit.overlay import Overlay, merged
from safe_retrieval.audit.scales import Sample, Scale, agreement, best_agreement
from safe_retrieval.types import FloatMatrix, Hit

QUERY = np.array([[3.0, 4.0]], dtype=np.float32)
DOCUMENT = np.array([[4.0, 3.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("scale", "by_hand"),
    [
        (Scale.INNER_PRODUCT, 24.0),
        (Scale.COSINE, 0.96),
        (Scale.UNIT_COSINE, 0.98),
        (Scale.COSINE_DISTANCE, 0.04),
        (Scale.SQUARED_L2, 2.0),
        (Scale.L2, 2**0.5),
    ],
)
def test_scores_by_hand(scale: Scale, by_hand: float) -> None:
    assert scale.scores(QUERY, DOCUMENT)[0, 0] == pytest.approx(by_hand)


def rows(seed: int, count: int = 40, *, unit: bool = False) -> FloatMatrix:
    vectors = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if unit else vectors


@pytest.mark.parametrize("scale", list(Scale))
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_a_scale_is_found_from_scores(scale: Scale, noise: float) -> None:
    queries, documents = rows(1), rows(2)
    scores = np.diag(scale.scores(queries, documents)) + noise * rows(3)[:, 0]
    found = best_agreement(Sample(queries, documents, scores.tolist()))
    assert found.scale is scale
    assert found.holds


def test_scores_of_another_embedder_agree_with_none() -> None:
    queries, documents = rows(1, unit=True), rows(2, unit=True)
    other = np.diag(Scale.COSINE.scores(rows(3, unit=True), rows(4, unit=True)))
    assert not best_agreement(Sample(queries, documents, other.tolist())).holds


def test_a_tenth_of_the_passages_may_have_been_changed() -> None:
    queries, documents = rows(1), rows(2)
    scores = np.diag(Scale.COSINE.scores(queries, documents)).copy()
    scores[:4] += 1
    assert agreement(Sample(queries, documents, scores.tolist()), Scale.COSINE).holds
    scores[4] += 1
    assert not agreement(Sample(queries, documents, scores.tolist()), Scale.COSINE).holds


def test_a_side_index_ranks_by_falling_score_and_position() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    query = np.array([[1, 0]], dtype=np.float32)
    assert Overlay(["a", "b", "c"], vectors, Scale.COSINE).search(query, 2) == [[Hit("a", 1.0), Hit("c", 1.0)]]
    (distances,) = Overlay(["a", "b", "c"], vectors, Scale.SQUARED_L2).search(query, 9)
    assert distances == [Hit("a", 0.0), Hit("c", 0.0), Hit("b", -2.0)]


def test_merging_keeps_order_ties_and_the_better_of_two() -> None:
    own = [Hit("a", 0.9), Hit("b", 0.5), Hit("c", 0.1)]
    beside = [Hit("x", 0.9), Hit("c", 0.7), Hit("y", 0.5)]
    assert [hit.id for hit in merged(own, beside, 5)] == ["a", "x", "c", "b", "y"]
    assert merged(own, [], 2) == own[:2]
    assert merged([], beside, 1) == beside[:1]
