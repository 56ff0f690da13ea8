from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_retrieval.errors import InputError
from safe_retrieval.metrics import ndcg, ndcg_per_query


def test_one_relevant_document_at_rank_three_is_one_half() -> None:
    assert ndcg({"q": ["a", "b", "c"]}, {"q": {"c": 1}}, k=10) == 0.5


def test_graded_case_by_hand() -> None:
    run = {"q": ["b", "a", "x", "c"]}
    qrels = {"q": {"a": 3, "b": 2, "c": 1, "d": 1}}
    dcg = 2 / 1 + 3 / math.log2(3) + 0 + 1 / math.log2(5)
    ideal = 3 / 1 + 2 / math.log2(3) + 1 / 2 + 1 / math.log2(5)
    assert ndcg(run, qrels, k=4) == pytest.approx(dcg / ideal, abs=1e-12)


def test_cut_applies_to_the_ideal_ranking_as_well() -> None:
    assert ndcg({"q": ["a"]}, {"q": {"a": 1, "b": 1, "c": 1}}, k=1) == 1.0


def test_k_beyond_the_ranking_changes_nothing() -> None:
    run, qrels = {"q": ["x", "a"]}, {"q": {"a": 1}}
    assert ndcg(run, qrels, k=2) == ndcg(run, qrels, k=1000) == pytest.approx(1 / math.log2(3))


def test_an_unanswered_query_is_zero_and_an_unjudged_one_is_left_out() -> None:
    values = ndcg_per_query({"answered": ["a"], "unjudged": ["a"]}, {"answered": {"a": 1}, "missed": {"b": 1}})
    assert values == {"answered": 1.0, "missed": 0.0}


def test_a_query_without_relevant_documents_has_no_ndcg() -> None:
    assert ndcg_per_query({"q": ["a"]}, {"q": {"a": 0}}) == {}


def test_negative_grades_earn_nothing() -> None:
    assert ndcg({"q": ["bad", "good"]}, {"q": {"bad": -1, "good": 1}}) == pytest.approx(1 / math.log2(3))


def test_the_mean_of_nothing_raises() -> None:
    with pytest.raises(InputError, match="at least one judged query"):
        ndcg({"q": ["a"]}, {})


@pytest.mark.parametrize("k", [0, -1])
def test_a_cut_below_one_raises(k: int) -> None:
    with pytest.raises(InputError, match="k must be 1 or more"):
        ndcg({"q": ["a"]}, {"q": {"a": 1}}, k=k)


def test_a_document_named_twice_is_not_rewarded_twice() -> None:
    with pytest.raises(InputError, match="'a' is there twice"):
        ndcg({"q": ["a", "a"]}, {"q": {"a": 1, "b": 1}})


@given(
    st.permutations(list("abcdef")), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3)), st.integers(1, 9)
)
def test_always_within_zero_and_one_and_one_for_the_ideal_order(
    ranking: list[str], grades: dict[str, int], k: int
) -> None:
    for value in ndcg_per_query({"q": ranking}, {"q": grades}, k=k).values():
        assert 0 <= value <= 1 + 1e-12
    ideal = sorted(ranking, key=lambda document: -grades.get(document, 0))
    for value in ndcg_per_query({"q": ideal}, {"q": grades}, k=k).values():
        assert value == pytest.approx(1.0)
