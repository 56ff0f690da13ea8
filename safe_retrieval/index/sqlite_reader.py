"""A finished SQLite file, opened so that nothing can change what is read, by one thread at a time."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from safe_retrieval.errors import IndexFormatError

# How much of the file is mapped at most: a hundred documents read page by page take a third longer.
_MAPPED_BYTES = 1 << 31
# Of SQLite's virtual machine: a look at the clock costs less than a hundredth of them.
_STEPS_BETWEEN_LOOKS = 10_000


class TooSlowError(Exception):
    """A statement was stopped; never leaves the package."""


def _open_read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():  # SQLite says only that it cannot open it
        raise IndexFormatError(f"{path} is missing; restore it, or build the index again")
    try:
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    except sqlite3.DatabaseError as error:
        raise IndexFormatError(f"{path} cannot be opened: {error}; restore it, or build the index again") from error


class SqliteReader:
    """A connection to a finished documents file, which one thread uses at a time; the others wait.

    Args:
        path: the file.

    Raises:
        IndexFormatError: it is missing or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = _open_read_only(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def map_file(self) -> None:
        """Read from the file's mapped pages from now on, which count as this process's memory once they were read."""
        self.query(f"PRAGMA mmap_size = {_MAPPED_BYTES}")

    def query(
        self,
        statement: str,
        values: Sequence[Any] = (),
        fetch: Callable[[sqlite3.Cursor], Any] = sqlite3.Cursor.fetchall,
        *,
        seconds: float | None = None,
    ) -> Any:
        """What ``fetch`` makes of the rows: a list of tuples as a rule.

        Raises:
            TooSlowError: it was not done after so many seconds.
        """
        try:
            with self._lock, self._within(seconds), closing(self._connection.execute(statement, values)) as cursor:
                return fetch(cursor)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise TooSlowError from error
            raise self._unreadable(error) from error
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error

    @contextmanager
    def _within(self, seconds: float | None) -> Iterator[None]:
        """Have SQLite ask, every so many steps, whether time is up."""
        if seconds is None:
            yield
            return
        end = time.monotonic() + seconds
        self._connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_LOOKS)
        try:
            yield
        finally:
            self._connection.set_progress_handler(None, 0)

    def _unreadable(self, error: sqlite3.DatabaseError) -> IndexFormatError:
        return IndexFormatError(f"{self._path} cannot be read: {error}; restore it, or build the index again")
