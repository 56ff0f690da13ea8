"""Read a retrieval set in BEIR form, plain or gzipped, with errors that name file and line.

A folder holds ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``), either of them
also as ``.jsonl.gz``, and optionally ``qrels.tsv`` or ``qrels/test.tsv`` (query-id, corpus-id, score; header line
optional). Other fields of a line are kept as metadata. Standard library only: an audit's data must be readable before
anything heavy is loaded.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from safe_retrieval.errors import DataError
from safe_retrieval.types import Document, Metadata

Qrels: TypeAlias = dict[str, dict[str, int]]
"""Relevance by query id, then document id. A score of 0 or less is a judgement too: not relevant."""

_HEADER_NAMES = frozenset({"query-id", "query_id", "qid", "query"})


class BeirQuery(NamedTuple):
    """One query; ``metadata`` holds the fields of its line besides ``_id`` and ``text``."""

    id: str
    text: str
    metadata: Metadata


class BeirFolder(NamedTuple):
    """What a BEIR folder holds, in file order; ``qrels`` is empty where the folder has none."""

    documents: tuple[Document, ...]
    queries: tuple[BeirQuery, ...]
    qrels: Qrels


class Row(NamedTuple):
    """One JSON object of a JSONL file, and where it stands, for error messages."""

    where: str
    fields: dict[str, Any]


def load_beir(folder: Path, *, corpus: str = "corpus") -> BeirFolder:
    """Read a BEIR folder; ids are unique and every judgement speaks of a query and a document that are there.

    Args:
        folder: where the files lie.
        corpus: stem of the corpus file, for sets that name it otherwise.

    Raises:
        DataError: a file is missing, doubled (plain and gzipped), not UTF-8, not JSON, truncated, or has a missing,
            mistyped, repeated or unknown id; the message names file and line.
    """
    documents = tuple(_document(row) for row in read_jsonl(find_jsonl(folder, corpus)))
    queries = tuple(_query(row) for row in read_jsonl(find_jsonl(folder, "queries")))
    qrels = _read_qrels(folder, {query.id for query in queries}, {document.id for document in documents})
    return BeirFolder(documents, queries, qrels)


def find_jsonl(folder: Path, stem: str) -> Path:
    """The one file ``stem.jsonl`` or ``stem.jsonl.gz`` in ``folder``.

    Raises:
        DataError: neither is there, or both are and it is unclear which one counts.
    """
    names = (f"{stem}.jsonl", f"{stem}.jsonl.gz")
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(f"{folder}: expected {names[0]} or {names[1]}, found neither; is this a BEIR folder?")
    raise DataError(f"{folder}: found both {names[0]} and {names[1]}; keep one, it is unclear which one counts")


def read_jsonl(path: Path, *, id_field: str = "_id") -> Iterator[Row]:
    """The objects of a JSONL file, one a line; blank lines are skipped, ids are strings and unique.

    Raises:
        DataError: see :func:`load_beir`.
    """
    seen: dict[str, int] = {}
    for number, line in read_lines(path):
        row = parse_row(f"{path}, line {number}", line)
        identifier = text_field(row, id_field)
        if identifier in seen:
            raise DataError(
                f"{row.where}: id {identifier!r} was already used in line {seen[identifier]}; ids are unique"
            )
        seen[identifier] = number
        yield row


def parse_row(where: str, line: str) -> Row:
    """One line of a JSONL file.

    Raises:
        DataError: it is not one JSON object; the message begins with ``where``.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        raise DataError(f"{where}: expected one JSON object, the line does not parse: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(fields).__name__}")
    return Row(where, fields)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank; gunzips by the name, drops a byte-order mark.

    Split as bytes, so that only a line feed ends a line: JSON strings may hold U+2028 and its like unescaped.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or its gzip stream is damaged.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: expected UTF-8 text: {error}; re-encode the file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}, after line {number}: the gzip stream is damaged: {error}; copy it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def text_field(row: Row, name: str, *, allow_empty: bool = False) -> str:
    """A field that has to be a string, and one with visible characters unless ``allow_empty``.

    Raises:
        DataError: it is missing, of another type, or blank; the message names file and line.
    """
    value = row.fields.get(name)
    if not isinstance(value, str):
        found = "no such field" if name not in row.fields else type(value).__name__
        raise DataError(f"{row.where}: expected a string in {name!r}, found {found}")
    if not allow_empty and not value.strip():
        raise DataError(f"{row.where}: {name!r} is empty")
    return value


def _document(row: Row) -> Document:
    # Text may be empty: BEIR corpora (TREC-COVID) have documents that consist of their title.
    title = text_field(row, "title", allow_empty=True) if row.fields.get("title") is not None else ""
    metadata = {name: value for name, value in row.fields.items() if name not in {"_id", "title", "text"}}
    return Document(row.fields["_id"], text_field(row, "text", allow_empty=True), title, metadata)


def _query(row: Row) -> BeirQuery:
    metadata = {name: value for name, value in row.fields.items() if name not in {"_id", "text"}}
    return BeirQuery(row.fields["_id"], text_field(row, "text"), metadata)


def _read_qrels(folder: Path, query_ids: set[str], document_ids: set[str]) -> Qrels:
    path = next((path for path in (folder / "qrels.tsv", folder / "qrels" / "test.tsv") if path.is_file()), None)
    qrels: Qrels = {}
    if path is None:
        return qrels
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 3:
            raise DataError(
                f"{where}: expected 3 tab-separated columns (query-id, corpus-id, score), got {len(columns)}"
            )
        query, document, score = columns
        if number == 1 and query.lower() in _HEADER_NAMES:
            continue
        if query not in query_ids:
            raise DataError(f"{where}: query {query!r} is not among the queries")
        if document not in document_ids:
            raise DataError(f"{where}: document {document!r} is not in the corpus")
        _judge(qrels.setdefault(query, {}), document, score, where)
    return qrels


def _judge(judged: dict[str, int], document: str, score: str, where: str) -> None:
    try:
        value = int(score)
    except ValueError as error:
        raise DataError(f"{where}: expected a whole number as score, found {score!r}") from error
    if judged.setdefault(document, value) != value:
        raise DataError(
            f"{where}: document {document!r} is judged twice for this query, {judged[document]} and {value}"
        )
