from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tracemalloc
from datetime import UTC, datetime
from operator import length_hint
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe_retrieval.errors import DataError, InputError
from safe_retrieval.index.corpus import CONTENT_ID, Fields, Rejects, documents_from, read_corpus
from safe_retrieval.types import Document

DOCUMENTS = [
    Document("1", "first text", "First", {"year": 1999, "tags": ["a"]}),
    Document("zwei", 'a "quoted" line\nand\u2028another, with a comma', "", {}),
    Document("3", "", "Only a title", {}),
]


def write(path: Path, data: str | bytes) -> Path:
    data = data.encode() if isinstance(data, str) else data
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return path


def as_jsonl(documents: list[Document]) -> str:
    lines = [
        json.dumps({"_id": d.id, "title": d.title, "text": d.text, **d.metadata}, ensure_ascii=False) for d in documents
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["c.jsonl", "c.JSONL", "c.ndjson", "c.jsonl.gz", "c.jsonl.zst"])
def test_jsonl(tmp_path: Path, name: str) -> None:
    assert list(read_corpus(write(tmp_path / name, as_jsonl(DOCUMENTS)))) == DOCUMENTS


def test_jsonl_details(tmp_path: Path) -> None:
    text = '\ufeff{"id": 7, "text": "a"}\r\n\n   \n{"_id": "b", "id": "kept", "title": null, "text": "c"}'
    assert list(read_corpus(write(tmp_path / "c.jsonl", text))) == [
        Document("7", "a"),
        Document("b", "c", "", {"id": "kept"}),
    ]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst"])
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


def test_a_quotation_mark_that_nobody_closed_costs_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = "".join(f'{n},"a ""quoted""\nline {n}",x\n' for n in range(3, 40))
    path = write(tmp_path / "c.csv", f'_id,text,tag\n1,one,x\n2,"two,x\n{good}40,"forty,x\n41,end,x')
    for bound in (2**20, 100):  # found at the next quotation mark, or at the bound where there is none for long
        monkeypatch.setattr("safe_retrieval.index.readers._ROW_CHARACTERS", bound)
        with Rejects(tmp_path / "rejected.jsonl") as rejects:
            documents = list(read_corpus(path, rejects=rejects))
        assert [document.id for document in documents] == ["1", *map(str, range(3, 40)), "41"]
        assert documents[1].text == 'a "quoted"\nline 3'
        entries = [json.loads(line) for line in rejects.path.read_text().splitlines()]
        assert [(entry["line"], entry["content"]) for entry in entries] == [(3, '2,"two,x'), (78, '40,"forty,x')]


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
        ("c.jsonl", '{"_id": "1", "text": "a", "n": ' + "1" * 5_000 + "}", "line 1.*does not parse"),
        ("c.jsonl", '\n{"_id": "1", "text": "a", "score": NaN}', "line 2: the field 'score' is not JSON"),
        ("c.csv", "", "line 1: expected a header"),
        ("c.csv", "number,text\n1,a", "header line that names the columns _id and text"),
        ("c.csv", "_id,text,text\n1,a,b", "line 1: two columns are called 'text'"),
        ("c.csv", "_id,text\n1,a\n2,b,c", "line 3: expected 2 columns, got 3"),
        ("c.csv", '_id,text\n1,a\n2,"b', "line 3: not readable as a table from here on"),
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


def test_damaged_and_joined_zstd(tmp_path: Path) -> None:
    documents = [Document(str(n), "text " * n) for n in range(500)]
    whole = zstandard.compress(as_jsonl(documents).encode())
    path = tmp_path / "c.jsonl.zst"
    for damaged in (whole[:-5], whole[:100] + b"\x00" * 20 + whole[120:], b"no zstd at all"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="zstd stream is damaged") as caught:
            list(read_corpus(path))
        assert str(path) in str(caught.value)
    path.write_bytes(zstandard.compress(as_jsonl(documents[:9]).encode()) + whole[:0])
    path.write_bytes(path.read_bytes() + zstandard.compress(as_jsonl(documents[9:]).encode()))
    assert list(read_corpus(path)) == documents


def test_missing_paths_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        read_corpus(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="found none of them"):
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


def test_parquet_values_that_python_cannot_hold(tmp_path: Path) -> None:
    strings = pyarrow.Array.from_buffers(
        pyarrow.string(),
        3,
        [None, pyarrow.array([0, 1, 2, 3], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"a\xffc")],
    )
    days = pyarrow.array([0, 1, 9_999_999], pyarrow.int32()).cast(pyarrow.date32())
    table = pyarrow.table({"_id": ["x", "y", "z"], "text": strings, "day": days})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet, row 2: a value has no form in Python"):
        list(read_corpus(tmp_path / "c.parquet"))
    with Rejects(tmp_path / "rejected.jsonl") as rejects:
        assert [document.id for document in read_corpus(tmp_path / "c.parquet", rejects=rejects)] == ["x"]
    assert rejects.count == 2


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


@pytest.mark.parametrize("name", ["c.txt", "c.txt.gz", "c.txt.zst"])
def test_a_document_a_line(tmp_path: Path, name: str) -> None:
    assert list(read_corpus(write(tmp_path / name, "\ufefffirst\r\n\n second\n"))) == [
        Document("1", "first"),
        Document("3", "second"),
    ]


def test_only_the_last_suffix_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.txt.jsonl.gz", '{"key": "a", "text": "b"}')
    assert list(read_corpus(path, fields=Fields(id="key"))) == [Document("a", "b")]
    assert list(read_corpus(write(tmp_path / "C.TXT", "b"))) == [Document("1", "b")]


def test_a_document_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "b.txt", "two\nlines\n")
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "C.TXT", "three")
    write(tmp_path / "c.md", "not read")
    assert list(read_corpus(tmp_path)) == [
        Document("C.TXT", "three"),
        Document("a.txt", "one"),
        Document("deep/b.txt", "two\nlines\n"),
    ]
    write(tmp_path / "a.txt", b"\xff")
    with pytest.raises(DataError, match=r"a\.txt: cannot be read as UTF-8"):
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


@pytest.mark.parametrize("name", ["c.txt", "c.txt.gz", "folder"])
def test_plain_text_has_no_fields_to_choose_among(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    write(path / "a.txt" if name == "folder" else path, "one\n")
    for fields in (Fields(template="{title}: {text}"), Fields(text="body"), Fields(id="key"), Fields(title="head")):
        with pytest.raises(InputError, match="plain text has no fields"):
            read_corpus(path, fields=fields)


def test_a_data_set_of_hugging_face() -> None:
    import datasets

    rows = [{"_id": "a", "text": "one", "label": 1}, {"_id": "b", "text": "two", "label": 2}]
    data = datasets.Dataset.from_list(rows)
    expected = [Document("a", "one", "", {"label": 1}), Document("b", "two", "", {"label": 2})]
    assert list(documents_from(data)) == expected
    assert list(documents_from(data.to_iterable_dataset())) == expected


def test_texts_and_documents_as_rows() -> None:
    mixed = ["abc", DOCUMENTS[0], {"_id": "x", "text": "y"}]
    documents = list(documents_from(iter(mixed)))
    assert documents == [Document("c75e3abb575a77261847ac28273b1991", "abc"), DOCUMENTS[0], Document("x", "y")]
    with pytest.raises(DataError, match=r"rows, row 2: expected a mapping of fields, a Document or a text, got int"):
        list(documents_from(["a", 7]))  # type: ignore[list-item]
    with pytest.raises(InputError, match="got one str; wrap it"):
        documents_from("a text")


def test_a_template_makes_the_text() -> None:
    row = {"_id": "1", "title": "Iliad", "abstract": "Wrath", "year": -750, "lang": None, "text": "kept"}
    (document,) = documents_from([row], fields=Fields(template="{title} ({year}): {abstract}{lang}{absent}"))
    assert document == Document("1", "Iliad (-750): Wrath", "", {"text": "kept"})
    (document,) = documents_from([row], fields=Fields(template="{abstract}!", id=CONTENT_ID))
    assert (document.title, document.text) == ("Iliad", "Wrath!")
    for template in ("no field", "{a", "{a!r}", "{a:>9}", "{}", "{a} {}", ""):
        with pytest.raises(InputError, match="template"):
            Fields(template=template)
    with pytest.raises(DataError, match=r"row 1: expected a string in 'tags', found list"):
        list(documents_from([{"_id": "1", "tags": []}], fields=Fields(template="{tags}")))


BROKEN = {
    "c.jsonl": (
        (
            b'{"_id": "a", "text": "1"}\n{"_id": \n["b"]\n{"_id": "c"}\n{"_id": "d", "text": "\xff"}\n'
            b'{"_id": "a", "text": "again"}\n{"_id": "z", "text": "2"}\n'
        ),
        {2: "does not parse", 3: "found list", 4: "'text'", 5: "UTF-8", 6: "'a' came before"},
    ),
    "c.csv": (
        b'_id,text\na,1\nb\nc,"x"y\n,empty\nd,\xff\nz,2\n',
        {3: "expected 2 columns, got 1", 4: "not readable as a table", 5: "'_id'", 6: "UTF-8"},
    ),
    "c.txt": (b"1\n\xff\n2\n", {2: "UTF-8"}),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_bad_lines_are_skipped_counted_and_written_down(tmp_path: Path, name: str, suffix: str) -> None:
    data, faults = BROKEN[name]
    path = write(tmp_path / (name + suffix), data)
    with Rejects(tmp_path / "out" / "rejected.jsonl") as rejects:
        texts = [document.text for document in read_corpus(path, rejects=rejects)]
    assert texts == ["1", "2"]
    entries = [json.loads(line) for line in rejects.path.read_text().splitlines()]
    assert rejects.count == len(entries) == len(faults)
    for entry, (line, reason) in zip(entries, faults.items(), strict=True):
        assert (entry["source"], entry["line"]) == (str(path), line)
        assert reason in entry["reason"]
        assert entry["content"]
    with Rejects(rejects.path) as again:  # a run with nothing to reject leaves no file of an earlier one
        assert len(list(read_corpus(write(tmp_path / "good.txt", "1"), rejects=again))) == 1
    assert not rejects.path.exists()


def test_rejected_rows_of_parquet_and_of_anything(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"_id": "a", "text": "1"}, {"_id": None, "text": "2"}, {"_id": "c", "text": "3"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    for read in (lambda r: read_corpus(tmp_path / "c.parquet", rejects=r), lambda r: documents_from(rows, rejects=r)):
        with Rejects(tmp_path / "rejected.jsonl") as rejects:
            assert [document.id for document in read(rejects)] == ["a", "c"]
        (entry,) = map(json.loads, rejects.path.read_text().splitlines())
        assert (entry["row"], json.loads(entry["content"])) == (2, rows[1])


def test_dates_become_text_and_what_has_no_json_is_a_bad_row(tmp_path: Path) -> None:
    day = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    rows: list[dict[str, Any]] = [
        {"_id": "a", "text": "1", "day": day, "raw": None},
        {"_id": "b", "text": "2", "day": day, "raw": b"\xff"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    rows_and_documents: list[Any] = [
        *rows,
        Document("\ud800", "3"),
        Document("d", "4", metadata={"n": {1.5: float("inf")}}),
    ]
    for source in (None, rows_and_documents):
        with Rejects(tmp_path / "rejected.jsonl") as rejects:
            if source is None:
                (document,) = read_corpus(tmp_path / "c.parquet", rejects=rejects)
            else:
                (document,) = documents_from(source, rejects=rejects)
        assert document == Document("a", "1", metadata={"day": day.isoformat(), "raw": None})
        reasons = [json.loads(line)["reason"] for line in rejects.path.read_text().splitlines()]
        assert "row 2: the field 'raw' is not JSON" in reasons[0]
    assert ["row 3: expected '_id'" in reasons[1], "row 4: the field 'n'" in reasons[2]] == [True, True]


def test_documents_that_come_twice_are_rejected_too(tmp_path: Path) -> None:
    with Rejects(tmp_path / "r.jsonl") as rejects:
        first, second = documents_from([DOCUMENTS[0], "abc", DOCUMENTS[0], "abc"], rejects=rejects)
    assert (first, second.text) == (DOCUMENTS[0], "abc")
    assert [json.loads(line)["row"] for line in rejects.path.read_text().splitlines()] == [3, 4]


def test_a_damaged_file_is_no_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(as_jsonl(DOCUMENTS).encode())[:-5])
    with Rejects(tmp_path / "r.jsonl") as rejects, pytest.raises(DataError, match="gzip stream is damaged"):
        list(read_corpus(path, rejects=rejects))


def test_rejecting_remembers_ids_on_the_disk(tmp_path: Path) -> None:
    lines = "".join(f'{{"_id": "some-rather-long-id-of-document-{n}", "text": "t"}}\n' for n in range(8_000))
    path = write(tmp_path / "c.jsonl", lines)
    tracemalloc.start()
    with Rejects(tmp_path / "r.jsonl") as rejects:
        assert sum(1 for _ in read_corpus(path, rejects=rejects)) == 8_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize(
    ("name", "data", "size"),
    [("c.jsonl.zst", "{}\n\n{}", 2), ("c.txt", "a\n \nb\nc", 3), ("c.csv", "_id,text\na,b", None)],
)
def test_sizes_for_the_progress_bar(tmp_path: Path, name: str, data: str, size: int | None) -> None:
    assert length_hint(read_corpus(write(tmp_path / name, data))) == (size or 0)


def test_sizes_of_parquet_and_folders(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"_id": ["a", "b"]}), tmp_path / "c.parquet")
    assert length_hint(read_corpus(tmp_path / "c.parquet")) == 2
    write(tmp_path / "a.txt", "one\ntwo")
    assert length_hint(read_corpus(tmp_path)) == 1
    assert length_hint(documents_from(["a", "b"])) == 2
    write(tmp_path / "broken.parquet", "none")
    assert length_hint(read_corpus(tmp_path / "broken.parquet")) == 0


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
IDS = st.lists(TEXTS.filter(bool), min_size=1, max_size=6, unique=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=IDS, data=st.data())
@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.jsonl.zst", "c.csv", "c.csv.zst", "c.parquet"])
def test_whatever_is_written_comes_back(tmp_path: Path, name: str, ids: list[str], data: st.DataObject) -> None:
    documents = [Document(i, data.draw(TEXTS), data.draw(TEXTS), {"note": data.draw(TEXTS)}) for i in ids]
    rows = [{"_id": d.id, "title": d.title, "text": d.text, **d.metadata} for d in documents]
    if name == "c.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    elif ".csv" in name:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write(tmp_path / name, table.getvalue())
    else:
        write(tmp_path / name, as_jsonl(documents))
    assert list(read_corpus(tmp_path / name)) == documents


def test_a_large_row_group_is_not_held_as_a_whole(tmp_path: Path) -> None:
    texts = [random.Random(number).randbytes(2_000).hex() for number in range(10_000)]
    table = pyarrow.table({"_id": [str(number) for number in range(10_000)], "text": texts})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet", row_group_size=10_000, compression="none")
    expected = [table["text"][0].as_py(), table["text"][9_999].as_py()]
    del table
    before = pyarrow.total_allocated_bytes()
    peak, found = 0, []
    for number, document in enumerate(read_corpus(tmp_path / "c.parquet")):
        peak = max(peak, pyarrow.total_allocated_bytes() - before)
        found += [document.text] if number in {0, 9_999} else []
    assert found == expected
    assert peak < 20_000_000  # the row group has 40 MB
