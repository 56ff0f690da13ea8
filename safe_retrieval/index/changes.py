"""Change an index folder: what is added comes in new segments, what is deleted is named in new files of positions.

No file is ever changed, so a change costs what it brings, not what is there: adding to a million documents writes the
new ones, deleting writes the deleted positions. A change becomes visible by the one step that replaces the manifest;
until then it is nothing, and whatever a killed process left behind is removed by the next writer.

A thousand small additions do not make a thousand segments: as in other log-structured stores, an addition writes the
last segments again together with its own documents, as long as they are less than twice as many. So the number of
segments grows logarithmically, and so does the number of times that a document is written again. Segments above
:data:`LARGEST_MERGE` documents are left to :func:`compacted`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.index.documents import DocumentWriter
from safe_retrieval.index.faiss_index import write_faiss
from safe_retrieval.index.manifest import IndexManifest, SegmentRecord
from safe_retrieval.index.publish import place, publish, writing
from safe_retrieval.index.segments import Block, Segment, Snapshot
from safe_retrieval.types import FloatMatrix

CHANGE_FOLDER = ".changing"
"""Where the files of an unfinished change lie, inside the index folder."""

LARGEST_MERGE = 65_536
"""Documents of a segment that an addition may still write again: some 100 MB at 384 dimensions, about a second."""

_MEND = "make the same change again; the index is as it was before"


def changed(
    folder: Path, snapshot: Snapshot, *, dead: NDArray[np.int64] | None = None, added: Block | None = None
) -> IndexManifest:
    """Delete positions and append documents, as one step. The folder's lock must be held.

    Args:
        folder: the index folder.
        snapshot: its newest state.
        dead: (m,) positions to delete; not deleted already.
        added: documents with ids that are not in the index, apart from the deleted ones, and their checked vectors.

    Raises:
        DataError: a document cannot be stored; nothing is changed then.
        IndexFolderError: the folder cannot be written; nothing is changed then.
    """
    segments = [segment for segment in _without(snapshot, dead) if segment.record.live]
    extra = [] if added is None else [added]
    kept = _first_merged(segments, sum(len(block.documents) for block in extra))
    return _published(folder, snapshot, segments[:kept], segments[kept:], extra)


def compacted(folder: Path, snapshot: Snapshot) -> IndexManifest:
    """Write everything that is not deleted into one segment. The folder's lock must be held.

    Raises:
        IndexFolderError: the folder cannot be written; nothing is changed then.
    """
    segments = list(snapshot.segments)
    if len(segments) < 2 and all(segment.live is None for segment in segments):
        return snapshot.manifest
    return _published(folder, snapshot, [], segments, [])


def _without(snapshot: Snapshot, dead: NDArray[np.int64] | None) -> list[Segment]:
    """The segments of a snapshot with more deletions; those that are new have no file yet."""
    segments = list(snapshot.segments)
    if dead is None:
        return segments
    for number, _, local in snapshot.located(dead):
        segment = segments[number]
        deleted = np.union1d(segment.deleted, local)
        record = replace(segment.record, deleted=None, deleted_count=len(deleted))
        segments[number] = Segment(record, segment.vectors, segment.documents, deleted)
    return segments


def _first_merged(segments: Sequence[Segment], added: int) -> int:
    """Number of the first of the last segments that are written again together with what is added."""
    first, size = len(segments), added
    while first and 0 < segments[first - 1].record.live < min(2 * size, LARGEST_MERGE):
        first -= 1
        size += segments[first].record.live
    return first


def _published(
    folder: Path, snapshot: Snapshot, kept: Sequence[Segment], merged: Sequence[Segment], added: Sequence[Block]
) -> IndexManifest:
    """Write what has no file yet, and make it the index."""
    with writing(folder, mend=_MEND), _aside(folder) as aside:
        records = [_with_deletions_on_disk(segment, aside, folder) for segment in kept]
        if added or any(segment.record.live for segment in merged):
            blocks = chain.from_iterable([*(segment.blocks() for segment in merged), added])
            records.append(write_segment(aside, folder, snapshot.manifest.dimension, blocks))
        count = sum(record.live for record in records)
        manifest = replace(snapshot.manifest, count=count, segments=tuple(records))
        publish(manifest, folder)
    return manifest


def _with_deletions_on_disk(segment: Segment, aside: Path, folder: Path) -> SegmentRecord:
    record = segment.record
    if record.deleted is not None or not record.deleted_count:
        return record
    path = aside / "deleted.npy"
    np.save(path, segment.deleted, allow_pickle=False)
    return replace(record, deleted=place(path, folder))


def write_segment(aside: Path, folder: Path, dimension: int, blocks: Iterable[Block]) -> SegmentRecord:
    """Write a segment's files and move them into the index folder; no manifest speaks of them yet.

    Args:
        aside: a folder in ``folder``, where half-written files may lie.
        folder: the index folder.
        dimension: length of a vector.
        blocks: documents and checked vectors, in the order of their positions; at least one document.

    Raises:
        DataError: a document cannot be stored.
        OSError: the disk is full or failing.
    """
    vectors_path, documents_path = aside / "vectors.faiss", aside / "documents.sqlite"
    with DocumentWriter(documents_path) as documents:
        write_faiss(vectors_path, dimension, _stored(documents, blocks))
        count = len(documents)
    return SegmentRecord(count=count, vectors=place(vectors_path, folder), documents=place(documents_path, folder))


def _stored(writer: DocumentWriter, blocks: Iterable[Block]) -> Iterator[FloatMatrix]:
    """Store the documents of blocks as they pass, and hand on their vectors: neither is ever in memory as a whole."""
    for documents, vectors in blocks:
        writer.append(documents)
        yield vectors


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """An empty folder for files that are not finished, gone afterwards."""
    aside = folder / CHANGE_FOLDER
    shutil.rmtree(aside, ignore_errors=True)  # a killed process may have left one
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
