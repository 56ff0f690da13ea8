from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from safe_retrieval.errors import DataError
from safe_retrieval.index.corpus import CONTENT_ID, Fields, documents_from, read_corpus
from safe_retrieval.types import Document

DOCUMENTS = [
    Document("1", "first text", "First", {"year": 1999, "tags": ["a"]}),
    Document("zwei", 'a "quoted" line\nand\u2028another, with a comma', "", {}),
    Document("3", "", "Only a title", {}),
]


def write(path: Path, data: str | bytes) -> Path:
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def as_jsonl(documents: list[Document]) -> str:
    lines = [
        json.dumps({"_id": d.id, "title": d.title, "text": d.text, **d.metadata}, ensure_ascii=False) for d in documents
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["c.jsonl", "c.JSONL", "c.ndjson", "c.jsonl.gz"])
def test_jsonl(tmp_path: Path, name: str) -> None:
    assert list(read_corpus(write(tmp_path / name, as_jsonl(DOCUMENTS)))) == DOCUMENTS


def test_jsonl_details(tmp_path: Path) -> None:
    text = '\ufeff{"id": 7, "text": "a"}\r\n\n   \n{"_id": "b", "id": "kept", "title": null, "text": "c"}'
    assert list(read_corpus(write(tmp_path / "c.jsonl", text))) == [
        Document("7", "a"),
        Document("b", "c", "", {"id": "kept"}),
    ]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_beir_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, as_jsonl(DOCUMENTS))
    write(tmp_path / "queries.jsonl", "not read")
    assert list(read_corpus(str(tmp_path))) == DOCUMENTS


def test_csv(tmp_path: Path) -> None:
    text = '_id,title,text,lang\n1,"A, B","two\nlines ""quoted""",en\n\n2,,plain,de\n'
    assert list(read_corpus(write(tmp_path / "c.csv", text))) == [
        Document("1", 'two\nlines "quoted"', "A, B", {"lang": "en"}),
        Document("2", "plain", "", {"lang": "de"}),
    ]


def test_tsv_takes_quotation_marks_as_they_are(tmp_path: Path) -> None:
    text = 'id\ttext\r\n1\t"Never closed\r\n2\tsays "hi"\r\n'
    assert [d.text for d in read_corpus(write(tmp_path / "c.tsv.gz", text))] == ['"Never closed', 'says "hi"']


def test_long_fields(tmp_path: Path) -> None:
    (document,) = read_corpus(write(tmp_path / "c.csv", "_id,text\n1," + "x" * 300_000))
    assert len(document.text) == 300_000


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.jsonl", '{"_id": "1", "text": "a"}\n\n{"_id": ', "line 3: expected one JSON object"),
        ("c.jsonl", '["a"]', "line 1: expected a JSON object, found list"),
        ("c.jsonl", '{"text": "a"}', "line 1: expected '_id'.*got None"),
        ("c.jsonl", '{"_id": "", "text": "a"}', "line 1: expected '_id'"),
        ("c.jsonl", '{"_id": "\\ud800", "text": "a"}', "lone surrogates"),
        ("c.jsonl", '{"_id": true, "text": "a"}', "got True"),
        ("c.jsonl", '{"_id": "1"}', "line 1: expected a string in 'text', found no such field"),
        ("c.jsonl", '{"_id": "1", "text": "a", "title": 3}', "'title', found int"),
        ("c.jsonl", b'{"_id": "1", "text": "a"}\n{"_id": "2", "text": "\xff"}', "line 2.*UTF-8"),
        ("c.jsonl", "[" * 100_000, "does not parse"),
        ("c.csv", "", "line 1: expected a header"),
        ("c.csv", "number,text\n1,a", "header line that names the columns _id and text"),
        ("c.csv", "_id,text\n1,a\n2,b,c", "line 3: expected 2 columns, got 3"),
        ("c.csv", '_id,text\n1,a\n2,"b', "line 2 or after: not readable as a table"),
        ("c.doc", "a", "expected one of .jsonl"),
    ],
)
def test_broken_files_name_file_and_line(tmp_path: Path, name: str, data: str | bytes, message: str) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(DataError, match=message) as caught:
        list(read_corpus(path))
    assert str(path) in str(caught.value)


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(as_jsonl([Document(str(n), "text " * n) for n in range(500)]).encode())
    for damaged in (whole[:-5], whole[:100] + b"\x00" * 20 + whole[120:], b"no gzip"):
        path = tmp_path / "c.jsonl.gz"
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"gzip stream is damaged|UTF-8|does not parse"):
            list(read_corpus(path))


def test_missing_paths_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        read_corpus(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="found neither"):
        read_corpus(tmp_path)
    write(tmp_path / "corpus.jsonl", "")
    write(tmp_path / "corpus.jsonl.gz", "")
    with pytest.raises(DataError, match="found 2"):
        read_corpus(tmp_path)


def test_reading_keeps_nothing(tmp_path: Path) -> None:
    line = json.dumps({"_id": "x", "text": "t" * 1_000}) + "\n"
    path = write(tmp_path / "c.jsonl", line * 5_000)
    tracemalloc.start()
    assert sum(1 for _ in read_corpus(path)) == 5_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000  # the file has 5 MB


def test_parquet(tmp_path: Path) -> None:
    rows = [{"_id": f"d{n}", "title": None, "text": f"text {n}", "tags": ["a"], "n": n} for n in range(1_200)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    documents = list(read_corpus(tmp_path / "c.parquet"))
    assert documents == [Document(f"d{n}", f"text {n}", "", {"tags": ["a"], "n": n}) for n in range(1_200)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows[:2], {"_id": "x"}]), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet, row 3: expected a string in 'text'"):
        list(read_corpus(tmp_path / "c.parquet"))
    whole = (tmp_path / "c.parquet").read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"c\.parquet.*not readable as Parquet"):
        list(read_corpus(tmp_path / "c.parquet"))


@pytest.mark.parametrize("name", ["c.txt", "c.txt.gz"])
def test_a_document_a_line(tmp_path: Path, name: str) -> None:
    assert list(read_corpus(write(tmp_path / name, "\ufefffirst\r\n\n second\n"))) == [
        Document("1", "first"),
        Document("3", "second"),
    ]


def test_a_document_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "b.txt", "two\nlines\n")
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "c.md", "not read")
    assert list(read_corpus(tmp_path)) == [Document("a.txt", "one"), Document("deep/b.txt", "two\nlines\n")]
    write(tmp_path / "a.txt", b"\xff")
    with pytest.raises(DataError, match=r"a\.txt cannot be read as UTF-8"):
        list(read_corpus(tmp_path))


def test_fields_by_other_names(tmp_path: Path) -> None:
    fields = Fields(id="key", title="heading", text="body")
    line: dict[str, Any] = {"key": 3, "heading": "H", "body": "B", "id": "kept", "text": "too"}
    expected = [Document("3", "B", "H", {"id": "kept", "text": "too"})]
    assert list(read_corpus(write(tmp_path / "c.jsonl", json.dumps(line)), fields=fields)) == expected
    table = "key,heading,body,id,text\n3,H,B,kept,too\n"
    assert list(read_corpus(write(tmp_path / "c.csv", table), fields=fields)) == expected
    assert list(documents_from(iter([line]), fields=fields)) == expected
    with pytest.raises(DataError, match="names the columns key and body"):
        list(read_corpus(write(tmp_path / "c.csv", "_id,text\n1,a\n"), fields=fields))
    rows: list[dict[str, Any]] = [line, {}]
    with pytest.raises(DataError, match="tickets, row 2"):
        list(documents_from(rows, fields=fields, name="tickets"))


def test_ids_of_the_content(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"title": "a", "text": "bc"},
        {"title": "ab", "text": "c"},
        {"text": "abc"},
        {"text": "abc", "id": 1},
    ]
    documents = list(documents_from(rows, fields=Fields(id=CONTENT_ID)))
    ids = [document.id for document in documents]
    assert len(set(ids)) == 3
    assert ids[2] == ids[3] == "c75e3abb575a77261847ac28273b1991"
    assert documents[3].metadata == {"id": 1}
    (line,) = read_corpus(write(tmp_path / "c.txt", "abc\n"), fields=Fields(id=CONTENT_ID))
    (row,) = read_corpus(write(tmp_path / "c.csv", "text\nabc\n"), fields=Fields(id=CONTENT_ID))
    assert line.id == row.id == ids[2]


def test_a_data_set_of_hugging_face() -> None:
    import datasets

    rows = [{"_id": "a", "text": "one", "label": 1}, {"_id": "b", "text": "two", "label": 2}]
    data = datasets.Dataset.from_list(rows)
    expected = [Document("a", "one", "", {"label": 1}), Document("b", "two", "", {"label": 2})]
    assert list(documents_from(data)) == expected
    assert list(documents_from(data.to_iterable_dataset())) == expected
