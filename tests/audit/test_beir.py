from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from safe_retrieval.audit.beir import load_beir
from safe_retrieval.errors import DataError

Rows: TypeAlias = list[Mapping[str, Any]]

CORPUS: Rows = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "two\u2028lines", "year": 1999}]
QUERIES: Rows = [{"_id": "q1", "text": "first?"}, {"_id": "q2", "text": "second?", "hazard": "hate"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"


def write(folder: Path, name: str, rows: Rows | str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if isinstance(rows, list):
        rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data = rows.encode() if isinstance(rows, str) else rows
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "corpus.jsonl", CORPUS)
    write(tmp_path, "queries.jsonl", QUERIES)
    write(tmp_path, "qrels.tsv", QRELS)
    return tmp_path


def test_reads_documents_queries_and_qrels_in_file_order(folder: Path) -> None:
    documents, queries, qrels = load_beir(folder)
    assert [(document.id, document.title, document.text) for document in documents] == [
        ("d1", "T", "one"),
        ("d2", "", "two\u2028lines"),
    ]
    assert documents[1].metadata == {"year": 1999}
    assert [query.id for query in queries] == ["q1", "q2"]
    assert queries[1].metadata == {"hazard": "hate"}
    assert qrels == {"q1": {"d1": 2, "d2": 0}}


def test_gzipped_files_read_the_same(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    write(packed, "corpus.jsonl.gz", CORPUS)
    write(packed, "queries.jsonl.gz", QUERIES)
    write(packed, "qrels.tsv", QRELS)
    assert load_beir(packed) == load_beir(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write(folder, "qrels.tsv", QRELS.split("\n", 1)[1]),
        lambda folder: write(folder, "qrels.tsv", QRELS.replace("\n", "\r\n")),
        lambda folder: write(folder, "qrels.tsv", "\ufeff" + QRELS + "\n\n"),
        lambda folder: (
            write(folder / "qrels", "test.tsv", (folder / "qrels.tsv").read_bytes()) and (folder / "qrels.tsv").unlink()
        ),
        lambda folder: write(folder, "corpus.jsonl", "\ufeff" + (folder / "corpus.jsonl").read_text("utf-8")),
    ],
    ids=["no header", "crlf", "byte-order mark and blank lines", "qrels/test.tsv", "byte-order mark in corpus"],
)
def test_harmless_variants_read_the_same(folder: Path, change: Callable[[Path], object]) -> None:
    expected = load_beir(folder)
    change(folder)
    assert load_beir(folder) == expected


def test_qrels_are_optional(folder: Path) -> None:
    (folder / "qrels.tsv").unlink()
    assert load_beir(folder).qrels == {}


def test_text_may_be_empty_in_a_document_but_not_in_a_query(folder: Path) -> None:
    write(folder, "corpus.jsonl", [*CORPUS, {"_id": "d3", "title": "Only a title", "text": ""}])
    assert load_beir(folder).documents[2].content == "Only a title"
    write(folder, "queries.jsonl", [*QUERIES, {"_id": "q3", "text": " "}])
    with pytest.raises(DataError, match=r"queries\.jsonl, line 3: 'text' is empty"):
        load_beir(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{"_id": ', r"corpus\.jsonl, line 2: expected one JSON object"),
        ("corpus.jsonl", "[" * 200_000, r"corpus\.jsonl, line 1: expected one JSON object"),
        ("corpus.jsonl", "\n[1]\n", r"corpus\.jsonl, line 2: expected a JSON object, found list"),
        ("corpus.jsonl", '{"text": "x"}\n', r"line 1: expected a string in '_id', found no such field"),
        ("corpus.jsonl", '{"_id": 7, "text": "x"}\n', r"line 1: expected a string in '_id', found int"),
        ("corpus.jsonl", '{"_id": "", "text": "x"}\n', r"line 1: '_id' is empty"),
        ("corpus.jsonl", '{"_id": "d1", "text": null}\n', r"line 1: expected a string in 'text', found NoneType"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x", "title": 3}', r"line 1: expected a string in 'title', found int"),
        ("corpus.jsonl", '{"_id": "d", "text": "x"}\n' * 2, r"line 2: id 'd' was already used in line 1"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "x"}\n\xff\n', r"corpus\.jsonl, line 2: expected UTF-8"),
        ("qrels.tsv", "q1\td1\n", r"qrels\.tsv, line 1: expected 3 tab-separated columns .*, got 2"),
        ("qrels.tsv", "q1\td1\thigh\n", r"qrels\.tsv, line 1: expected a whole number as score, found 'high'"),
        ("qrels.tsv", QRELS + "q9\td1\t1\n", r"qrels\.tsv, line 4: query 'q9' is not among the queries"),
        ("qrels.tsv", QRELS + "q1\td9\t1\n", r"qrels\.tsv, line 4: document 'd9' is not in the corpus"),
        ("qrels.tsv", QRELS + "q1\td1\t1\n", r"line 4: document 'd1' is judged twice for this query, 2 and 1"),
    ],
)
def test_a_broken_file_is_named_with_its_line(folder: Path, name: str, content: str | bytes, message: str) -> None:
    write(folder, name, content)
    with pytest.raises(DataError, match=message):
        load_beir(folder)


def test_a_missing_corpus_is_named(folder: Path) -> None:
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match=r"expected corpus\.jsonl or corpus\.jsonl\.gz, found neither"):
        load_beir(folder)


def test_a_corpus_that_is_there_twice_is_refused(folder: Path) -> None:
    write(folder, "corpus.jsonl.gz", CORPUS)
    with pytest.raises(DataError, match="found both"):
        load_beir(folder)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-12], lambda data: b"no gzip", lambda data: data[:12] + b"\xff" * 30]
)
def test_a_damaged_gzip_stream_is_named(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write(folder, "queries.jsonl.gz", QUERIES)
    (folder / "queries.jsonl").unlink()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"queries\.jsonl\.gz, after line \d+: the gzip stream is damaged"):
        load_beir(folder)


def test_a_folder_in_the_place_of_a_file_is_not_a_file(folder: Path) -> None:
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl").mkdir()
    with pytest.raises(DataError, match="found neither"):
        load_beir(folder)
