from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_retrieval.errors import InputError
from safe_retrieval.index.chunking import chunked, token_spans, word_spans
from safe_retrieval.types import Document
from tests.support.tiny_models import tokenizer


def texts(text: str, size: int, overlap: int) -> list[str]:
    return [piece.text for piece in chunked([Document("a", text)], size=size, overlap=overlap)]


def test_by_hand() -> None:
    document = Document("a", "one  two\nthree four five ", "Title", {"year": 1})
    pieces = list(chunked([document], size=2, overlap=1))
    assert [piece.text for piece in pieces] == ["one  two", "two\nthree", "three four", "four five"]
    assert pieces[1] == Document("a#1", "two\nthree", "Title", {"year": 1, "document": "a", "chunk": 1})
    assert texts("one two three four five", 2, 0) == ["one two", "three four", "five"]
    assert texts("one two three", 3, 2) == ["one two three"]
    assert texts("one two three", 9, 2) == ["one two three"]
    assert texts("", 2, 1) == [""]
    assert texts(" \n", 2, 1) == [" \n"]


@given(st.text(alphabet="ab \n", max_size=60), st.integers(1, 6), st.integers(0, 5))
def test_every_word_is_in_a_piece_and_pieces_overlap_as_asked(text: str, size: int, overlap: int) -> None:
    if overlap >= size:
        return
    words = text.split()
    pieces = [piece.split() for piece in texts(text, size, overlap)]
    assert all(len(piece) <= size for piece in pieces)
    rebuilt = pieces[0] + [word for piece in pieces[1:] for word in piece[overlap:]]
    assert rebuilt == words
    assert all(piece[overlap:] for piece in pieces[1:])


def test_tokens() -> None:
    class Tokenizer:
        is_fast = True

        def __call__(self, text: str, **options: Any) -> dict[str, list[tuple[int, int]]]:
            assert options["add_special_tokens"] is False
            return {"offset_mapping": [(0, 0), *((start, start + 1) for start in range(len(text)))]}

    pieces = chunked([Document("a", "abcde")], size=2, spans=token_spans(Tokenizer()))
    assert [piece.text for piece in pieces] == ["ab", "cd", "e"]
    with pytest.raises(InputError, match="fast tokenizer"):
        token_spans(object())


def test_faulty_sizes_and_fields() -> None:
    for size, overlap in ((0, 0), (2, 2), (2, -1)):
        with pytest.raises(InputError, match="smaller overlap"):
            list(chunked([Document("a", "b")], size=size, overlap=overlap))
    with pytest.raises(InputError, match="'chunk', which chunking sets"):
        list(chunked([Document("a", "b", metadata={"chunk": 1})], size=2))
    assert word_spans(" ab c") == [(1, 3), (4, 5)]


def test_a_text_that_ends_in_half_a_character_is_cut_by_tokens_too() -> None:
    document = Document("a", "the violin is old and cut \ud83d")
    (piece,) = chunked([document], size=100, spans=token_spans(tokenizer()))
    assert piece.text == document.text
    assert len(list(chunked([document], size=3, spans=token_spans(tokenizer())))) > 1
