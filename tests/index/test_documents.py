from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.errors import DataError, IndexFormatError, InputError
from safe_retrieval.index import documents as documents_module
from safe_retrieval.index.chunking import chunked
from safe_retrieval.index.conditions import to_sql
from safe_retrieval.index.documents import DocumentStore, DocumentWriter
from safe_retrieval.index.filters import AnyOf, Equal
from safe_retrieval.index.rows import Fields, Place, document_of
from safe_retrieval.types import Document
from tests.support.corpora import small_corpus


def store_of(path: Path, *batches: list[Document]) -> DocumentStore:
    with DocumentWriter(path) as writer:
        for batch in batches:
            writer.append(batch)
        assert len(writer) == sum(map(len, batches))
    return DocumentStore(path)


def test_round_trip(tmp_path: Path) -> None:
    documents = small_corpus(5)
    odd = Document("it's; DROP TABLE documents --", "text", "title", {"a": [1, None, {"b": "ü"}]})
    with store_of(tmp_path / "d.sqlite", documents[:3], [*documents[3:], odd]) as store:
        assert len(store) == 6
        assert store.get(["d4", odd.id, "d0", "d4"]) == [documents[4], odd, documents[0], documents[4]]
        assert store.find(["d1", "absent", "\ud800", ""]) == {"d1": documents[1]}
        assert store.ids_at([5, 0, 5]) == [odd.id, "d0", odd.id]
        assert list(store.iterate(batch_size=2)) == [*documents, odd]
        assert store.faults() == []
        assert store.get([]) == []
        assert store.ids_at([]) == []


def test_what_cannot_be_stored_is_replaced(tmp_path: Path) -> None:
    with store_of(tmp_path / "d.sqlite", [Document("a", "nul \0 end", "half \ud83d pair", {"raw": "\ud83d"})]) as store:
        assert store.get(["a"]) == [Document("a", "nul \ufffd end", "half \ufffd pair", {"raw": "\ud83d"})]


def test_metadata_holds_no_nul_and_has_a_bottom(tmp_path: Path) -> None:
    fields = {"tenant": "acme\0x", "k\0": [{"a": "\0"}, "\\u0000"]}
    stored = {"tenant": "acme\ufffdx", "k\ufffd": [{"a": "\ufffd"}, "\\u0000"]}
    deep: list[Any] = []
    for _ in range(499):
        deep = [deep]
    wide = {"wide": [[number] for number in range(2_000)]}
    kept = [
        Document("b", "", metadata=fields),
        Document("c", "", metadata=wide),
        Document("d", "", metadata={"m": deep[0]}),
    ]
    with store_of(tmp_path / "d.sqlite", kept) as store:
        assert store.get(["b", "c", "d"]) == [replace(kept[0], metadata=stored), *kept[1:]]
    for levels in (1, 100_000):
        for _ in range(levels):
            deep = [deep]
        with pytest.raises(DataError, match="nested more than 500 levels"):
            store_of(tmp_path / f"{levels}.sqlite", [Document("a", "", metadata={"m": deep})])
        with pytest.raises(DataError, match="nested more than 500 levels"):
            document_of({"_id": "a", "text": "", "m": deep}, Place("c.jsonl", 1), Fields())


def test_many_ids_at_once(tmp_path: Path) -> None:
    documents = small_corpus(2_500)
    with store_of(tmp_path / "d.sqlite", documents) as store:
        assert store.get([document.id for document in reversed(documents)]) == documents[::-1]
        assert store.ids_at(range(2_500)) == [document.id for document in documents]


def test_missing(tmp_path: Path) -> None:
    with store_of(tmp_path / "d.sqlite", small_corpus(3)) as store:
        with pytest.raises(InputError, match="'absent'"):
            store.get(["d1", "absent"])
        with pytest.raises(IndexFormatError, match="position 3"):
            store.ids_at([0, 3])
    with pytest.raises(IndexFormatError, match="is missing"):
        DocumentStore(tmp_path / "absent.sqlite")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document("d1", "again"), "documents 1 and 4 have the same id 'd1'"),
        (Document("new", "again"), "documents 3 and 4 have the same id 'new'"),
        (Document("", "a"), "document 4: expected a non-empty string"),
        ("a string", "document 4: expected a Document, got str"),
        (Document(4, "a"), "got 4"),  # type: ignore[arg-type]
        (Document("x", None), "expected strings"),  # type: ignore[arg-type]
        (Document("x", "a", metadata={"f": float("nan")}), "metadata is not JSON"),
        (Document("x", "a", metadata={"f": object()}), "metadata is not JSON"),
    ],
)
def test_faulty_documents(tmp_path: Path, document: Any, message: str) -> None:
    with DocumentWriter(tmp_path / "d.sqlite") as writer:
        writer.append(small_corpus(3))
        with pytest.raises(DataError, match=message):
            writer.append([Document("new", "first"), document])


def test_several_threads_read(tmp_path: Path) -> None:
    documents = small_corpus(200)
    wrong: list[Any] = []

    def read(store: DocumentStore, start: int) -> None:
        for number in range(start, start + 100):
            found = store.get([f"d{number % 200}"])
            if found != [documents[number % 200]]:
                wrong.append(found)

    with store_of(tmp_path / "d.sqlite", documents) as store:
        threads = [threading.Thread(target=read, args=(store, start)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_stray_journal_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    store_of(path, small_corpus(3)).close()
    for suffix in ("-journal", "-wal", "-shm"):
        (tmp_path / f"d.sqlite{suffix}").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"x" * 1_000)
    with DocumentStore(path) as store:
        assert len(store) == 3


def test_unknown_version_and_damage_without_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    store_of(path, small_corpus(300)).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(IndexFormatError, match="version 2 or 1, got 99"):
        DocumentStore(path)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexFormatError, match=r"d\.sqlite cannot be read"):
        DocumentStore(path)


def test_faults_inside(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    store_of(path, small_corpus(3)).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE documents SET position = 9 WHERE position = 2")
    connection.execute("UPDATE documents SET metadata = '{' WHERE position = 0")
    connection.commit()
    connection.close()
    with DocumentStore(path) as store:
        assert any("positions 0 to 2, got 0 to 9" in fault for fault in store.faults())
        with pytest.raises(IndexFormatError, match="metadata of 'd0' is damaged"):
            store.get(["d0"])
        for ask in (store.at, store.ids_at):
            with pytest.raises(IndexFormatError, match=r"d\.sqlite: there is no document at position 2"):
                ask([1, 2])


@pytest.mark.parametrize("metadata", ["{}, {}", "{} x", "", "{"])
def test_metadata_that_is_no_one_value_is_named(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "d.sqlite"
    store_of(path, small_corpus(3)).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE documents SET metadata = ? WHERE position = 1", [metadata])
    connection.commit()
    connection.close()
    with DocumentStore(path) as store:
        assert [document.id for document in store.at([0, 2])] == ["d0", "d2"]
        for positions in ([1], [0, 1, 2]):
            with pytest.raises(IndexFormatError, match="metadata of 'd1' is damaged"):
                store.at(positions)


def test_a_look_up_does_not_wait_for_a_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanning, looked_up = threading.Event(), threading.Event()
    plain = documents_module._positions

    def slow(cursor: sqlite3.Cursor) -> Any:
        scanning.set()
        assert looked_up.wait(30)
        return plain(cursor)

    monkeypatch.setattr(documents_module, "_positions", slow)
    condition = to_sql(Equal("a", 1))
    corpus = [Document(str(number), "text", metadata={"a": number % 2}) for number in range(4)]
    with store_of(tmp_path / "d.sqlite", corpus) as store, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(store.matching, condition)
        assert scanning.wait(30)
        assert store.at([2]) == [corpus[2]]
        looked_up.set()
        assert answer.result().tolist() == [False, True, False, True]


def test_a_filter_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    corpus = [Document(str(number), "text", metadata={"a": number}) for number in range(2_000)]
    store_of(tmp_path / "d.sqlite", corpus).close()
    fields = to_sql(AnyOf(tuple(Equal(f"field {number}", 1) for number in range(200))))
    with DocumentStore(tmp_path / "d.sqlite", filter_seconds=1e-4) as store:
        with pytest.raises(InputError, match=r"takes longer than the 0\.0001 s that one may take here"):
            store.matching(fields)
        assert store.at([7]) == [corpus[7]]
    with DocumentStore(tmp_path / "d.sqlite", filter_seconds=600) as store:
        assert not store.matching(fields).any()
        assert store.matching(to_sql(Equal("a", 7))).nonzero()[0].tolist() == [7]


def test_pieces_are_told_from_documents_that_look_like_them(tmp_path: Path) -> None:
    pieces = list(chunked([Document("a", "one two three"), Document("a#1", "four five six")], size=2))
    others = [Document("a#7", "no piece"), Document("a#x", "", metadata={"document": "a"}), Document("a$", "")]
    with store_of(tmp_path / "d.sqlite", pieces, others) as store:
        assert store.positions_of_pieces("a") == {"a#0": 0, "a#1": 1}
        assert store.positions_of_pieces("a#1") == {"a#1#0": 2, "a#1#1": 3}
        assert store.positions_of_pieces("b") == store.positions_of_pieces("\ud800") == {}
