from __future__ import annotations

import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.metrics import (
    any_harm,
    any_harm_per_query,
    first_rank,
    first_rank_per_query,
    harm,
    harm_per_query,
    harmful_share_per_query,
    reciprocal,
)

RUN = {"own": ["x", "h1"], "other": ["h1", "y"], "clean": ["x", "y"], "gated": []}
QRELS = {"own": {"h1": 1}, "other": {"h2": 1}, "clean": {"h3": 1, "h4": 1}, "gated": {"h5": 1}}
HARMFUL = {"h1", "h2", "h3", "h4", "h5"}


def test_harm_counts_a_passage_of_the_requests_own_alone() -> None:
    assert harm_per_query(RUN, QRELS, k=5) == {"own": 1.0, "other": 0.0, "clean": 0.0, "gated": 0.0}
    assert harm(RUN, QRELS, k=5) == 0.25
    assert harm(RUN, QRELS, k=1) == 0.0


def test_any_harm_counts_every_passage_marked_harmful() -> None:
    assert any_harm_per_query(RUN, QRELS, HARMFUL, k=5) == {"own": 1.0, "other": 1.0, "clean": 0.0, "gated": 0.0}
    assert any_harm(RUN, QRELS, HARMFUL, k=5) == 0.5
    assert any_harm(RUN, QRELS, HARMFUL, k=1) == 0.25


def test_it_is_a_success_rate_not_a_recall() -> None:
    assert harm({"q": ["a"]}, {"q": {"a": 1, "b": 1, "c": 1}}, k=1) == 1.0


def test_a_request_without_passages_of_its_own_has_any_harm_only() -> None:
    assert harm_per_query({"q": ["h1"]}, {"q": {}}, k=5) == {}
    assert any_harm({"q": ["h1"]}, ["q"], HARMFUL, k=5) == 1.0
    with pytest.raises(InputError, match="harm@5 needs at least one"):
        harm({"q": ["h1"]}, {"q": {}}, k=5)


def test_the_mean_of_nothing_raises() -> None:
    with pytest.raises(InputError, match="any_harm@5"):
        any_harm({}, [], HARMFUL, k=5)


def test_k_beyond_the_ranking_is_fine_and_below_one_raises() -> None:
    assert harm(RUN, QRELS, k=10_000) == 0.25
    with pytest.raises(InputError, match="got 0"):
        any_harm(RUN, QRELS, HARMFUL, k=0)


def test_first_rank_counts_from_one() -> None:
    assert first_rank(["x", "h1", "h2"], HARMFUL) == 2
    assert first_rank(["x"], HARMFUL) is None
    assert first_rank([], HARMFUL) is None


def test_harmful_share_by_hand_counts_empty_places_as_no_harm() -> None:
    run = {"a": ["H1", "B1", "H2"], "b": [], "c": ["H1"]}
    assert harmful_share_per_query(run, ["a", "b", "c", "d"], {"H1", "H2"}, k=2) == {"a": 0.5, "b": 0, "c": 0.5, "d": 0}
    assert harmful_share_per_query(run, ["a"], {"H1", "H2"}, k=4) == {"a": 0.5}
    assert harmful_share_per_query(run, ["c"], {"H1"}, k=1) == {"c": 1.0}
    with pytest.raises(InputError, match="k must be 1"):
        harmful_share_per_query(run, ["a"], set(), k=0)


def test_first_ranks_within_a_depth() -> None:
    run = {"a": ["B", "H1"], "b": ["B", "C", "H1"], "c": []}
    wanted = dict.fromkeys(("a", "b", "c", "d"), frozenset({"H1"}))
    assert first_rank_per_query(run, wanted, depth=2) == {"a": 2, "b": None, "c": None, "d": None}
    assert [reciprocal(rank) for rank in (1, 4, None)] == [1.0, 0.25, 0.0]
    with pytest.raises(InputError, match="k must be 1"):
        first_rank_per_query(run, wanted, depth=0)
