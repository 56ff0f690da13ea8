"""From a row of named fields to a document: which field is what, where the row stands, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from string import Formatter
from typing import Any

from safe_retrieval.errors import DataError, InputError
from safe_retrieval.index.metadata import metadata_json
from safe_retrieval.index.vectors import is_valid_id
from safe_retrieval.types import Document

ID_FIELDS = ("_id", "id")
"""Names of the field that holds a document's id; the first that is there counts."""

CONTENT_ID = "content"
"""In place of a field's name: an id is made of title and text."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line or row stands; prints as it reads in an error."""

    path: Path | str
    line: int = 0
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {self.line}" if self.line else str(self.path)


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a line or row are what; all others become metadata, dates and times as ISO 8601 text.

    Attributes:
        id: field of the id; ``None`` takes ``_id`` or ``id``; :data:`CONTENT_ID` makes one of title and text, so that
            the same content has the same id wherever it comes from.
        title: field of the title; it may be missing.
        text: field of the text.
        template: what the text is made of in place of one field: names of fields in braces and whatever stands between
            them, as in ``{title}: {abstract}``. A field that is missing or null is empty there. The document has no
            title then unless the template leaves it out, so that nothing but the template decides what is embedded.

    Raises:
        InputError: the template is none, or names no field.
    """

    id: str | None = None
    title: str = "title"
    text: str = "text"
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None and not any(name for _, name in self.template_parts()):
            raise InputError(f"expected a template such as '{{title}}: {{abstract}}', got {self.template!r}")

    def template_parts(self) -> list[tuple[str, str | None]]:
        """The template as stretches of text, each with the name of the field that follows it."""
        try:
            parts = list(Formatter().parse(self.template or ""))
        except ValueError as error:
            raise InputError(f"expected field names in braces in the template {self.template!r}: {error}") from error
        if any(form or conversion for _, _, form, conversion in parts):
            raise InputError(f"the template {self.template!r} formats a field; only names can stand in braces")
        if any(name == "" for _, name, _, _ in parts):
            raise InputError(f"expected the name of a field in each pair of braces, got the template {self.template!r}")
        return [(before, name) for before, name, _, _ in parts]


PLAIN_FIELDS = Fields()
"""Under the names that most corpora use."""


def document_of(row: Mapping[str, Any], place: Place, fields: Fields) -> Document:
    """The document in a row.

    Raises:
        DataError: it lacks an id or a text, or one of them is no string; the message names the place.
    """
    used = {fields.title, fields.text}
    title = row.get(fields.title)
    title = "" if title is None else _string(title, fields.title, place)
    if fields.template is None:
        # Empty text is legal: BEIR sets (TREC-COVID) have documents that consist of their title.
        text = _string(row.get(fields.text), fields.text, place)
    else:
        parts = fields.template_parts()
        used = {name for _, name in parts if name is not None}
        text = "".join(before + ("" if name is None else _filled(row, name, place)) for before, name in parts)
        title = "" if fields.title in used else title
        used.add(fields.title)
    if fields.id == CONTENT_ID:
        id_field, identifier = None, content_id(title, text)
    else:
        id_field = fields.id or next((name for name in ID_FIELDS if name in row), ID_FIELDS[0])
        identifier = _identifier(row.get(id_field), place)
    metadata = {name: _plain(value) for name, value in row.items() if name not in used and name != id_field}
    _check_metadata(metadata, place)
    return Document(identifier, text, title, metadata)


def check_document(document: Document, place: Place) -> None:
    """Refuse a document that could not be stored, while it is known where it stands.

    Raises:
        DataError: its id is no string that can be stored, or its metadata no JSON; the message names the place.
    """
    if not isinstance(document.id, str):
        raise DataError(f"{place}: expected a string as id, got {document.id!r}")
    _identifier(document.id, place)
    _check_metadata(document.metadata, place)


def _plain(value: Any) -> Any:
    """Dates and times, of which Parquet files are full, as text that sorts as they do: ISO 8601."""
    return value.isoformat() if isinstance(value, date | time) else value


def _check_metadata(metadata: Mapping[str, Any], place: Place) -> None:
    for name, value in metadata.items():
        if value is None or isinstance(value, str | int):
            continue
        try:
            metadata_json({name: value})
        except (TypeError, ValueError) as error:
            raise DataError(f"{place}: the field {name!r} is not JSON ({error}); convert it or leave it out") from error


def content_id(title: str, text: str) -> str:
    """The same for the same title and text, and for no others: 128 bits of SHA-256, hexadecimal."""
    parts = f"{len(title)} {title}{text}"
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _filled(row: Mapping[str, Any], name: str, place: Place) -> str:
    value = row.get(name)
    if isinstance(value, bool | int | float):
        return str(value)
    return "" if value is None else _string(value, name, place)


def _identifier(value: object, place: Place) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # many corpora number their documents
    if not isinstance(value, str) or not is_valid_id(value):
        raise DataError(
            f"{place}: expected '_id' (or 'id') to be a non-empty string without NUL and lone surrogates, got {value!r}"
        )
    return value


def _string(value: object, name: str, place: Place) -> str:
    if not isinstance(value, str):
        found = "no such field" if value is None else type(value).__name__
        raise DataError(f"{place}: expected a string in {name!r}, found {found}")
    return value
