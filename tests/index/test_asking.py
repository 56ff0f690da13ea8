"""Filters, range search and diversity, against plain Python over the same documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.index.base import VectorIndex
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.diversity import most_diverse
from safe_retrieval.index.exact import ExactIndex
from safe_retrieval.index.faiss_index import FaissIndex
from safe_retrieval.index.filters import as_filter, matches
from safe_retrieval.index.folder import SearchableIndex, load_index
from safe_retrieval.index.vectors import Selection
from safe_retrieval.types import Document, Hit
from tests.support.encoders import HashEncoder

ENCODER = HashEncoder()
vectors_of = ENCODER.of
COLOURS = ("red", "green", "blue")
DOCUMENTS = [
    Document(
        f"d{n}", f"stone {n % 7} in the river {n % 5}", metadata={"n": n, "colour": COLOURS[n % 3], "even": n % 2 == 0}
    )
    for n in range(120)
]
QUERIES = ENCODER.encode_queries(["stone 3", "the river 4", "nothing of it"])


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SearchableIndex, list[Document]]]:
    """An index of several segments with deletions, and the documents that are left, by position."""
    path = tmp_path_factory.mktemp("asking") / "index"
    build_index(DOCUMENTS[:78], ENCODER, path)
    with load_index(path) as index:
        index.add(DOCUMENTS[78:108], vectors_of(DOCUMENTS[78:108]))
        index.add(DOCUMENTS[108:], vectors_of(DOCUMENTS[108:]))
        gone = {f"d{n}" for n in range(0, 120, 11)}
        index.delete(sorted(gone))
        assert len(index.manifest.segments) > 1
        yield index, [document for document in DOCUMENTS if document.id not in gone]


def expected(documents: list[Document], where: Any, k: int) -> list[list[Hit]]:
    found = as_filter(where)
    assert found is not None
    chosen = [document for document in documents if matches(found, document)]
    exact = ExactIndex(ENCODER.dimension)
    if chosen:
        exact.add([document.id for document in chosen], vectors_of(chosen))
    return exact.search(QUERIES, k)


@pytest.mark.parametrize(
    "where",
    [
        {"colour": "red"},
        {"n": {"$gte": 95, "$lt": 105}},
        {"n": {"$in": [1, 64, 118]}},
        {"n": 119},
        {"n": 0},
        {"colour": "violet"},
        {"$or": [{"even": True}, {"$not": {"colour": {"$in": ["red", "blue"]}}}]},
        {},
    ],
)
def test_k_hits_come_back_whenever_k_match(
    changed: tuple[SearchableIndex, list[Document]], where: dict[str, Any]
) -> None:
    index, documents = changed
    for k in (1, 5, 200):
        assert index.search(QUERIES, k, where=where) == expected(documents, where, k)
    found = as_filter(where)
    assert found is not None
    assert index.ids(where=where) == [d.id for d in documents if matches(found, d)]
    near = [[hit for hit in hits if hit.score >= 0.3] for hits in expected(documents, where, 200)]
    assert index.search_range(QUERIES, 0.3, where=where) == near
    for hits, nearest in zip(index.search_diverse(QUERIES, 4, where=where), expected(documents, where, 4), strict=True):
        assert len(hits) == len(nearest)
        assert hits[:1] == nearest[:1]


def test_range_holds_its_bound_to_the_last_bit(changed: tuple[SearchableIndex, list[Document]]) -> None:
    index, _ = changed
    (hits, *_) = index.search(QUERIES, 200)
    score = hits[9].score
    assert index.search_range(QUERIES[:1], score) == [[hit for hit in hits if hit.score >= score]]
    above = float(np.nextafter(np.float32(score), np.float32(2)))
    assert index.search_range(QUERIES[:1], above) == [[hit for hit in hits if hit.score > score]]
    assert index.search_range(QUERIES, 1.5) == [[], [], []]
    assert [len(found) for found in index.search_range(QUERIES, -1.5)] == [len(index)] * 3


@pytest.mark.parametrize("kind", [ExactIndex, FaissIndex])
def test_both_kinds_select_and_range_alike(kind: type[ExactIndex | FaissIndex]) -> None:
    index: VectorIndex = kind(ENCODER.dimension)
    index.add([document.id for document in DOCUMENTS], vectors_of(DOCUMENTS))
    selection = Selection(np.arange(120) % 13 == 2)
    whole = index.rankings(QUERIES, 120)
    for query, some, all_of_it in zip(QUERIES, index.rankings(QUERIES, 120, within=selection), whole, strict=True):
        chosen = selection.mask[all_of_it.positions]
        assert some.positions.tolist() == all_of_it.positions[chosen].tolist()
        assert some.scores.tolist() == all_of_it.scores[chosen].tolist()
        near = index.above(query, 0.2, within=selection)
        assert near.positions.tolist() == some.positions[some.scores >= 0.2].tolist()


def test_diversity_by_hand() -> None:
    vectors = np.asarray([[1, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    scores = np.asarray([0.9, 0.85, 0.5, 0.1], dtype=np.float32)
    assert most_diverse(scores, vectors, 4, 1.0).tolist() == [0, 1, 2, 3]
    # Second: 0.5 * 0.85 - 0.5 * 0.8 = 0.025, 0.5 * 0.5 - 0 = 0.25, 0.05; third: 0.425 - 0.4 = 0.025 against 0.05.
    assert most_diverse(scores, vectors, 3, 0.5).tolist() == [0, 2, 3]
    assert most_diverse(scores, vectors, 2, 0.0).tolist() == [0, 2]
    assert most_diverse(scores[:0], vectors[:0], 2, 0.5).tolist() == []


def test_diverse_hits_are_fewer_of_a_kind(changed: tuple[SearchableIndex, list[Document]]) -> None:
    index, _ = changed
    nearest = index.search(QUERIES[:1], 5)[0]
    assert index.search_diverse(QUERIES[:1], 5, balance=1.0)[0] == nearest

    def alikeness(hits: list[Hit]) -> float:
        vectors = index.get_vectors([hit.id for hit in hits])
        return float((vectors @ vectors.T).sum())

    diverse = index.search_diverse(QUERIES[:1], 5, balance=0.3)[0]
    assert alikeness(diverse) < alikeness(nearest)
    assert len({hit.id for hit in diverse}) == 5


def test_faulty_questions(changed: tuple[SearchableIndex, list[Document]]) -> None:
    index, _ = changed
    questions: list[Callable[[], object]] = [
        lambda: index.search(QUERIES, 0, where={"n": 1}),
        lambda: index.search(QUERIES, 1, where={"n": {"$about": 1}}),
        lambda: index.search_range(QUERIES, float("nan")),
        lambda: index.search_range(QUERIES * 2, 0.5),
        lambda: index.search_diverse(QUERIES, 3, balance=1.5),
        lambda: index.search_diverse(QUERIES, 0),
    ]
    for ask in questions:
        with pytest.raises(InputError):
            ask()


def test_hits_with_their_documents(changed: tuple[SearchableIndex, list[Document]]) -> None:
    index, _ = changed
    for where in (None, {"colour": "red"}):
        hits = index.search(QUERIES, 9, where=where)
        found = index.search_documents(QUERIES, 9, where=where)
        assert [[(one.document.id, one.score) for one in row] for row in found] == hits
        assert [one.document for one in found[0]] == index.get_documents([hit.id for hit in hits[0]])
    assert index.search_documents(QUERIES[:0]) == []
