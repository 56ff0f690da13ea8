from __future__ import annotations

import math

import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.lexical import LexicalIndex
from safe_retrieval.types import Document


def index_of(*texts: str) -> LexicalIndex:
    return LexicalIndex([Document(f"d{number}", text) for number, text in enumerate(texts)])


def test_score_by_hand() -> None:
    # Lucene: idf = ln(1 + (N - df + 0.5) / (df + 0.5)); tf part = tf / (tf + k1 (1 - b + b len / mean length)).
    index = index_of("violin violin harbour", "harbour copper copper", "copper meadow meadow")
    ((first,),) = index.search(["violin"])
    assert first.id == "d0"
    assert first.score == pytest.approx(math.log(1 + 2.5 / 1.5) * 2 / (2 + 1.5), rel=1e-5)


def test_ties_go_by_position_and_repeat() -> None:
    index = index_of(*["the same words"] * 50, "other things")
    first = index.search(["same words"], k=7)
    assert [hit.id for hit in first[0]] == [f"d{number}" for number in range(7)]
    assert index.search(["same words"], k=7) == first


def test_title_counts() -> None:
    index = LexicalIndex([Document("a", "nothing here"), Document("b", "nothing here", title="Violin")])
    assert [hit.id for hit in index.search(["violin"])[0]] == ["b"]


@pytest.mark.parametrize("query", ["", "   ", "the of and", "unheard", "?!", "\x00", "\ud800"])
def test_queries_without_a_known_word_have_no_hits(query: str) -> None:
    assert index_of("violin", "harbour").search([query]) == [[]]


def test_only_documents_that_share_a_word_are_hits() -> None:
    assert [hit.id for hit in index_of("violin", "harbour").search(["violin"], k=10)[0]] == ["d0"]


def test_a_corpus_without_words_can_be_asked() -> None:
    assert index_of("", "?").search(["violin"]) == [[]]


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="at least one document"):
        LexicalIndex([])
    with pytest.raises(InputError, match="twice"):
        LexicalIndex([Document("a", "x"), Document("a", "y")])
    with pytest.raises(InputError, match="k must be"):
        index_of("violin").search(["violin"], k=0)
    with pytest.raises(InputError, match="one str"):
        index_of("violin").search("violin")
