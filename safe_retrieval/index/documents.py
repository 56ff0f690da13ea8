"""The documents of an index in one SQLite file: position, id, title, text, metadata, and which words stand where; and
the file beside it that says which of them are deleted.

A writer fills a new file in one go; a reader opens a finished one read-only. The file is written without a journal,
since a half-written one is thrown away, and opened as immutable, so that no stray journal beside it can change what
is read.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import weakref
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.encoder.texts import readable
from safe_retrieval.errors import DataError, IndexFormatError, InputError
from safe_retrieval.index.chunking import is_piece, piece_bounds
from safe_retrieval.index.conditions import Condition
from safe_retrieval.index.manifest import Check, SegmentRecord, check_file
from safe_retrieval.index.metadata import metadata_json
from safe_retrieval.index.sqlite_reader import SqliteReader, TooSlowError
from safe_retrieval.index.vectors import is_valid_id
from safe_retrieval.index.words import WORDS_SCHEMA
from safe_retrieval.types import Document

SCHEMA_VERSION = 2
"""Version 1, which had no table of words, is read as well."""

_SCHEMA = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE documents (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL
);
{WORDS_SCHEMA}"""
# Documents in one transaction. The bytes of a file depend on it, so those who append more at once get the same bytes.
_AT_ONCE = 512
_COLUMNS = "id, title, text, metadata"
# SQLite's default bound on parameters was 999 until 3.32.
_PARAMETERS = 900
# Filters whose answers are remembered: a file never changes, so neither do they. A bit a document each.
_REMEMBERED = 32


class DocumentWriter:
    """Writes a new documents file; the context manager closes it.

    Args:
        path: the file; it must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        self._connection.executescript(_SCHEMA)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def __len__(self) -> int:
        return self._count

    def append(self, documents: Sequence[Document]) -> None:
        """Append documents at the next positions.

        Raises:
            DataError: an id is no string, empty, holds a NUL or a lone surrogate, or is there already; or metadata is
                no JSON. The message names the document.
        """
        for start in range(0, len(documents), _AT_ONCE):
            self._append(documents[start : start + _AT_ONCE])

    def _append(self, documents: Sequence[Document]) -> None:
        rows = [
            (self._count + offset, *_row(document, self._count + offset)) for offset, document in enumerate(documents)
        ]
        try:
            with self._connection:
                self._connection.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", rows)
                words = ((position, title, text) for position, _, title, text, _ in rows)
                self._connection.executemany("INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)", words)
        except sqlite3.IntegrityError as error:
            # With the journal off there is no rollback, so the file is of no use from here on; the caller drops it.
            raise DataError(f"{self._repeated(rows)}; ids are unique") from error
        self._count += len(rows)

    def _repeated(self, rows: Sequence[tuple[Any, ...]]) -> str:
        first: dict[str, int] = {}
        for position, identifier, *_ in rows:
            stored = self._connection.execute(
                "SELECT position FROM documents WHERE id = ? AND position < ?", (identifier, position)
            ).fetchone()
            before = stored[0] if stored else first.get(identifier)
            if before is not None:
                return f"documents {before} and {position} have the same id {identifier!r}"
            first[identifier] = position
        return "two documents have the same id"


def _row(document: Document, position: int) -> tuple[str, str, str, str]:
    if not isinstance(document, Document):
        raise DataError(f"document {position}: expected a Document, got {type(document).__name__}")
    if not isinstance(document.id, str) or not is_valid_id(document.id):
        raise DataError(
            f"document {position}: expected a non-empty string without NUL and lone surrogates as id, "
            f"got {document.id!r}"
        )
    if not isinstance(document.text, str) or not isinstance(document.title, str):
        raise DataError(f"document {document.id!r}: expected strings as title and text")
    try:
        metadata = metadata_json(document.metadata) if document.metadata else "{}"
    except (TypeError, ValueError) as error:
        raise DataError(f"document {document.id!r}: metadata is not JSON: {error}") from error
    return document.id, readable(document.title), readable(document.text), metadata


class DocumentStore:
    """A finished documents file, opened read-only; may be used from several threads.

    Attributes:
        path: the file.
        full_text: whether it can be asked for words; files of version 1 cannot.

    Args:
        path: the file.
        filter_seconds: as for :func:`~safe_retrieval.index.folder.load_index`.

    Raises:
        IndexFormatError: it is missing, damaged, or of an unknown version.
    """

    def __init__(self, path: Path, *, filter_seconds: float | None = None) -> None:
        self.path = path
        self._filter_seconds = filter_seconds
        self._matches: OrderedDict[Condition, NDArray[np.uint8]] = OrderedDict()
        self._remembering = threading.Lock()
        with ExitStack() as on_failure:
            self._look_ups = on_failure.enter_context(closing(SqliteReader(path)))
            # A filter may read all documents, and nobody who looks up some is to wait for it. Opened at once: a writer
            # may remove the file later.
            self._filters = on_failure.enter_context(closing(SqliteReader(path)))
            ((version,),) = self._query("PRAGMA user_version")
            if version not in {1, SCHEMA_VERSION}:
                raise IndexFormatError(f"{path}: expected documents of version {SCHEMA_VERSION} or 1, got {version}")
            self.full_text = version > 1
            ((self._count,),) = self._query("SELECT COUNT(*) FROM documents")
            for reader in (self._look_ups, self._filters):  # after the count, which looks at every id
                reader.map_file()
            on_failure.pop_all()
        for reader in (self._look_ups, self._filters):  # an index under change drops stores that nobody asks any more
            weakref.finalize(self, reader.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._count)

    def close(self) -> None:
        """Close the file."""
        self._look_ups.close()
        self._filters.close()

    def ids_at(self, positions: Sequence[int]) -> list[str]:
        """The ids at these positions, in the order asked.

        Raises:
            IndexFormatError: there is no document at one of them.
        """
        found = dict(self._select("position, id", "position", sorted(set(positions))))
        self._refuse_missing(positions, found)
        return [found[position] for position in positions]

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The positions of those ids that are there."""
        valid = [identifier for identifier in dict.fromkeys(ids) if is_valid_id(identifier)]
        return dict(self._select("id, position", "id", valid))

    def positions_of_pieces(self, document: str) -> dict[str, int]:
        """The positions of the pieces that chunking made of a document, by their ids."""
        if not is_valid_id(document):
            return {}
        rows = self._query(
            "SELECT id, position, metadata FROM documents WHERE id >= ? AND id < ? ORDER BY position",
            piece_bounds(document),
        )
        return {each: position for each, position, text in rows if is_piece(each, self._parsed(each, text), document)}

    def at(self, positions: Sequence[int]) -> list[Document]:
        """The documents at these positions, each once, by rising position.

        Raises:
            IndexFormatError: there is no document at one of them, or one is damaged.
        """
        wanted = sorted(set(positions))
        rows = list(self._select(_COLUMNS, "position", wanted))  # each part by rising position
        if len(rows) != len(wanted):
            self._refuse_missing(wanted, dict(self._select("position, id", "position", wanted)))
        return self._documents(rows)

    def matching(self, condition: Condition) -> NDArray[np.bool_]:
        """Which documents fulfil a condition; (n,) bool by position, the caller's own.

        The first answer reads all metadata, at about a million documents in a few seconds; then it is remembered.

        Raises:
            InputError: words are asked for, and the file is too old to know where they stand; or it takes longer than
                it may.
        """
        if condition.full_text and not self.full_text:
            raise InputError(f"{self.path} is of a version without full text; compact the index once, and it has it")
        with self._remembering:
            bits = self._matches.get(condition)
        if bits is None:
            statement = f"SELECT position FROM documents WHERE {condition.sql}"  # noqa: S608 (made by conditions.py, values are bound)
            mask = np.zeros(len(self), dtype=np.bool_)
            mask[self._scanned(statement, condition.values)] = True
            bits = np.packbits(mask)
        with self._remembering:
            self._matches[condition] = bits
            self._matches.move_to_end(condition)
            if len(self._matches) > _REMEMBERED:
                self._matches.popitem(last=False)
        return np.unpackbits(bits, count=len(self)).astype(np.bool_)

    def _scanned(self, statement: str, values: Sequence[Any]) -> NDArray[np.int64]:
        try:
            positions: NDArray[np.int64] = self._filters.query(
                statement, values, _positions, seconds=self._filter_seconds
            )
        except TooSlowError as error:
            raise InputError(
                f"this filter takes longer than the {self._filter_seconds:g} s that one may take here; ask for less"
            ) from error
        return positions

    def find(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents of those ids that are there."""
        valid = [identifier for identifier in dict.fromkeys(ids) if is_valid_id(identifier)]
        return {document.id: document for document in self._documents(list(self._select(_COLUMNS, "id", valid)))}

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of all those ids, in the order asked.

        Raises:
            InputError: an id is not in the index.
        """
        found = self.find(ids)
        missing = next((identifier for identifier in ids if identifier not in found), None)
        if missing is not None:
            raise InputError(f"there is no document with the id {missing!r} in {self.path.parent}")
        return [found[identifier] for identifier in ids]

    def iterate(self, *, batch_size: int = 1_000) -> Iterator[Document]:
        """All documents by position; a batch at a time, so memory does not grow with the corpus."""
        for start in range(0, len(self), batch_size):
            rows = self._query(
                f"SELECT {_COLUMNS} FROM documents WHERE position >= ? AND position < ? ORDER BY position",  # noqa: S608 (constants)
                (start, start + batch_size),
            )
            yield from self._documents(rows)

    def faults(self) -> list[str]:
        """What is wrong inside the file, by SQLite's own check and by the numbering of positions; empty if nothing."""
        found = [f"{self.path}: {row[0]}" for row in self._query("PRAGMA integrity_check") if row[0] != "ok"]
        ((low, high),) = self._query("SELECT MIN(position), MAX(position) FROM documents")
        if len(self) and (low, high) != (0, len(self) - 1):
            found.append(f"{self.path}: expected positions 0 to {len(self) - 1}, got {low} to {high}")
            return found
        for start in range(0, len(self), _PARAMETERS):
            positions = range(start, min(start + _PARAMETERS, len(self)))
            ids = self.ids_at(positions)
            back = self.positions_of(ids)
            astray = next((place for place, name in zip(positions, ids, strict=True) if back.get(name) != place), None)
            if astray is not None:
                found.append(f"{self.path}: the id of document {astray} does not lead back; build the index again")
        return found

    def _select(self, columns: str, key: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(values), _PARAMETERS):
            part = values[start : start + _PARAMETERS]
            marks = ", ".join("?" * len(part))
            # Only column names of this module and question marks are put into the statement; values are bound.
            # The order costs nothing: it is that in which SQLite looks up the values of a list.
            yield from self._query(f"SELECT {columns} FROM documents WHERE {key} IN ({marks}) ORDER BY {key}", part)  # noqa: S608 (above)

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._look_ups.query(statement, values)
        return rows

    def _refuse_missing(self, positions: Iterable[int], found: Container[int]) -> None:
        missing = next((position for position in positions if position not in found), None)
        if missing is not None:
            raise IndexFormatError(f"{self.path}: there is no document at position {missing}; build the index again")

    def _documents(self, rows: Sequence[tuple[Any, ...]]) -> list[Document]:
        """Documents of rows of all columns; several at once, since a search fetches hundreds."""
        if not rows:
            return []
        ids, titles, texts, metadata = zip(*rows, strict=True)
        try:
            parsed = json.loads(f"[{','.join(metadata)}]")  # one call of the parser takes half the time of many
        except ValueError:
            parsed = []
        if len(parsed) != len(rows):
            parsed = [self._parsed(*row) for row in zip(ids, metadata, strict=True)]
        return list(map(Document, ids, texts, titles, parsed))

    def _parsed(self, identifier: str, metadata: str) -> dict[str, Any]:
        try:
            parsed: dict[str, Any] = json.loads(metadata)
        except ValueError as error:
            raise IndexFormatError(f"{self.path}: the metadata of {identifier!r} is damaged: {error}") from error
        return parsed


def _positions(cursor: sqlite3.Cursor) -> NDArray[np.int64]:
    """One number a row, at 8 bytes each; as tuples, those of ten million documents would take a gigabyte."""
    return np.fromiter((row[0] for row in cursor), dtype=np.int64)


def read_deleted(folder: Path, record: SegmentRecord, check: Check) -> NDArray[np.int64] | None:
    """The positions that are deleted from a segment; ``None`` if none is.

    Raises:
        IndexFormatError: the file is missing or damaged, or its positions are not the segment's.
    """
    if record.deleted is None:
        if record.deleted_count:
            raise IndexFormatError(f"{folder}: {record.vectors.name} has deleted documents and no file that names them")
        return None
    path = check_file(folder, record.deleted, check)
    try:
        positions: NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexFormatError(f"{path} cannot be read: {error}; restore it, or build the index again") from error
    sound = (
        positions.ndim == 1
        and positions.dtype == np.int64
        and len(positions) == record.deleted_count
        and bool(np.all(np.diff(positions) > 0))
        and (not positions.size or (positions[0] >= 0 and positions[-1] < record.count))
    )
    if not sound:
        raise IndexFormatError(
            f"{path}: expected {record.deleted_count} rising positions below {record.count}; restore it, or build the "
            "index again"
        )
    return positions
