"""Corpora, streamed: JSONL, CSV, TSV, plain text (each also gzipped), Parquet, folders, and rows from anywhere.

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
``.txt``    the text of a document; its id is the number of the line, and empty lines are left out
``.parquet`` a row with those columns; read some hundred rows at a time
folder      ``corpus.jsonl`` or ``corpus.jsonl.gz``, as BEIR sets have it; or else one document a ``.txt`` file in it,
            however deep, whose id is its path
=========== =======================================================================================
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from safe_retrieval.errors import DataError
from safe_retrieval.index.vectors import is_valid_id
from safe_retrieval.types import Document

ID_FIELDS = ("_id", "id")
"""Names of the field that holds a document's id; the first that is there counts."""

CONTENT_ID = "content"
"""In place of a field's name: an id is made of title and text."""

_BATCH_ROWS = 500
# The csv module refuses fields above 128 KiB unless told otherwise; this is its largest bound on every platform.
_FIELD_BYTES = 2**31 - 1


@dataclass(slots=True)
class _Place:
    """Where a reader stands; prints as it reads in an error."""

    path: Path | str
    line: int = 0
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {self.line}"


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a line or row are what; all others become metadata.

    Attributes:
        id: field of the id; ``None`` takes ``_id`` or ``id``; :data:`CONTENT_ID` makes one of title and text, so that
            the same content has the same id wherever it comes from.
        title: field of the title; it may be missing.
        text: field of the text.
    """

    id: str | None = None
    title: str = "title"
    text: str = "text"


_PLAIN_FIELDS = Fields()


def read_corpus(path: str | Path, *, fields: Fields = _PLAIN_FIELDS) -> Iterator[Document]:
    """Read a corpus file or folder, one document at a time.

    Args:
        path: a file with one of the suffixes above, text files with or without ``.gz`` behind it, or a folder.
        fields: which fields are id, title and text.

    Raises:
        DataError: the path is missing or of an unknown kind (at once); or, while reading, a line is broken, not UTF-8,
            or lacks an id or text, or the gzip stream is damaged. The message names file and line.
    """
    path = Path(path)
    file = _corpus_file(path) if path.is_dir() else path
    if file.is_dir():
        return _read_text_files(file, fields)
    if not file.is_file():
        raise DataError(f"{file} is missing; expected a corpus file or a BEIR folder")
    suffix = (file.with_suffix("") if file.suffix == ".gz" else file).suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise DataError(f"{file}: expected one of {', '.join(_READERS)}, with or without .gz, or a BEIR folder")
    return reader(file, fields)


def documents_from(
    rows: Iterable[Mapping[str, Any]], *, fields: Fields = _PLAIN_FIELDS, name: str = "rows"
) -> Iterator[Document]:
    """Documents out of any rows of fields: a Hugging Face data set (streamed ones too), a query's result, a list.

    Args:
        rows: read once, in order.
        fields: which fields are id, title and text.
        name: of the rows, for messages.

    Raises:
        DataError: a row lacks an id or a text; the message names its number.
    """
    place = _Place(name, unit="row")
    for number, row in enumerate(rows, start=1):
        place.line = number
        yield _document(row, place, fields)


def _corpus_file(folder: Path) -> Path:
    """The corpus file of a BEIR folder; the folder itself, if it is one of text files."""
    names = ("corpus.jsonl", "corpus.jsonl.gz")
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found and next(folder.rglob("*.txt"), None) is not None:
        return folder
    if len(found) != 1:
        raise DataError(
            f"{folder}: expected one of {names[0]} and {names[1]}, or .txt files, found {len(found) or 'neither'}"
        )
    return found[0]


def _read_text_files(folder: Path, fields: Fields) -> Iterator[Document]:
    for path in sorted(folder.rglob("*.txt")):
        place = _Place(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
        yield _text_document(path.relative_to(folder).as_posix(), text, place, fields)


def _read_text(path: Path, fields: Fields) -> Iterator[Document]:
    with _opened(path) as (stream, place):
        for number, raw in enumerate(stream, start=1):
            place.line = number
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield _text_document(str(number), text, place, fields)


def _text_document(identifier: str, text: str, place: _Place, fields: Fields) -> Document:
    return _document({"id": identifier, "text": text}, place, Fields(CONTENT_ID if fields.id == CONTENT_ID else "id"))


def _read_parquet(path: Path, fields: Fields) -> Iterator[Document]:
    import pyarrow
    from pyarrow import parquet

    place = _Place(path, unit="row")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    place.line += 1
                    yield _document(row, place, fields)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{place} or after: not readable as Parquet: {error}; write the file again") from error


def _read_jsonl(path: Path, fields: Fields) -> Iterator[Document]:
    with _opened(path) as (stream, place):
        # Split as bytes: only a line feed ends a line, while a JSON string may hold U+2028 and its like as they are.
        for number, raw in enumerate(stream, start=1):
            place.line = number
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield _document(_json_object(text, place), place, fields)


def _json_object(text: str, place: _Place) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{place}: expected one JSON object, the line does not parse: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(fields).__name__}")
    return fields


def _read_csv(path: Path, fields: Fields) -> Iterator[Document]:
    return _read_table(path, fields, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(path: Path, fields: Fields) -> Iterator[Document]:
    return _read_table(path, fields, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(path: Path, fields: Fields, *, delimiter: str, quoting: Any) -> Iterator[Document]:
    csv.field_size_limit(_FIELD_BYTES)
    with _opened(path) as (stream, place):
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        rows = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        header = next(rows, None)
        place.line = 1
        ids = ID_FIELDS if fields.id is None else (fields.id,)
        if header is None or fields.text not in header or not (fields.id == CONTENT_ID or set(ids) & set(header)):
            raise DataError(f"{place}: expected a header line that names the columns {ids[0]} and {fields.text}")
        for row in rows:
            place.line = rows.line_num
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{place}: expected {len(header)} columns, got {len(row)}")
            yield _document(dict(zip(header, row, strict=True)), place, fields)


_READERS: Mapping[str, Callable[[Path, Fields], Iterator[Document]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_text,
    ".parquet": _read_parquet,
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


def _document(row: Mapping[str, Any], place: _Place, fields: Fields) -> Document:
    title = row.get(fields.title)
    # Empty text is legal: BEIR sets (TREC-COVID) have documents that consist of their title.
    text = _string(row.get(fields.text), fields.text, place)
    title = "" if title is None else _string(title, fields.title, place)
    if fields.id == CONTENT_ID:
        id_field, identifier = None, _content_id(title, text)
    else:
        id_field = fields.id or next((name for name in ID_FIELDS if name in row), ID_FIELDS[0])
        identifier = _identifier(row.get(id_field), place)
    used = {id_field, fields.title, fields.text}
    return Document(identifier, text, title, {name: value for name, value in row.items() if name not in used})


def _content_id(title: str, text: str) -> str:
    """The same for the same title and text, and for no others: 128 bits of SHA-256, hexadecimal."""
    parts = f"{len(title)} {title}{text}"
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


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
