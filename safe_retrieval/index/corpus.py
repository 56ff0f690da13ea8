"""Corpora from files, streamed: JSONL, CSV, TSV (each also gzipped) and BEIR folders.

A reader yields one :class:`~safe_retrieval.types.Document` after the other and keeps none of them, so memory does not
grow with the corpus. A broken line raises with file and line number; nothing is skipped in silence. Two documents with
one id are found by the build, which has all ids at hand.

=========== =======================================================================================
suffix      what a line is
=========== =======================================================================================
``.jsonl``  one JSON object: ``_id`` (or ``id``), ``text``, optionally ``title``; the rest is metadata
``.ndjson`` the same
``.csv``    comma-separated with a header line that names those columns, quoted where needed (RFC 4180)
``.tsv``    the same, tab-separated; a quotation mark is plain text there
folder      ``corpus.jsonl`` or ``corpus.jsonl.gz``, as BEIR sets have it
=========== =======================================================================================
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from safe_retrieval.errors import DataError
from safe_retrieval.index.vectors import is_valid_id
from safe_retrieval.types import Document

ID_FIELDS = ("_id", "id")
"""Names of the field that holds a document's id; the first that is there counts."""

# The csv module refuses fields above 128 KiB unless told otherwise; this is its largest bound on every platform.
_FIELD_BYTES = 2**31 - 1


@dataclass(slots=True)
class _Place:
    """Where a reader stands; prints as it reads in an error."""

    path: Path
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"


def read_corpus(path: str | Path) -> Iterator[Document]:
    """Read a corpus file or folder, one document at a time.

    Args:
        path: a file with one of the suffixes above, with or without ``.gz`` behind it, or a BEIR folder.

    Raises:
        DataError: the path is missing or of an unknown kind (at once); or, while reading, a line is broken, not UTF-8,
            or lacks an id or text, or the gzip stream is damaged. The message names file and line.
    """
    path = Path(path)
    file = _corpus_file(path) if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file} is missing; expected a corpus file or a BEIR folder")
    suffix = (file.with_suffix("") if file.suffix == ".gz" else file).suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise DataError(f"{file}: expected one of {', '.join(_READERS)}, with or without .gz, or a BEIR folder")
    return reader(file)


def _corpus_file(folder: Path) -> Path:
    names = ("corpus.jsonl", "corpus.jsonl.gz")
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) != 1:
        raise DataError(f"{folder}: expected one of {names[0]} and {names[1]}, found {len(found) or 'neither'}")
    return found[0]


def _read_jsonl(path: Path) -> Iterator[Document]:
    with _opened(path) as (stream, place):
        # Split as bytes: only a line feed ends a line, while a JSON string may hold U+2028 and its like as they are.
        for number, raw in enumerate(stream, start=1):
            place.line = number
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield _document(_json_object(text, place), place)


def _json_object(text: str, place: _Place) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{place}: expected one JSON object, the line does not parse: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(fields).__name__}")
    return fields


def _read_csv(path: Path) -> Iterator[Document]:
    return _read_table(path, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Iterator[Document]:
    return _read_table(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(path: Path, *, delimiter: str, quoting: Any) -> Iterator[Document]:
    csv.field_size_limit(_FIELD_BYTES)
    with _opened(path) as (stream, place):
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        rows = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        header = next(rows, None)
        place.line = 1
        if header is None or "text" not in header or not set(ID_FIELDS) & set(header):
            raise DataError(f"{place}: expected a header line that names the columns _id and text")
        for row in rows:
            place.line = rows.line_num
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{place}: expected {len(header)} columns, got {len(row)}")
            yield _document(dict(zip(header, row, strict=True)), place)


_READERS: Mapping[str, Callable[[Path], Iterator[Document]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, _Place]]:
    """The bytes of a file, gunzipped, and the place of the last line read, which the reader keeps up to date."""
    place = _Place(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield cast("BinaryIO", stream), place
    except UnicodeDecodeError as error:
        raise DataError(f"{place} or after: expected UTF-8 text: {error}; re-encode the file") from error
    except csv.Error as error:
        raise DataError(f"{place} or after: not readable as a table: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{place} or after: the gzip stream is damaged: {error}; copy it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _document(fields: Mapping[str, Any], place: _Place) -> Document:
    id_field = next((name for name in ID_FIELDS if name in fields), ID_FIELDS[0])
    title = fields.get("title")
    return Document(
        _identifier(fields.get(id_field), place),
        # Empty text is legal: BEIR sets (TREC-COVID) have documents that consist of their title.
        _string(fields.get("text"), "text", place),
        "" if title is None else _string(title, "title", place),
        {name: value for name, value in fields.items() if name not in {id_field, "title", "text"}},
    )


def _identifier(value: object, place: _Place) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # many corpora number their documents
    if not isinstance(value, str) or not is_valid_id(value):
        raise DataError(
            f"{place}: expected '_id' (or 'id') to be a non-empty string without NUL and lone surrogates, got {value!r}"
        )
    return value


def _string(value: object, name: str, place: _Place) -> str:
    if not isinstance(value, str):
        found = "no such field" if value is None else type(value).__name__
        raise DataError(f"{place}: expected a string in {name!r}, found {found}")
    return value
