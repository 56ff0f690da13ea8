from __future__ import annotations

import pytest

from safe_retrieval.bench.ceiling import share_of_level, share_of_reduction, shared_values
from safe_retrieval.bench.results import per_query_record
from safe_retrieval.errors import InputError

ALL, NONE, HALF = [1.0] * 8, [0.0] * 8, [1.0, 0.0] * 4


def test_shares_of_the_reduction() -> None:
    half = share_of_reduction(ALL, HALF, NONE)
    assert half is not None
    assert half.value == 0.5
    assert half.low < 0.5 < half.high
    whole = share_of_reduction(ALL, NONE, NONE)
    assert whole is not None
    assert (whole.value, whole.low, whole.high) == (1.0, 1.0, 1.0)
    worse = share_of_reduction(HALF, ALL, NONE)
    assert worse is not None
    assert worse.value == -1.0


def test_a_ceiling_that_reduces_nothing_has_no_share() -> None:
    assert share_of_reduction(HALF, NONE, HALF) is None
    assert share_of_level(HALF, NONE) is None


def test_share_of_a_level() -> None:
    share = share_of_level(HALF, ALL)
    assert share is not None
    assert (share.value, share.n) == (0.5, 8)


def test_queries_must_be_the_same() -> None:
    with pytest.raises(InputError, match="same queries"):
        share_of_level([1.0], [])
    first = {"per_query": {"harm@5": per_query_record({"a": 1.0, "b": 0.5})}}
    second = {"per_query": {"harm@5": per_query_record({"a": 0.0, "c": 0.0})}}
    assert shared_values("harm@5", first, first) == [[1, 0.5], [1, 0.5]]
    assert shared_values("harm@5", first, second) is None
    assert shared_values("recall@5", first) is None
