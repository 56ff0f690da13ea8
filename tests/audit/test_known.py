from __future__ import annotations

import pytest

from safe_retrieval.audit.known import KnownPassages
from safe_retrieval.types import Document
from tests.audit.retrievers import sentence

FIRST, SECOND = sentence(1, 40), sentence(2, 40)
DOCUMENTS = [
    Document("set/1", FIRST, metadata={"source": "set"}),
    Document("set/2", SECOND, title="Title", metadata={"source": "set"}),
    Document("set/3", "a short one", metadata={"source": "set"}),
]


def words(text: str, start: int, end: int) -> str:
    return " ".join(text.split()[start:end])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FIRST, "set/1"),
        (FIRST.upper().replace(" ", "\n  ") + " ...", "set/1"),
        (SECOND, "set/2"),
        (f"Title: {SECOND}", "set/2"),
        (words(FIRST, 5, 30), "set/1"),  # a part of it
        (f"{sentence(9, 30)} {FIRST} {sentence(8, 30)}", "set/1"),  # it, inside something longer
        (f"{words(FIRST, 0, 10)} {sentence(7, 30)}", None),  # a quarter of it
        (words(FIRST, 0, 8), None),  # too short to be sure
        ("A short one!", "set/3"),
        ("a short two", None),
        ("", None),
        (None, None),
    ],
)
def test_by_text(text: str | None, expected: str | None) -> None:
    assert KnownPassages(DOCUMENTS).recognise("anything", text) == expected


def test_ids_count_only_where_they_are_said_to_be_the_same() -> None:
    assert KnownPassages(DOCUMENTS).recognise("set/1", None) is None
    known = KnownPassages(DOCUMENTS, by_id=["set/1"])
    assert known.recognise("set/1", None) == "set/1"
    assert known.recognise("1", "other text") == "set/1"
    assert known.recognise("2", None) is None


def test_short_names_that_two_sets_share_mean_neither() -> None:
    documents = [Document(f"{name}/1", name, metadata={"source": name}) for name in ("one", "two")]
    known = KnownPassages(documents, by_id=["one/1", "two/1"])
    assert known.recognise("1", None) is None
    assert known.recognise("two/1", None) == "two/1"


def test_nothing_is_known() -> None:
    assert KnownPassages([]).recognise("1", FIRST) is None


def test_of_two_alike_the_one_that_shares_more_is_meant() -> None:
    longer = Document("b", f"{FIRST} {words(SECOND, 0, 8)}")
    known = KnownPassages([Document("a", FIRST), longer])
    assert known.recognise("", f"{FIRST} {words(SECOND, 0, 6)}") == "b"
