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

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from safe_retrieval.index.advisor import advise
from safe_retrieval.index.documents import DocumentWriter
from safe_retrieval.index.factories import AUTO, FLAT, Factory, parse_factory
from safe_retrieval.index.manifest import IndexManifest, SegmentRecord
from safe_retrieval.index.publish import CHANGE_FOLDER, emptied, place, publish, writing
from safe_retrieval.index.segments import Block, Segment
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.index.snapshots import Snapshot
from safe_retrieval.index.vector_files import check_memory, write_vectors
from safe_retrieval.types import Document, FloatMatrix

LARGEST_MERGE = 65_536
"""Documents of a segment that an addition may still write again: some 100 MB at 384 dimensions, about a second."""

_MEND = "make the same change again; the index is as it was before"


def changed(folder: Path, snapshot: Snapshot, *, dead: Sequence[int] = (), added: Block | None = None) -> IndexManifest:
    """Delete positions and append documents, as one step. The folder's lock must be held.

    Args:
        folder: the index folder.
        snapshot: its newest state.
        dead: positions to delete, rising; not deleted already.
        added: documents with ids that are not in the index, apart from the deleted ones, and their checked vectors.

    Raises:
        DataError: a document cannot be stored; nothing is changed then.
        IndexFolderError: the folder cannot be written; nothing is changed then.
    """
    segments = [segment for segment in _without(snapshot, dead) if segment.record.live]
    extra = [] if added is None else [added]
    kept = _first_merged(segments, sum(len(block.documents) for block in extra))
    return _published(folder, snapshot, segments[:kept], _Source(segments[kept:], extra), FLAT)


def compacted(
    folder: Path, snapshot: Snapshot, factory: str | None = None, *, memory: int | None = None
) -> IndexManifest:
    """Write everything that is not deleted into one segment. The folder's lock must be held.

    Args:
        folder: the index folder.
        snapshot: its newest state.
        factory: the kind of index to make, or ``auto``, which takes deletions in the index as a sign that there will be
            more; ``None`` keeps the index's own.
        memory: bytes that vectors may take, as for :func:`~safe_retrieval.index.builder.build_index`.

    Raises:
        InputError: the factory is unknown, there are too few vectors to train it on, or it cannot be made within the
            memory.
        IndexFolderError: the folder cannot be written; nothing is changed then.
    """
    own, segments = snapshot.manifest, list(snapshot.segments)
    name = own.factory if factory is None else factory
    if name == AUTO:
        deletes = any(segment.record.deleted_count for segment in segments)
        name = advise(max(1, own.count), own.dimension, memory=memory, deletes=deletes).factory.name
    parsed = parse_factory(name)
    if own.count:
        parsed.check_count(own.count)
        check_memory(parsed, own.dimension, own.count, memory)
    whole = len(segments) < 2 and all(segment.live is None and segment.documents.full_text for segment in segments)
    if whole and name == own.factory and all(segment.record.factory == name for segment in segments):
        return own
    return _published(folder, _with_factory(snapshot, name), [], _Source(segments, []), name, memory=memory)


def _with_factory(snapshot: Snapshot, name: str) -> Snapshot:
    """The same state, for a manifest that names another kind of index from here on."""
    search = snapshot.manifest.search if snapshot.manifest.factory == name else None  # they belong to the kind
    return Snapshot(replace(snapshot.manifest, factory=name, search=search), snapshot.segments)


def with_search(folder: Path, snapshot: Snapshot, settings: SearchSettings) -> IndexManifest:
    """Write down how the index is searched. The folder's lock must be held.

    Raises:
        InputError: the index's kind cannot be searched with such settings.
        IndexFolderError: the folder cannot be written; nothing is changed then.
    """
    settings.check(parse_factory(snapshot.manifest.factory))
    manifest = replace(snapshot.manifest, search=settings)
    with writing(folder, mend=_MEND):
        publish(manifest, folder)
    return manifest


def _without(snapshot: Snapshot, dead: Sequence[int]) -> list[Segment]:
    """The segments of a snapshot with more deletions; those that are new have no file yet."""
    segments = list(snapshot.segments)
    if not dead:
        return segments
    for number, _, local in snapshot.located(np.asarray(dead, dtype=np.int64)):
        segment = segments[number]
        deleted = np.union1d(segment.deleted, local)
        record = replace(segment.record, deleted=None, deleted_count=len(deleted))
        segments[number] = Segment(record, segment.vectors, segment.documents, deleted)
    return segments


def _first_merged(segments: Sequence[Segment], added: int) -> int:
    """Number of the first of the last segments that are written again together with what is added."""
    first, size = len(segments), added
    while first and size:
        record = segments[first - 1].record
        if record.factory != FLAT or record.live >= min(2 * size, LARGEST_MERGE):
            break
        first -= 1
        size += record.live
    return first


def _published(
    folder: Path,
    snapshot: Snapshot,
    kept: Sequence[Segment],
    source: _Source,
    factory: str,
    *,
    memory: int | None = None,
) -> IndexManifest:
    """Write what has no file yet, the source as one segment of a kind, and make it the index."""
    with writing(folder, mend=_MEND), emptied(folder / CHANGE_FOLDER) as aside:
        records = [_with_deletions_on_disk(segment, aside, folder) for segment in kept]
        if source.count:
            dimension = snapshot.manifest.dimension
            records.append(write_segment(aside, folder, parse_factory(factory), dimension, source, memory=memory))
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


class _Source:
    """What a new segment is made of; neither documents nor vectors are ever in memory as a whole."""

    def __init__(self, merged: Sequence[Segment], added: Sequence[Block]) -> None:
        self._merged = merged
        self._added = added
        live = sum(segment.record.live for segment in merged)
        self.count = live + sum(len(block.documents) for block in added)

    def documents(self) -> Iterator[list[Document]]:
        """The documents by position, some hundred at a time."""
        for segment in self._merged:
            yield from segment.document_blocks()
        yield from (block.documents for block in self._added)

    def vectors(self) -> Iterator[FloatMatrix]:
        """Their vectors, (n, d) float32 each."""
        for segment in self._merged:
            yield from segment.vector_blocks()
        yield from (block.vectors for block in self._added)


def write_segment(
    aside: Path, folder: Path, factory: Factory, dimension: int, source: _Source, *, memory: int | None = None
) -> SegmentRecord:
    """Write a segment's files and move them into the index folder; no manifest speaks of them yet.

    Raises:
        DataError: a document cannot be stored.
        InputError: such a segment cannot be made within the memory.
        OSError: the disk is full or failing.
    """
    documents_path = aside / "documents.sqlite"
    with DocumentWriter(documents_path) as writer:
        for documents in source.documents():
            writer.append(documents)
    files = write_vectors(aside, factory, dimension, source.count, source.vectors, memory=memory)
    return SegmentRecord(
        count=source.count,
        vectors=place(files.vectors, folder),
        documents=place(documents_path, folder),
        factory=factory.name,
        originals=None if files.originals is None else place(files.originals, folder),
    )
