from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_retrieval.encoder.texts import BLANK, MAX_CHARACTERS, clean_texts, length_sorted_batches, readable
from safe_retrieval.errors import InputError


def test_clean_text_is_left_alone() -> None:
    texts = ["plain", "ünïcödé", "two\nlines", " spaces kept ", "pair \U0001f600"]
    assert clean_texts(texts) == texts
    assert clean_texts(tuple(texts)) == texts
    assert clean_texts([]) == []


def test_what_tokenizers_choke_on_is_replaced() -> None:
    assert clean_texts(["a\ud83db", "nul\0", "\udfff"]) == ["a\ufffdb", "nul\ufffd", "\ufffd"]
    assert readable("a\ud83db\0") == "a\ufffdb\ufffd"


@pytest.mark.parametrize("text", ["", " ", "\n\t  \u2003"])
def test_blank_text_is_a_space(text: str) -> None:
    assert clean_texts([text]) == [BLANK]


def test_long_text_is_cut() -> None:
    assert clean_texts(["x" * 100_000]) == ["x" * MAX_CHARACTERS]
    assert clean_texts(["abcdef"], max_characters=3) == ["abc"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("bare", "one str; wrap it in a list"),
        (b"bare", "one bytes"),
        (["fine", None], "text 1 is NoneType"),
        (["fine", "fine", b"bytes"], "text 2 is bytes"),
        ([3], "text 0 is int"),
    ],
)
def test_what_is_no_list_of_texts(texts: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clean_texts(texts)  # type: ignore[arg-type]


def test_batches_by_hand() -> None:
    batches = length_sorted_batches([3, 9, 3, 7], batch_size=3)
    assert [batch.tolist() for batch in batches] == [[1, 3, 0], [2]]
    budgeted = length_sorted_batches([3, 9, 3, 7, 3, 3], batch_size=3, token_budget=8)
    assert [batch.tolist() for batch in budgeted] == [[1], [3], [0, 2], [4, 5]]
    assert length_sorted_batches([], batch_size=4) == []
    assert [batch.tolist() for batch in length_sorted_batches([0, 0], batch_size=4, token_budget=1)] == [[0], [1]]


@given(
    lengths=st.lists(st.integers(0, 600), max_size=60),
    batch_size=st.integers(1, 9),
    token_budget=st.none() | st.integers(1, 2_000),
)
def test_batches_are_a_permutation_within_bounds(lengths: list[int], batch_size: int, token_budget: int | None) -> None:
    batches = length_sorted_batches(lengths, batch_size=batch_size, token_budget=token_budget)
    assert sorted(position for batch in batches for position in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        if token_budget is not None and len(batch) > 1:
            assert len(batch) * max(lengths[position] for position in batch) <= token_budget
    order = [lengths[position] for batch in batches for position in batch]
    assert order == sorted(lengths, reverse=True)
    assert all(batch.dtype == np.int64 for batch in batches)


def test_bounds_are_checked() -> None:
    with pytest.raises(InputError, match="batch_size"):
        length_sorted_batches([1], batch_size=0)
    with pytest.raises(InputError, match="token_budget"):
        length_sorted_batches([1], batch_size=1, token_budget=0)
