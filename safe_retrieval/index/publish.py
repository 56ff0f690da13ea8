"""How an index folder is written: one writer at a time, files aside first, the manifest last.

Builds and changes go the same way. Files are finished in a folder of their own inside the index, moved into the index
under names that hold their hash, so nothing that a reader has open is ever written over, and then the manifest that
names them replaces the old one in one step. What no manifest names any more is removed after that.
"""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from safe_retrieval.errors import IndexFolderError, IndexLockedError
from safe_retrieval.index.manifest import (
    BUILD_FOLDER,
    FORMAT,
    MANIFEST_NAME,
    PARTIAL_MANIFEST,
    FileRecord,
    IndexManifest,
    record_file,
    sync_file,
    sync_folder,
)
from safe_retrieval.index.rejects import REJECTED_NAME

LOCK_NAME = ".lock"
"""The file whose lock whoever changes an index folder holds."""

CHANGE_FOLDER = ".changing"
"""Where the files of an unfinished change lie, inside the index folder."""
_LOG = logging.getLogger(__name__)
_UNFINISHED = {BUILD_FOLDER, CHANGE_FOLDER, PARTIAL_MANIFEST}
_OWN_FILE = re.compile(r"(vectors|documents|originals|deleted)-[0-9a-f]{16}\.(faiss|sqlite|npy)")


@contextmanager
def locked(folder: Path, *, timeout: float = 0.0) -> Iterator[None]:
    """Hold a folder against other writers, in this process and in others; it is made if it is missing.

    Args:
        folder: missing, empty, an index, or an unfinished build.
        timeout: seconds to wait for another writer.

    Raises:
        IndexLockedError: another one is still writing there.
        IndexFolderError: the folder holds something else, or cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        _refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, timeout=timeout)
        lock.acquire()
    except Timeout as error:
        raise IndexLockedError(
            f"another process is building or changing {folder}; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise IndexFolderError(f"{folder} cannot be written: {error}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise IndexFolderError(f"{folder} is a file; expected a folder for the index, new or empty")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    # What is left where a build with --skip-bad was dropped or failed.
    if not names - {LOCK_NAME, REJECTED_NAME} or names & _UNFINISHED or any(map(_OWN_FILE.fullmatch, names)):
        return
    manifest = folder / MANIFEST_NAME
    # A damaged manifest of ours still counts as ours: building again is how it is mended.
    if manifest.is_file() and FORMAT.encode() in manifest.read_bytes():
        return
    raise IndexFolderError(
        f"{folder} holds other files ({', '.join(sorted(names)[:3])}) and no index; choose a new or empty folder"
    )


@contextmanager
def writing(folder: Path, *, mend: str) -> Iterator[None]:
    """Turn what a full or failing disk makes of a write into an error that says how to go on.

    Args:
        folder: the index folder, for the message.
        mend: what to do when there is room again, as it reads after "then".
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise IndexFolderError(
            f"{folder} cannot be written: {error}; make room or mend the disk, then {mend}"
        ) from error


@contextmanager
def emptied(aside: Path) -> Iterator[Path]:
    """An empty folder for files that are not finished, gone afterwards."""
    shutil.rmtree(aside, ignore_errors=True)  # a killed process may have left one
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def place(path: Path, folder: Path, *, keep: bool = False) -> FileRecord:
    """Put a finished file into the index folder, under a name that no file with other bytes has.

    Args:
        path: the file; its bytes reach the disk first.
        folder: the index folder.
        keep: leave it where it is as well, where the disk has hard links: what comes after may fail, and be done again.
    """
    sync_file(path)
    record = record_file(path)
    named = replace(record, name=f"{path.stem}-{record.sha256[:16]}{path.suffix}")
    (_linked(path) if keep else path).replace(folder / named.name)
    return named


def _linked(path: Path) -> Path:
    """A second name of a file beside it; the file itself where the disk has no hard links."""
    second = path.with_name(f"{path.name}.second")
    second.unlink(missing_ok=True)  # a killed process may have left one
    try:
        second.hardlink_to(path)
    except OSError:
        return path
    return second


def publish(manifest: IndexManifest, folder: Path) -> None:
    """Make the files that a manifest names the index, and remove those that it does not name.

    Once the manifest is in its place the state is the new one, for this process and for every reader. A disk that fails
    after that is a warning, not an error: an error would say that nothing was changed.

    Raises:
        OSError: the disk is full or failing; the index is as it was before.
    """
    sync_folder(folder)  # names first: the manifest must never speak of a file that a power cut took
    try:
        manifest.write(folder)
    except OSError as error:
        if not _is_in_place(manifest, folder):
            raise
        # The files of the state before stay, since a power cut may bring its manifest back.
        _LOG.warning(
            "%s is changed, but the disk did not confirm it (%s): after a power cut the state before may be back; "
            "look after the disk",
            folder,
            error,
        )
        return
    _remove_unnamed(manifest, folder)


def _is_in_place(manifest: IndexManifest, folder: Path) -> bool:
    with suppress(OSError):
        return (folder / MANIFEST_NAME).read_bytes() == manifest.to_json().encode()
    return False


def _remove_unnamed(manifest: IndexManifest, folder: Path) -> None:
    """Remove what no manifest names; the next writer removes what could not be.

    On Windows that is what a reader has open; elsewhere a failing disk.
    """
    current = {record.name for record in manifest.files()}
    with suppress(OSError):
        for path in folder.iterdir():
            if _OWN_FILE.fullmatch(path.name) and path.name not in current:
                with suppress(OSError):
                    path.unlink()
