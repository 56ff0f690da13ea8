"""Index folders: open one, make an empty one, look for faults in one.

::

    index = load_index("my-index")
    index.check_encoder(encoder)
    hits = index.search(encoder.encode_queries(["who wrote the Iliad?"]), k=10)
    documents = index.get_documents([hit.id for hit in hits[0]])

    index.upsert([document], encoder.encode_documents([document.content]))
    index.delete(["some-id"])
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from safe_retrieval.errors import IndexFolderError, IndexFormatError
from safe_retrieval.index.builder import encoder_record, library_versions
from safe_retrieval.index.manifest import (
    MANIFEST_NAME,
    BuildRecord,
    Check,
    FileRecord,
    IndexManifest,
    check_file,
    read_manifest,
)
from safe_retrieval.index.publish import locked, publish, writing
from safe_retrieval.index.searchable import LOCK_SECONDS, SearchableIndex
from safe_retrieval.index.segments import Opening
from safe_retrieval.index.snapshots import ATTEMPTS, Snapshot, being_changed
from safe_retrieval.types import Encoder

__all__ = ["SearchableIndex", "create_index", "load_index", "verify_index"]


def load_index(
    path: str | Path,
    *,
    verify: bool = True,
    memory_map: bool = True,
    read_only: bool = False,
    lock_seconds: float = LOCK_SECONDS,
    filter_seconds: float | None = None,
) -> SearchableIndex:
    """Open an index folder.

    Args:
        path: the folder.
        verify: compare a hash of each file with the manifest before it is read. Without it only sizes, versions and
            counts are compared: for files so large, or on so slow a disk, that reading them once takes too long.
        memory_map: leave vectors in the file, whose pages are read when a search comes to them. ``False`` reads them
            into memory at once, for files on a slow or failing network disk; documents stay in theirs.
        read_only: refuse changes through this object.
        lock_seconds: how long a change waits for another process that writes the index.
        filter_seconds: most that a filter may take in each segment, where strangers write filters; a search with one
            that takes longer is an :class:`InputError`. ``None`` sets no limit.

    Raises:
        IndexFolderError: there is no index.
        IndexFormatError: a file is missing, truncated, altered or of an unknown version; the message names it.
        IndexLockedError: others change the index so often that it cannot be opened in between.
    """
    folder = Path(path)
    opening = Opening(verify, memory_map, filter_seconds)
    snapshot = Snapshot.open_newest(folder, opening)
    return SearchableIndex(folder, snapshot, opening=opening, read_only=read_only, lock_seconds=lock_seconds)


def create_index(path: str | Path, encoder: Encoder) -> SearchableIndex:
    """Make an index without documents, to be filled by :meth:`SearchableIndex.add`, and open it.

    Args:
        path: the folder: missing or empty.
        encoder: who makes the vectors that will be added; nothing is encoded here.

    Raises:
        IndexFolderError: there is an index already, or the folder holds something else.
        IndexLockedError: another process is writing there.
    """
    folder = Path(path)
    started = time.monotonic()
    with locked(folder), writing(folder, mend="try again"):
        if (folder / MANIFEST_NAME).exists():
            raise IndexFolderError(f"there is an index at {folder} already; open it with load_index")
        build = BuildRecord(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 3),
            shards=0,
            reused_shards=0,
            shard_size=0,
            versions=library_versions(),
        )
        publish(IndexManifest(encoder_record(encoder), encoder.dimension, 0, (), build), folder)
    return load_index(folder)


def verify_index(path: str | Path) -> list[str]:
    """Look for faults everywhere in an index folder: sizes, hashes, numbering, every vector.

    Returns:
        One sentence for each fault, which names the file; empty if the index is sound.

    Raises:
        IndexFolderError: there is no index.
        IndexLockedError: others change the index so often that it cannot be opened in between.
    """
    folder = Path(path)
    sound: set[FileRecord] = set()
    for _ in range(ATTEMPTS):
        faults: list[str] | None
        try:
            manifest = read_manifest(folder)
            damaged = _damaged(folder, manifest, sound)
            if damaged:  # FAISS and SQLite are not let near such files
                # A writer removes the files of the state before; what was missed then is no fault of the newest one.
                faults = [damaged[record] for record in read_manifest(folder).files() if record in damaged] or None
            else:
                faults = _faults(folder, manifest)
        except IndexFormatError as error:
            return [str(error)]
        if faults is not None:
            return faults
    raise being_changed(folder)


def _damaged(folder: Path, manifest: IndexManifest, sound: set[FileRecord]) -> dict[FileRecord, str]:
    """The files that are not as a manifest says, and why; those that are join ``sound``, and are not read again."""
    damaged = {}
    for record in manifest.files():
        try:
            if record not in sound:
                check_file(folder, record, Check.FULL)
                sound.add(record)
        except IndexFormatError as error:
            damaged[record] = str(error)
    return damaged


def _faults(folder: Path, manifest: IndexManifest) -> list[str] | None:
    """What is wrong inside files whose hashes are right; ``None`` if a writer removed one before it was opened."""
    try:
        return Snapshot.open(folder, manifest, Opening(verify=False)).faults()
    except IndexFormatError as error:
        return [str(error)] if read_manifest(folder) == manifest else None
