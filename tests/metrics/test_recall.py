from __future__ import annotations

import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.metrics import recall, recall_per_query


def test_share_of_relevant_documents_found() -> None:
    run = {"q": ["a", "x", "b", "c"]}
    qrels = {"q": {"a": 1, "b": 2, "c": 1, "d": 1}}
    assert [recall(run, qrels, k=k) for k in (1, 2, 3, 4, 100)] == [0.25, 0.25, 0.5, 0.75, 0.75]


def test_mean_over_judged_queries_with_the_unanswered_one_as_zero() -> None:
    run = {"one": ["a"], "unjudged": ["a"]}
    assert recall(run, {"one": {"a": 1}, "two": {"b": 1}}, k=5) == 0.5


def test_a_query_without_relevant_documents_is_left_out() -> None:
    assert recall_per_query({"q": ["a"]}, {"q": {"a": 0}, "r": {}}, k=5) == {}


def test_the_mean_of_nothing_raises() -> None:
    with pytest.raises(InputError, match="recall@5 needs at least one judged query"):
        recall({}, {"q": {}}, k=5)


def test_a_cut_below_one_raises() -> None:
    with pytest.raises(InputError, match="got 0"):
        recall({}, {"q": {"a": 1}}, k=0)
