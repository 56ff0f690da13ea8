"""Corpora, streamed: JSONL, CSV, TSV, plain text, Parquet, folders, data sets of Hugging Face, and rows from anywhere.

A reader yields one :class:`~safe_retrieval.types.Document` after the other and keeps none of them, so memory does not
grow with the corpus. A broken line raises with file and line number; given :class:`~.rejects.Rejects`, it is written
down there and skipped. Nothing is skipped in silence. Two documents with one id are found by the build, which has all
ids at hand; or skipped like a broken line.

=========== =======================================================================================
suffix      what a line is
=========== =======================================================================================
``.jsonl``  one JSON object: ``_id`` (or ``id``), ``text``, optionally ``title``; the rest is metadata
``.ndjson`` the same
``.csv``    comma-separated with a header line that names those columns, quoted where needed (RFC 4180)
``.tsv``    the same, tab-separated; a quotation mark is plain text there
``.txt``    the text of a document; its id is the number of the line, and empty lines are left out
``.parquet`` a row with those columns; read some hundred rows at a time
folder      ``corpus.jsonl``, as BEIR sets have it; or else one document a ``.txt`` file in it, however deep, whose id
            is its path
=========== =======================================================================================

Text files may have ``.gz`` or ``.zst`` behind their name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import length_hint
from pathlib import Path
from typing import Any

from safe_retrieval.errors import DataError, InputError
from safe_retrieval.index.readers import (
    COMPRESSED,
    Record,
    count_records,
    count_text_files,
    is_plain_text,
    read_text_files,
    reader_for,
    text_files,
)
from safe_retrieval.index.rejects import Rejects
from safe_retrieval.index.rows import (
    CONTENT_ID,
    ID_FIELDS,
    PLAIN_FIELDS,
    Fields,
    Place,
    check_document,
    content_id,
    document_of,
)
from safe_retrieval.types import Document

__all__ = ["CONTENT_ID", "ID_FIELDS", "Fields", "Rejects", "documents_from", "read_corpus"]


class Documents(Iterator[Document]):
    """Documents, one after the other; ``operator.length_hint`` says how many there are at most, where that is known."""

    def __init__(self, documents: Iterator[Document], count: Callable[[], int | None]) -> None:
        self._documents = documents
        self._count = count

    def __next__(self) -> Document:
        return next(self._documents)

    def __length_hint__(self) -> int:
        return self._count() or 0


def read_corpus(path: str | Path, *, fields: Fields = PLAIN_FIELDS, rejects: Rejects | None = None) -> Documents:
    """Read a corpus file or folder, one document at a time.

    Args:
        path: a file with one of the suffixes above, text files with or without ``.gz`` or ``.zst`` behind it, or a
            folder.
        fields: which fields are id, title and text.
        rejects: takes broken lines and documents whose id came before; ``None`` makes the first of them an error.

    Raises:
        InputError: fields of plain text are chosen, which has none (at once).
        DataError: the path is missing or of an unknown kind (at once); or, while reading, a line is broken, not UTF-8,
            or lacks an id or text (without ``rejects``), or a compressed stream is damaged. The message names file and
            line.
    """
    file = _corpus_file(Path(path))
    if file.is_dir():
        return Documents(_documents(read_text_files(file), _for_text(fields), rejects), partial(count_text_files, file))
    reader = reader_for(file)
    if is_plain_text(file):
        fields = _for_text(fields)
    return Documents(_documents(reader(file, fields), fields, rejects), partial(count_records, file))


def documents_from(
    rows: Iterable[Mapping[str, Any] | Document | str],
    *,
    fields: Fields = PLAIN_FIELDS,
    name: str = "rows",
    rejects: Rejects | None = None,
) -> Documents:
    """Documents out of anything that can be iterated over: a Hugging Face data set (streamed ones too), a list, ...

    Args:
        rows: read once, in order: mappings of fields; documents, which are taken as they are; or texts, whose ids are
            made of them.
        fields: which fields of a mapping are id, title and text.
        name: of the rows, for messages.
        rejects: as in :func:`read_corpus`.

    Raises:
        DataError: a row lacks an id or a text, or is something else; the message names its number.
        InputError: ``rows`` is one text or mapping in place of several.
    """
    if isinstance(rows, str | bytes | Mapping):
        raise InputError(f"expected several documents, got one {type(rows).__name__}; wrap it in a list")
    return Documents(_documents(_row_records(rows, name), fields, rejects), partial(length_hint, rows))


def _row_records(rows: Iterable[object], name: str) -> Iterator[Record]:
    for number, row in enumerate(rows, start=1):
        place = Place(name, number, "row")
        if isinstance(row, str):
            yield Record(place, {"_id": content_id("", row), "text": row}, content=row)
        elif isinstance(row, Mapping):
            yield Record(place, row)
        elif isinstance(row, Document):
            yield Record(place, None, content=row.content, document=row)
        else:
            yield Record(place, None, f"expected a mapping of fields, a Document or a text, got {type(row).__name__}")


def _documents(records: Iterable[Record], fields: Fields, rejects: Rejects | None) -> Iterator[Document]:
    """The documents of records, without those that are rejected."""
    for record in records:
        try:
            document = _document(record, fields, rejects)
        except DataError as error:
            if rejects is None:
                raise
            rejects.add(record.place, str(error), record.content or _as_text(record.fields))
        else:
            yield document


def _document(record: Record, fields: Fields, rejects: Rejects | None) -> Document:
    document = record.document
    if document is None:
        if record.fields is None:
            raise DataError(f"{record.place}: {record.fault}")
        document = document_of(record.fields, record.place, fields)
    else:
        check_document(document, record.place)
    if rejects is not None and not rejects.is_new(document.id):
        raise DataError(f"{record.place}: the id {document.id!r} came before; ids are unique")
    return document


def _as_text(fields: Mapping[str, Any] | None) -> str:
    return "" if fields is None else json.dumps(fields, default=str)


def _for_text(fields: Fields) -> Fields:
    """Plain text has no fields to choose among; its ids may be made of its content.

    Raises:
        InputError: one was chosen all the same.
    """
    if fields not in {PLAIN_FIELDS, Fields(id=CONTENT_ID)}:
        raise InputError(
            f"plain text has no fields, so the only choice is the id {CONTENT_ID!r}; leave out names of fields and the "
            "template, or write the corpus as JSON lines"
        )
    return Fields(CONTENT_ID if fields.id == CONTENT_ID else "id")


def _corpus_file(path: Path) -> Path:
    """The corpus file that a path stands for: itself, or the one of a BEIR folder; a folder, if it is one of texts."""
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path} is missing; expected a corpus file or a BEIR folder")
        return path
    names = ["corpus.jsonl", *(f"corpus.jsonl{suffix}" for suffix in COMPRESSED)]
    found = [path / name for name in names if (path / name).is_file()]
    if not found and next(text_files(path), None) is not None:
        return path
    if len(found) != 1:
        raise DataError(
            f"{path}: expected one of {', '.join(names)}, or .txt files, found {len(found) or 'none of them'}"
        )
    return found[0]
