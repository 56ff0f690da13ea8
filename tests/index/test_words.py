"""Full text: SQLite's answers against plain Python's, in filters of every kind."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_retrieval.errors import InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.conditions import to_sql
from safe_retrieval.index.documents import DocumentStore, DocumentWriter
from safe_retrieval.index.filters import Filter, Not, Words, as_filter, matches
from safe_retrieval.index.folder import load_index, verify_index
from safe_retrieval.index.manifest import read_manifest
from safe_retrieval.types import Document
from tests.index.test_folder import resign
from tests.support.encoders import HashEncoder

GREEK = "\u03b8\u03b5\u03b1 \u0391\u03c7\u03b9\u03bb\u03b7\u03bf\u03c2"
RUSSIAN = "\u041f\u0435\u0441\u043d\u044c \u043e \u0433\u043d\u0435\u0432\u0435"
DOCUMENTS = [
    Document("horse", "They left a wooden horse before the gates.", "The fall of Troy", {"year": -1184}),
    Document("cafe", "Le caf\u00e9 d'\u00c9lise, ouvert d\u00e8s 7h30"),
    Document("decomposed", "cafe\u0301 noir, 2026-11-25"),
    Document(
        "greek",
        "\u03b8\u03b5\u03b1 \u0391\u03c7\u03b9\u03bb\u03b7\u03bf\u03c2",
        "\u041f\u0435\u0441\u043d\u044c \u043e \u0433\u043d\u0435\u0432\u0435",
    ),
    Document("split", "horse wooden", "wooden"),
    Document("operators", 'AND OR NOT NEAR("a", 3) title: * ^ -x {y} + "quoted"'),
    Document("empty", ""),
]


def by_hand(found: Filter) -> list[str]:
    return [d.id for d in DOCUMENTS if matches(found, d)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"$words": "horse WOODEN"}, ["horse", "split"]),
        ({"$phrase": "wooden horse"}, ["horse"]),
        ({"$words": "troy gates"}, ["horse"]),
        ({"$phrase": "troy they"}, []),
        ({"$words": "CAFE"}, ["cafe", "decomposed"]),
        ({"$words": "caf\u00e9 \u2014 !"}, ["cafe", "decomposed"]),
        ({"$words": "d'Elise"}, ["cafe"]),
        ({"$words": "2026-11-25"}, ["decomposed"]),
        ({"$words": "2026-25"}, []),
        ({"$words": "\u03b1\u03c7\u03b9\u03bb\u03b7\u03bf\u03c2 \u043f\u0435\u0441\u043d\u044c"}, ["greek"]),
        ({"$words": "hors"}, []),
        ({"$words": "wooden", "year": {"$lt": 0}}, ["horse"]),
        ({"$or": [{"$phrase": "cafe noir"}, {"$not": {"$words": "e"}}]}, [d.id for d in DOCUMENTS]),
        ({"$words": 'NOT "quoted" OR'}, ["operators"]),
        ({"$phrase": "a\x00b"}, []),
    ],
)
def test_what_words_mean(store: DocumentStore, where: dict[str, Any], expected: list[str]) -> None:
    found = as_filter(where)
    assert found is not None
    assert by_hand(found) == expected
    assert store.ids_at(store.matching(to_sql(found)).nonzero()[0].tolist()) == expected


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DocumentStore:
    path = tmp_path_factory.mktemp("words") / "documents.sqlite"
    with DocumentWriter(path) as writer:
        writer.append(DOCUMENTS[:2])
        writer.append(DOCUMENTS[2:])
    return DocumentStore(path)


WORDS = ["horse", "wooden", "caf\u00e9", "cafe\u0301", "7h30", "d'\u00c9lise", "2026", "the", "a", GREEK, RUSSIAN[:5]]
MARKS = ['"', "*", "(", ")", "-", "AND", "NOT", ":", "^", " ", ", ", "' OR '"]
PIECES = st.lists(st.sampled_from([*WORDS, *MARKS]), max_size=6)
LEAVES = st.builds(Words, PIECES.map(" ".join), st.booleans()) | st.builds(Words, PIECES.map("".join), st.booleans())


@settings(max_examples=150, deadline=None)
@given(LEAVES, st.booleans())
def test_sql_means_the_same(store: DocumentStore, leaf: Words, negated: bool) -> None:
    found: Filter = Not(leaf) if negated else leaf
    try:
        as_filter(found)
    except InputError:
        return  # not a word in it
    assert store.ids_at(store.matching(to_sql(found)).nonzero()[0].tolist()) == by_hand(found)


@pytest.mark.parametrize("where", [{"$words": ""}, {"$words": " -- "}, {"$phrase": 7}, {"$words": ["a"]}])
def test_faulty_words(where: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least one word"):
        as_filter(where)


def test_k_hits_come_back_whenever_k_have_the_words(tmp_path: Path) -> None:
    encoder = HashEncoder()
    documents = [Document(f"d{n}", f"stone {n}" + (" marker" if n % 9 == 4 else "")) for n in range(90)]
    build_index(documents[:60], encoder, tmp_path / "index")
    with load_index(tmp_path / "index") as index:
        index.add(documents[60:], encoder.encode_documents([d.content for d in documents[60:]]))
        index.delete(["d4"])
        marked = [f"d{n}" for n in range(13, 90, 9)]
        assert index.ids(where={"$words": "marker"}) == marked
        (hits,) = index.search(encoder.encode_queries(["stone 7"]), 50, where={"$words": "Marker"})
        assert sorted(hit.id for hit in hits) == sorted(marked)


def test_a_file_of_the_first_version_gets_words_by_compaction(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    encoder = HashEncoder()
    build_index(DOCUMENTS, encoder, folder)
    connection = sqlite3.connect(folder / read_manifest(folder).segments[0].documents.name)
    connection.executescript("DROP TABLE words; PRAGMA user_version = 1")
    connection.close()
    resign(folder)
    assert verify_index(folder) == []
    with load_index(folder) as index:
        assert index.ids(where={"year": -1184}) == ["horse"]
        with pytest.raises(InputError, match="compact the index"):
            index.ids(where={"$or": [{"year": 1}, {"$words": "horse"}]})
        index.compact()
        assert index.ids(where={"$words": "horse"}) == ["horse", "split"]
        assert list(index.documents()) == DOCUMENTS
