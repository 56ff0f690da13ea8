"""Segments opened for asking, and the snapshot: the segments of one manifest, searched as one index.

Files of a segment never change, and a snapshot never changes either. Whoever changes an index makes new files and a new
snapshot; a search that is under way goes on in the one that it began with. Files are closed when the last snapshot that
holds them is gone.

A *position* is a place in the sequence of all segments, deleted documents counted: it orders equal scores by the time
of writing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFormatError, IndexLockedError, InputError
from safe_retrieval.index.approximate import ApproximateIndex
from safe_retrieval.index.base import VectorIndex
from safe_retrieval.index.documents import DocumentStore, read_deleted
from safe_retrieval.index.factories import parse_factory
from safe_retrieval.index.faiss_index import FaissIndex
from safe_retrieval.index.filters import Condition
from safe_retrieval.index.manifest import IndexManifest, SegmentRecord, check_file, read_manifest
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.index.vectors import Ranking, Selection, check_k, check_vectors, ordered
from safe_retrieval.types import Document, FloatMatrix, FloatVector, Hit

ATTEMPTS = 50
"""How often a reader looks again: a writer replaces the manifest and then removes the files of the old one, so whoever
read the old manifest just before finds its files gone."""
_BLOCK_ROWS = 16_384
_BLOCK_DOCUMENTS = 512


class Opening(NamedTuple):
    """How files are opened.

    Attributes:
        verify: compare their hashes with the manifest first.
        memory_map: leave vectors in the file and page them in as they are asked for.
    """

    verify: bool = True
    memory_map: bool = True


USUAL_OPENING = Opening()
"""Hashes compared, vectors left in the file."""


class Block(NamedTuple):
    """Some documents and their vectors, (n, d) float32, row by row."""

    documents: list[Document]
    vectors: FloatMatrix


class Found(NamedTuple):
    """A hit with its document; the score is the cosine."""

    document: Document
    score: float


class Located(NamedTuple):
    """Those of some positions that are in one segment.

    Attributes:
        number: of the segment.
        places: (m,) where they are among the positions asked for.
        local: (m,) the same positions, counted from the segment's start.
    """

    number: int
    places: NDArray[np.int64]
    local: NDArray[np.int64]


class Segment:
    """One segment, opened.

    Attributes:
        record: what the manifest says of it.
        vectors: its FAISS index.
        documents: its documents.
        live: (count,) bool, false where a document is deleted; ``None`` if none is.
    """

    def __init__(
        self,
        record: SegmentRecord,
        vectors: VectorIndex,
        documents: DocumentStore,
        deleted: NDArray[np.int64] | None = None,
    ) -> None:
        self.record = record
        self.vectors = vectors
        self.documents = documents
        self.live: NDArray[np.bool_] | None = None
        if deleted is not None:
            self.live = np.ones(record.count, dtype=np.bool_)
            self.live[deleted] = False
        self._selection = None if self.live is None else Selection(self.live)

    @classmethod
    def open(cls, folder: Path, record: SegmentRecord, manifest: IndexManifest, opening: Opening) -> Segment:
        """Open the files of a segment of the index that a manifest describes.

        Raises:
            IndexFormatError: a file is missing, damaged, or does not belong to the others.
        """
        vectors_path = check_file(folder, record.vectors, hashes=opening.verify)
        documents_path = check_file(folder, record.documents, hashes=opening.verify)
        with ExitStack() as on_failure:
            documents = on_failure.enter_context(DocumentStore(documents_path))
            if len(documents) != record.count:
                raise IndexFormatError(f"{documents_path}: expected {record.count} documents, got {len(documents)}")
            vectors = _read_vectors(folder, record, documents, _settings(manifest, record), opening)
            if vectors.dimension != manifest.dimension:
                raise IndexFormatError(
                    f"{vectors_path}: expected vectors of length {manifest.dimension}, got {vectors.dimension}"
                )
            segment = cls(record, vectors, documents, read_deleted(folder, record, verify=opening.verify))
            on_failure.pop_all()
        return segment

    def with_deletions(self, folder: Path, record: SegmentRecord, *, verify: bool) -> Segment:
        """The same files with other deletions; they are not opened again.

        Raises:
            IndexFormatError: the file of deletions is missing or damaged; its hash is compared if asked to ``verify``.
        """
        return Segment(record, self.vectors, self.documents, read_deleted(folder, record, verify=verify))

    @property
    def deleted(self) -> NDArray[np.int64]:
        """(m,) positions of deleted documents inside the segment, rising."""
        return np.empty(0, np.int64) if self.live is None else np.flatnonzero(~self.live)

    def rankings(self, queries: FloatMatrix, k: int, condition: Condition | None) -> list[Ranking]:
        """The best positions inside the segment for each of some checked queries; deleted ones are not found."""
        return self.vectors.nearest(queries, k, self._selected(condition))

    def above(self, query: FloatVector, least: float, condition: Condition | None) -> Ranking:
        """All positions inside the segment that score at least ``least``; deleted ones are not found."""
        return self.vectors.above(query, least, within=self._selected(condition))

    def matching(self, condition: Condition | None) -> NDArray[np.int64]:
        """(m,) positions inside the segment, rising, that are not deleted and fulfil the condition."""
        selected = self._selected(condition)
        return np.arange(self.record.count) if selected is None else np.flatnonzero(selected.mask)

    def _selected(self, condition: Condition | None) -> Selection | None:
        """What may be found: everything that is not deleted and fulfils the condition."""
        if condition is None:
            return self._selection
        matching = self.documents.matching(condition)
        return Selection(matching if self.live is None else matching & self.live)

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The positions, inside the segment, of those ids that are there and not deleted."""
        found = self.documents.positions_of(ids)
        if self.live is None:
            return found
        return {identifier: position for identifier, position in found.items() if self.live[position]}

    def blocks(self) -> Iterator[Block]:
        """The documents that are not deleted and their vectors, by position, some hundred at a time."""
        for positions in self._live_positions(_BLOCK_DOCUMENTS):
            yield Block(self.documents.at(positions.tolist()), self.vectors.vectors_at(positions))

    def document_blocks(self) -> Iterator[list[Document]]:
        """The documents that are not deleted, by position, some hundred at a time."""
        for positions in self._live_positions(_BLOCK_DOCUMENTS):
            yield self.documents.at(positions.tolist())

    def vector_blocks(self) -> Iterator[FloatMatrix]:
        """Their vectors, (n, d) float32 each."""
        for positions in self._live_positions(_BLOCK_ROWS):
            yield self.vectors.vectors_at(positions)

    def _live_positions(self, size: int) -> Iterator[NDArray[np.int64]]:
        for start in range(0, self.record.count, size):
            positions = np.arange(start, min(start + size, self.record.count))
            chosen = positions if self.live is None else positions[self.live[positions]]
            if chosen.size:
                yield chosen

    def faults(self) -> list[str]:
        """What is wrong with a numbering or with a vector, one sentence each; reads everything."""
        path = self.documents.path.parent / self.record.vectors.name
        astray = [f"{path}: {fault}" for fault in self.vectors.faults()]
        found = self.documents.faults() + astray
        if astray:
            return found  # FAISS would give other vectors than those asked for, or none
        for start in range(0, self.record.count, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, self.record.count)
            try:
                check_vectors(self.vectors.vectors_between(start, stop), self.vectors.dimension)
            except (InputError, RuntimeError) as error:  # RuntimeError is FAISS's own, for what it cannot find
                found.append(f"{path}: among the vectors {start} to {stop - 1}: {error}; build the index again")
        return found


def _settings(manifest: IndexManifest, record: SegmentRecord) -> SearchSettings | None:
    """How a segment is searched, as far as the manifest says; ``None`` leaves it to its kind."""
    return manifest.search if record.factory == manifest.factory else None


_Files = tuple[SegmentRecord, SearchSettings | None]
"""What a segment was opened from, deletions apart: those may change without opening it again."""


def _files(manifest: IndexManifest, record: SegmentRecord) -> _Files:
    return replace(record, deleted=None, deleted_count=0), _settings(manifest, record)


def _read_vectors(
    folder: Path, record: SegmentRecord, documents: DocumentStore, settings: SearchSettings | None, opening: Opening
) -> VectorIndex:
    path = folder / record.vectors.name
    try:
        factory = parse_factory(record.factory)
    except InputError as error:
        raise IndexFormatError(f"{path}: {error}; open it with the version of safe-retrieval that wrote it") from error
    if factory.exact:
        return FaissIndex.read(path, ids=documents, memory_map=opening.memory_map)
    originals = None if record.originals is None else check_file(folder, record.originals, hashes=opening.verify)
    if factory.lossy and originals is None:
        raise IndexFormatError(f"{path}: expected a file of vectors for exact scores beside it; build the index again")
    return ApproximateIndex.read(
        path, factory, ids=documents, originals=originals, settings=settings, memory_map=opening.memory_map
    )


def being_changed(folder: Path) -> IndexLockedError:
    """What a reader says that writers left no time to read anything."""
    return IndexLockedError(
        f"{folder} is being changed: looked at {ATTEMPTS} times, it was another one each time before it could be "
        "read; try again when its writers pause"
    )


class Snapshot:
    """The segments of one manifest.

    Attributes:
        manifest: the manifest.
        segments: one for each of its segments.
    """

    def __init__(self, manifest: IndexManifest, segments: Sequence[Segment]) -> None:
        self.manifest = manifest
        self.segments = tuple(segments)
        counts = [segment.record.count for segment in self.segments]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

    @classmethod
    def open(
        cls, folder: Path, manifest: IndexManifest, opening: Opening, *, before: Snapshot | None = None
    ) -> Snapshot:
        """Open what a manifest names; segments that ``before`` has open already are taken from there.

        Raises:
            IndexFormatError: a file is missing, damaged, or does not belong to the others.
        """
        known = {} if before is None else before._opened()
        with ExitStack() as on_failure:
            snapshot = cls._of(folder, manifest, opening, known, on_failure)
            on_failure.pop_all()
        return snapshot

    @classmethod
    def open_newest(cls, folder: Path, opening: Opening, *, before: Snapshot | None = None) -> Snapshot:
        """Open the state that a folder is in now; ``before`` itself comes back, if that is it.

        What was opened before a writer got in the way is kept, so a large segment is hashed once.

        Raises:
            IndexFolderError: there is no index.
            IndexFormatError: a file is missing, damaged, or does not belong to the others.
            IndexLockedError: others changed the index every time that this was about to be done.
        """
        known = {} if before is None else before._opened()
        with ExitStack() as on_failure:
            for _ in range(ATTEMPTS):
                manifest = read_manifest(folder)
                if before is not None and before.manifest == manifest:
                    return before
                try:
                    snapshot = cls._of(folder, manifest, opening, known, on_failure)
                except IndexFormatError:
                    if read_manifest(folder) == manifest:
                        raise
                else:
                    on_failure.pop_all()  # what the snapshot has no use for closes itself
                    return snapshot
            raise being_changed(folder)

    @classmethod
    def _of(
        cls,
        folder: Path,
        manifest: IndexManifest,
        opening: Opening,
        known: dict[_Files, Segment],
        on_failure: ExitStack,
    ) -> Snapshot:
        """Open what a manifest names and ``known`` has not, which has it from then on."""
        segments: list[Segment] = []
        for record in manifest.segments:
            files = _files(manifest, record)
            if files not in known:
                known[files] = Segment.open(folder, record, manifest, opening)
                on_failure.callback(known[files].documents.close)
            elif known[files].record != record:
                known[files] = known[files].with_deletions(folder, record, verify=opening.verify)
            segments.append(known[files])
        return cls(manifest, segments)

    def _opened(self) -> dict[_Files, Segment]:
        return {_files(self.manifest, segment.record): segment for segment in self.segments}

    def rankings(self, vectors: FloatMatrix, k: int, condition: Condition | None = None) -> list[Ranking]:
        """The best positions for each query over all segments, ties by position; only those that fulfil a condition.

        Raises:
            InputError: vectors of another shape or type, not finite or not of unit norm, or ``k`` below 1.
        """
        queries = check_vectors(vectors, self.manifest.dimension, what="query vector")
        check_k(k)
        parts = [segment.rankings(queries, k, condition) for segment in self.segments]
        if len(parts) == 1:
            return parts[0]
        return [self._merged([part[row] for part in parts], k) for row in range(len(queries))]

    def above(self, vectors: FloatMatrix, least: float, condition: Condition | None = None) -> list[Ranking]:
        """All positions that score at least ``least``, for each query, ranked as by :meth:`rankings`.

        Raises:
            InputError: vectors of another shape or type, not finite or not of unit norm.
        """
        queries = check_vectors(vectors, self.manifest.dimension, what="query vector")
        total = sum(segment.record.count for segment in self.segments)
        return [
            self._merged([segment.above(query, least, condition) for segment in self.segments], total)
            for query in queries
        ]

    def _merged(self, rankings: Sequence[Ranking], k: int) -> Ranking:
        """One ranking of those of all segments, whose positions count from the segment's start."""
        if not rankings:
            return Ranking(np.empty(0, np.int64), np.empty(0, np.float32))
        moved = [ranking.positions + start for ranking, start in zip(rankings, self._starts[:-1], strict=True)]
        return ordered(np.concatenate(moved), np.concatenate([ranking.scores for ranking in rankings]), k)

    def matching(self, condition: Condition | None) -> NDArray[np.int64]:
        """(m,) positions, rising, that are not deleted and fulfil a condition."""
        parts = [
            segment.matching(condition) + start for segment, start in zip(self.segments, self._starts[:-1], strict=True)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def hits(self, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        """Rankings with ids in place of positions."""
        if not rankings:
            return []
        ids = iter(self.ids_at(np.concatenate([ranking.positions for ranking in rankings])))
        return [[Hit(next(ids), float(score)) for score in ranking.scores] for ranking in rankings]

    def found(self, rankings: Sequence[Ranking]) -> list[list[Found]]:
        """Rankings with documents in place of positions, each of which is read once."""
        if not rankings:
            return []
        wanted = np.unique(np.concatenate([ranking.positions for ranking in rankings]))
        documents: dict[int, Document] = {}
        for number, places, local in self.located(wanted):
            there = self.segments[number].documents.at(local.tolist())
            documents.update(zip(wanted[places].tolist(), there, strict=True))
        return [
            list(map(Found, map(documents.__getitem__, ranking.positions.tolist()), ranking.scores.tolist()))
            for ranking in rankings
        ]

    def ids_at(self, positions: NDArray[np.int64]) -> list[str]:
        """The ids at (n,) positions, in the order asked."""
        ids: list[str] = [""] * len(positions)
        for number, places, local in self.located(positions):
            segment = self.segments[number]
            for place, identifier in zip(places, segment.documents.ids_at(local.tolist()), strict=True):
                ids[place] = identifier
        return ids

    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (n,) positions; (n, d) float32."""
        vectors = np.empty((len(positions), self.manifest.dimension), dtype=np.float32)
        for number, places, local in self.located(positions):
            vectors[places] = self.segments[number].vectors.vectors_at(local)
        return vectors

    def located(self, positions: NDArray[np.int64]) -> Iterator[Located]:
        """Which segments (n,) positions are in, one :class:`Located` for each segment that has any."""
        owners = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(owners):
            places = np.flatnonzero(owners == number)
            yield Located(int(number), places, positions[places] - self._starts[number])

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The positions of those ids that are there and not deleted."""
        found: dict[str, int] = {}
        for segment, start in zip(self.segments, self._starts[:-1], strict=True):
            for identifier, position in segment.positions_of(ids).items():
                found[identifier] = int(start) + position
        return found

    def find(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents of those ids that are there and not deleted."""
        found: dict[str, Document] = {}
        for segment in self.segments:
            found.update(segment.documents.find(list(segment.positions_of(ids))))
        return found

    def documents(self) -> Iterator[Document]:
        """All documents that are not deleted, by position, streamed."""
        for segment in self.segments:
            for block in segment.document_blocks():
                yield from block

    def blocks(self) -> Iterator[Block]:
        """All documents that are not deleted and their vectors, by position, some hundred at a time."""
        for segment in self.segments:
            yield from segment.blocks()

    def faults(self) -> list[str]:
        """What is wrong inside the files, and ids that are in two segments, one sentence each; reads everything."""
        found = [fault for segment in self.segments for fault in segment.faults()]
        if len(self.segments) < 2:
            return found  # the documents file itself keeps ids unique
        seen: set[str] = set()
        for document in self.documents():
            if document.id in seen:
                found.append(f"the id {document.id!r} is in two segments; build the index again")
            seen.add(document.id)
        return found
