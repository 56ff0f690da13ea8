"""Bad lines that are skipped because somebody asked for that: counted, and written to a file with the reason."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from safe_retrieval.errors import DataError
from safe_retrieval.index.rows import Place
from safe_retrieval.types import Document

REJECTED_NAME = "rejected.jsonl"
"""What the file is called beside an index."""


class SeenIds:
    """Remembers ids on the disk, not in memory."""

    def __init__(self) -> None:
        # An empty name is a database of its own that spills to a temporary file and is gone when it is closed.
        self._ids = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._ids.executescript("PRAGMA journal_mode = OFF; CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")

    def is_new(self, identifier: str) -> bool:
        """Whether an id comes for the first time."""
        return self._ids.execute("INSERT OR IGNORE INTO seen VALUES (?)", (identifier,)).rowcount == 1

    def close(self) -> None:
        """Forget them."""
        self._ids.close()


def each_once(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, up to the first whose id came before: for who takes them in lots, which are unique each by itself.

    Raises:
        DataError: an id comes twice.
    """
    with closing(SeenIds()) as seen:
        for document in documents:
            if not seen.is_new(document.id):
                raise DataError(f"the corpus has the id {document.id!r} twice; ids are unique")
            yield document


class Rejects:
    """Takes the lines of a corpus that make no document, and documents whose id came before.

    Each becomes one line of JSON: ``source`` (the file), ``line`` (or ``row``), ``reason`` and ``content``, the line as
    it was found. The file is begun anew by the first of them; as a context manager, an earlier run's file is removed at
    the end if this one had nothing to reject. Ids are remembered on the disk, not in memory.

    Args:
        path: the file.

    Attributes:
        path: the file.
        count: lines rejected so far.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.count = 0
        self._seen: SeenIds | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seen is not None:
            self._seen.close()
            self._seen = None
        if kind is None and not self.count:
            self.path.unlink(missing_ok=True)

    def add(self, place: Place, reason: str, content: str) -> None:
        """Write one line down.

        Raises:
            DataError: the file cannot be written.
        """
        entry = {"source": str(place.path), place.unit: place.line, "reason": reason, "content": content}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened for each line: there are few, and whoever is killed next has them all on the disk.
            with self.path.open("a" if self.count else "w", encoding="ascii", newline="\n") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error}; make room, and run the same again") from error
        self.count += 1

    def is_new(self, identifier: str) -> bool:
        """Whether an id comes for the first time."""
        if self._seen is None:
            self._seen = SeenIds()
        return self._seen.is_new(identifier)
