"""One writer at a time: two runs in one folder would overwrite each other's work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safe_retrieval.errors import TrainingError


@contextmanager
def only_writer(path: Path, of: str) -> Iterator[None]:
    """Hold the lock file ``path``; the system lets go of it even if the process is killed.

    Raises:
        TrainingError: another process holds it; the message says that it writes ``of``.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(f"another process is writing {of}; wait for it, or give another folder") from error
    try:
        yield
    finally:
        lock.release()
