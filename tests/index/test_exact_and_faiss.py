from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from safe_retrieval.errors import InputError
from safe_retrieval.index import one_query
from safe_retrieval.index.base import VectorIndex
from safe_retrieval.index.exact import ExactIndex
from safe_retrieval.index.faiss_index import FaissIndex
from safe_retrieval.types import FloatMatrix, Hit

KINDS: list[type[ExactIndex | FaissIndex]] = [ExactIndex, FaissIndex]


def unit(rows: Any) -> FloatMatrix:
    matrix = np.asarray(rows, dtype=np.float64)
    unit_rows: FloatMatrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    return unit_rows


def random_unit(count: int, dimension: int, seed: int) -> FloatMatrix:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def filled(kind: type[ExactIndex | FaissIndex], vectors: FloatMatrix) -> VectorIndex:
    index = kind(vectors.shape[1])
    index.add([f"d{number}" for number in range(len(vectors))], vectors)
    return index


def reference(vectors: FloatMatrix, queries: FloatMatrix, k: int) -> list[list[tuple[int, float]]]:
    """All scores in float64, one pair at a time, sorted: what both indexes have to return."""
    ranked = []
    for query in queries.astype(np.float64):
        scores = [np.float32((vector * query).sum()) for vector in vectors.astype(np.float64)]
        order = sorted(range(len(scores)), key=lambda position: (-scores[position], position))[:k]
        ranked.append([(position, float(scores[position])) for position in order])
    return ranked


@st.composite
def searches(draw: st.DrawFn) -> tuple[FloatMatrix, FloatMatrix, int]:
    """Corpora with many duplicates and near-ties, and k from far below to above the number of vectors."""
    dimension = draw(st.integers(1, 24))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    distinct = random_unit(draw(st.integers(1, 12)), dimension, seed)
    vectors = distinct[rng.integers(0, len(distinct), draw(st.integers(1, 80)))]
    jitter = draw(st.sampled_from([0.0, 1e-8, 1e-7, 1e-6, 1e-2]))
    vectors = unit(vectors + jitter * rng.standard_normal(vectors.shape))
    queries = np.concatenate([vectors[:2], random_unit(draw(st.integers(1, 25)), dimension, seed + 1)])
    return vectors, queries, draw(st.integers(1, 100))


@settings(max_examples=80, deadline=None)
@given(searches())
def test_both_agree_with_the_reference_in_ids_order_and_scores(search: tuple[FloatMatrix, FloatMatrix, int]) -> None:
    vectors, queries, k = search
    expected = [
        [Hit(f"d{position}", score) for position, score in ranking] for ranking in reference(vectors, queries, k)
    ]
    for kind in KINDS:
        assert filled(kind, vectors).search(queries, k) == expected


def test_both_agree_at_size() -> None:
    vectors, queries = random_unit(20_000, 48, 1), random_unit(70, 48, 2)
    exact, faiss = filled(ExactIndex, vectors), filled(FaissIndex, vectors)
    assert exact.search(queries, 25) == faiss.search(queries, 25)
    assert exact.search(queries[:1], 25) == faiss.search(queries, 25)[:1]


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(kind: type[ExactIndex | FaissIndex]) -> None:
    index = filled(kind, unit([[1, 0], [0, 1], [1, 1], [-1, 0]]))
    (hits,) = index.search(unit([[1, 0]]), k=3)
    assert [hit.id for hit in hits] == ["d0", "d2", "d1"]
    assert [hit.score for hit in hits] == pytest.approx([1, 2**-0.5, 0], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_keep_their_order_even_where_the_cut_runs_through_them(
    kind: type[ExactIndex | FaissIndex],
) -> None:
    index = filled(kind, np.repeat(random_unit(2, 16, 3), 500, axis=0))
    (hits,) = index.search(random_unit(2, 16, 3)[1:], k=7)
    assert [hit.id for hit in hits] == [f"d{number}" for number in range(500, 507)]
    assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_many_equal_vectors_do_not_fill_memory(kind: type[ExactIndex | FaissIndex]) -> None:
    vectors = np.repeat(random_unit(2, 64, 3), [3, 40_000], axis=0)
    index = filled(kind, vectors)
    index.search(vectors[:1], 1)  # the exact index joins what was added, once
    tracemalloc.start()
    try:
        (hits,) = index.search(vectors[-1:], k=7)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [hit.id for hit in hits] == [f"d{number}" for number in range(3, 10)]
    assert peak < vectors.nbytes / 2


@pytest.mark.parametrize("kind", KINDS)
def test_more_hits_than_vectors(kind: type[ExactIndex | FaissIndex]) -> None:
    index = filled(kind, random_unit(3, 4, 0))
    assert [len(hits) for hits in index.search(random_unit(2, 4, 1), k=1_000)] == [3, 3]
    assert kind(4).search(random_unit(2, 4, 1), k=5) == [[], []]
    assert index.search(np.empty((0, 4), np.float32)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_added_later_are_found_and_the_callers_array_is_its_own(kind: type[ExactIndex | FaissIndex]) -> None:
    first = random_unit(2, 4, 0)
    index = filled(kind, first)
    query = first[:1].copy()
    index.search(query)
    first[:] = 0
    index.add(["later"], query)
    assert [hit.id for hit in index.search(query, k=2)[0]] == ["d0", "later"]
    assert len(index) == 3


GOOD = random_unit(2, 4, 5)


def broken(row: int, value: float) -> FloatMatrix:
    vectors = GOOD.copy()
    vectors[row] = value
    return vectors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["x", "x"], GOOD, "'x' comes twice"),
        (["x", "there"], GOOD, "'there' is already in the index"),
        (["x", 7], GOOD, "id 1 is int"),
        (["x", ""], GOOD, "id 1"),
        (["x", "\ud800"], GOOD, "lone surrogate"),
        (["x"], GOOD, "1 ids and 2 vectors"),
        ("xy", GOOD, "one str"),
        (["x", "y"], GOOD.astype(np.float64), "float64"),
        (["x", "y"], GOOD[:, :3], r"shape \(n, 4\)"),
        (["x", "y"], GOOD[0], r"shape \(4,\)"),
        (["x", "y"], GOOD.tolist(), "list"),
        (["x", "y"], broken(1, np.nan), "vector 1 holds NaN"),
        (["x", "y"], broken(0, np.inf), "vector 0 holds NaN or infinity"),
        (["x", "y"], broken(1, 0), "vector 1 is all zeros"),
        (["x", "y"], GOOD * 2, "length one"),
        (["x", "y"], broken(1, 3e38), "length one"),
    ],
)
def test_faulty_input_is_refused_before_anything_goes_in(
    kind: type[ExactIndex | FaissIndex], ids: Any, vectors: NDArray[Any], message: str
) -> None:
    index = kind(4)
    index.add(["there"], GOOD[:1])
    with pytest.raises(InputError, match=message):
        index.add(ids, vectors)
    assert len(index) == 1
    index.add(["x", "y"], GOOD)
    assert len(index.search(GOOD, k=10)[0]) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_faulty_searches(kind: type[ExactIndex | FaissIndex]) -> None:
    index = filled(kind, GOOD)
    with pytest.raises(InputError, match="at least 1"):
        index.search(GOOD, k=0)
    with pytest.raises(InputError, match="query vector 0"):
        index.search(GOOD * 0.5)
    with pytest.raises(InputError, match="dimension"):
        kind(0)


@pytest.mark.parametrize("count", [1, 2, 500])
def test_one_query_shared_by_threads(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, query = random_unit(count, 8, seed=3), random_unit(1, 8, seed=4)
    vectors[-1] = vectors[0]  # a tie across the shares
    alone = filled(FaissIndex, vectors).search(query, 20)
    ended = ThreadPoolExecutor(1)  # as every pool is for threads that outlive the main one
    ended.shutdown()
    monkeypatch.setattr(one_query, "_WORTH_BYTES", 0)
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: 3)
    assert filled(FaissIndex, vectors).search(query, 20) == alone == filled(ExactIndex, vectors).search(query, 20)
    monkeypatch.setattr(one_query, "_helpers", lambda _: ended)
    assert filled(FaissIndex, vectors).search(query, 20) == alone
