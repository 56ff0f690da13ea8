from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_retrieval.errors import InputError
from safe_retrieval.index.conditions import to_sql
from safe_retrieval.index.documents import DocumentStore, DocumentWriter
from safe_retrieval.index.filters import (
    All,
    AnyOf,
    Between,
    Contains,
    Empty,
    Equal,
    Filter,
    Not,
    OneOf,
    as_filter,
    matches,
)
from safe_retrieval.types import Document

METADATA: list[dict[str, Any]] = [
    {},
    {"a": None},
    {"a": 1},
    {"a": 1.0, "b": "x"},
    {"a": True, "b": "y"},
    {"a": "1"},
    {"a": 0.1 + 0.2},
    {"a": [1], "b": "ü"},
    {"a": {"a": 1}},
    {"a": 2**53 + 1},
    {"a": -5, "b": ""},
    {'q"uote': 1, "ü.$[0]": "x"},
    {"a": False, "b": "x" * 100},
    {"a": ["x", "y", None, ["z"], True, 2.0], "b": []},
    {"a": "[1]", "b": {}},
    {"a": '["x"]', "b": "[]"},
]
DOCUMENTS = [Document(f"d{number}", "", metadata=fields) for number, fields in enumerate(METADATA)]


def by_hand(where: Any) -> list[int]:
    found = as_filter(where)
    assert found is not None
    return [number for number, document in enumerate(DOCUMENTS) if matches(found, document)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, list(range(16))),
        ({"a": 1}, [2, 3]),
        ({"a": True}, [4]),
        ({"a": "1"}, [5]),
        ({"a": None}, [0, 1, 11]),
        ({"a": {"$ne": None}}, [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15]),
        ({"a": {"$gt": 0, "$lte": 1}}, [2, 3, 6]),
        ({"a": {"$gte": "0"}}, [5, 14, 15]),
        ({"b": {"$in": ["x", "y"]}}, [3, 4]),
        ({"a": {"$in": [True, -5, "1"]}}, [4, 5, 10]),
        ({"a": {"$in": []}}, []),
        ({"b": {"$nin": ["x"]}}, [number for number in range(16) if number != 3]),
        ({"a": 1, "b": "x"}, [3]),
        ({"$or": [{"b": "y"}, {"b": "ü"}]}, [4, 7]),
        ({"$not": {"$or": [{"a": {"$lt": 100}}, {"a": None}]}}, [4, 5, 7, 8, 9, 12, 13, 14, 15]),
        ({"$and": [{"a": -5}, {"b": ""}]}, [10]),
        ({'q"uote': 1, "ü.$[0]": "x"}, [11]),
        (Between("a", at_least=-5, below=1), [6, 10]),
        (AnyOf(()), []),
        ({"a": {"$contains": 1}}, [7]),
        ({"a": {"$contains": "x"}}, [13]),
        ({"a": {"$contains": True}}, [13]),
        ({"a": {"$contains": 2}}, [13]),
        ({"a": {"$contains": "z"}}, []),
        ({"b": {"$empty": True}}, [0, 1, 2, 5, 6, 8, 9, 10, 11, 13]),
        ({"b": {"$empty": False}}, [3, 4, 7, 12, 14, 15]),
    ],
)
def test_what_conditions_mean(store: DocumentStore, where: Any, expected: list[int]) -> None:
    found = as_filter(where)
    assert found is not None
    assert store.matching(to_sql(found)).nonzero()[0].tolist() == expected
    assert by_hand(where) == expected


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DocumentStore:
    path = tmp_path_factory.mktemp("filters") / "documents.sqlite"
    with DocumentWriter(path) as writer:
        writer.append(DOCUMENTS)
    return DocumentStore(path)


FIELDS = st.sampled_from(["a", "b", 'q"uote', "ü.$[0]", "missing"])
NUMBERS = st.sampled_from([1, 0, -5, 1.0, 0.1 + 0.2, 0.3, 2**53 + 1, 2.5])
STRINGS = st.sampled_from(["x", "y", "1", "", "ü", "z"])
LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equal, FIELDS, st.one_of(NUMBERS, STRINGS, st.none(), st.booleans())),
    st.builds(OneOf, FIELDS, st.lists(st.one_of(NUMBERS, STRINGS, st.booleans()), max_size=4).map(tuple)),
    *(
        st.builds(Between, FIELDS, **{bound: values})
        for bound in ("at_least", "above", "at_most", "below")
        for values in (NUMBERS, STRINGS)
    ),
    st.builds(Between, FIELDS, at_least=NUMBERS, below=NUMBERS),
    st.builds(Contains, FIELDS, st.one_of(NUMBERS, STRINGS, st.booleans())),
    st.builds(Empty, FIELDS),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(All, st.lists(inner, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"title": "Violin"}, [0, 3]),
        ({"title": {"$gt": "S"}}, [0, 3]),
        ({"title": {"$in": ["Oboe", "Viola"]}}, [1]),
        ({"title": None}, [2, 4]),
        ({"title": {"$empty": True}}, [2, 4]),
        ({"$not": {"title": "Violin"}}, [1, 2, 4]),
        ({"Title": "Violin"}, []),
    ],
)
def test_the_title_is_a_field_unless_metadata_has_one(tmp_path: Path, where: Any, expected: list[int]) -> None:
    documents = [
        Document("0", "", "Violin"),
        Document("1", "", "Violin", {"title": "Oboe"}),
        Document("2", "", "Violin", {"title": None}),
        Document("3", "", "", {"title": "Violin"}),
        Document("4", "", ""),
    ]
    with DocumentWriter(tmp_path / "documents.sqlite") as writer:
        writer.append(documents)
    found = as_filter(where)
    assert found is not None
    assert [number for number, document in enumerate(documents) if matches(found, document)] == expected
    with DocumentStore(tmp_path / "documents.sqlite") as store:
        assert store.matching(to_sql(found)).nonzero()[0].tolist() == expected


@settings(max_examples=150, deadline=None)
@given(FILTERS)
def test_sql_means_the_same(store: DocumentStore, found: Filter) -> None:
    assert store.matching(to_sql(found)).nonzero()[0].tolist() == by_hand(found)


def test_sql_means_the_same_for_equal_looking_values(store: DocumentStore) -> None:
    """``1 == True == 1.0`` in Python: what is remembered of one filter must not answer another."""
    for value in (1, True, 1.0, "1", 1, True):
        found = Equal("a", value)
        assert store.matching(to_sql(found)).nonzero()[0].tolist() == by_hand(found)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("a = 1", "expected a filter, got str"),
        ({"a": [1, 2]}, "'a': expected a string, number, boolean or null, got list"),
        ({"a": {"$near": 1}}, r"'a': expected one of \$eq.*got '\$near'"),
        ({"a": {"b": 1}}, r"expected one of \$eq"),
        ({"$nor": []}, r"expected a field, \$and"),
        ({7: 1}, "expected a field"),
        ({"$and": {"a": 1}}, r"expected a list of filters after \$and"),
        ({"$or": ["a"]}, "expected a mapping"),
        ({"a": {"$in": "xy"}}, "expected a list of values, got str"),
        ({"a": {"$in": [None]}}, "null cannot be one of several"),
        ({"a": {"$gt": None}}, "at least one bound"),
        ({"a": {"$gt": True}}, "a boolean is no bound"),
        ({"a": {"$contains": None}}, "that a list may contain"),
        ({"a": {"$contains": ["x"]}}, "got list"),
        ({"a": {"$empty": 1}}, "true or false"),
        ({"a": float("nan")}, "finite"),
        ({"a": 2**70}, "64 bits"),
        ({"\ud800": 1}, "without lone surrogates"),
        (Between("a", at_least=1, below="x"), "all numbers or all strings"),
        (Not(All((Equal("a", b"x"),))), "got bytes"),  # type: ignore[arg-type]
        (AnyOf(tuple(Equal("a", number) for number in range(500))), r"at most 400 conditions.*\$in"),
    ],
)
def test_faulty_filters(where: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_filter(where)


def test_a_filter_may_not_be_bottomless() -> None:
    where: Any = {"a": 1}
    for _ in range(2_000):
        where = {"$not": where}
    with pytest.raises(InputError, match="levels"):
        as_filter(where)
    assert as_filter(None) is None


def test_thousands_of_values(store: DocumentStore) -> None:
    where = {"a": {"$in": list(range(-5_000, 5_000))}}
    found = as_filter(where)
    assert found is not None
    assert store.matching(to_sql(found)).nonzero()[0].tolist() == [2, 3, 10] == by_hand(where)


def test_no_filter_looks_behind_a_nul(tmp_path: Path) -> None:
    stored = [Document("a", "", metadata={"t": "acme"}), Document("b", "", metadata={"t": "acme\0x"})]
    for where in ({"t": "acme\0x"}, {"t": {"$in": ["\0"]}}, {"t": {"$gt": "a\0"}}, {"t\0": 1}):
        with pytest.raises(InputError, match="expected no NUL"):
            as_filter(where)
    with DocumentWriter(tmp_path / "d.sqlite") as writer:
        writer.append(stored)
    with DocumentStore(tmp_path / "d.sqlite") as store:
        assert store.matching(to_sql(Equal("t", "acme"))).nonzero()[0].tolist() == [0]
