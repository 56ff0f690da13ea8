"""One segment of an index, opened for asking: vectors, documents, and which of them are deleted.

Files of a segment never change; what is deleted from it stands in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFormatError, InputError
from safe_retrieval.index.approximate import ApproximateIndex
from safe_retrieval.index.base import VectorIndex
from safe_retrieval.index.conditions import Condition
from safe_retrieval.index.documents import DocumentStore, read_deleted
from safe_retrieval.index.factories import parse_factory
from safe_retrieval.index.faiss_index import FaissIndex
from safe_retrieval.index.manifest import Check, IndexManifest, SegmentRecord, check_file
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.index.vectors import Ranking, Selection, check_vectors
from safe_retrieval.types import Document, FloatMatrix, FloatVector

_BLOCK_ROWS = 16_384
_BLOCK_DOCUMENTS = 512


class Opening(NamedTuple):
    """How files are opened.

    Attributes:
        verify: compare their hashes with the manifest first.
        memory_map: leave vectors in the file and page them in as they are asked for.
        filter_seconds: most that a new filter may take; ``None`` sets no limit.
    """

    verify: bool = True
    memory_map: bool = True
    filter_seconds: float | None = None

    @property
    def check(self) -> Check:
        """How closely files are compared."""
        return Check.OPENING if self.verify else Check.SIZE


USUAL_OPENING = Opening()
"""Hashes compared, vectors left in the file."""


class Block(NamedTuple):
    """Some documents and their vectors, (n, d) float32, row by row."""

    documents: list[Document]
    vectors: FloatMatrix


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
        vectors_path = check_file(folder, record.vectors, opening.check)
        documents_path = check_file(folder, record.documents, opening.check)
        with ExitStack() as on_failure:
            documents = on_failure.enter_context(DocumentStore(documents_path, filter_seconds=opening.filter_seconds))
            if len(documents) != record.count:
                raise IndexFormatError(f"{documents_path}: expected {record.count} documents, got {len(documents)}")
            vectors = _read_vectors(folder, record, documents, search_settings(manifest, record), opening)
            if vectors.dimension != manifest.dimension:
                raise IndexFormatError(
                    f"{vectors_path}: expected vectors of length {manifest.dimension}, got {vectors.dimension}"
                )
            segment = cls(record, vectors, documents, read_deleted(folder, record, opening.check))
            on_failure.pop_all()
        return segment

    def with_deletions(self, folder: Path, record: SegmentRecord, check: Check) -> Segment:
        """The same files with other deletions; they are not opened again.

        Raises:
            IndexFormatError: the file of deletions is missing or, as closely as it is checked, damaged.
        """
        return Segment(record, self.vectors, self.documents, read_deleted(folder, record, check))

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
        return self._live(self.documents.positions_of(ids))

    def positions_of_pieces(self, document: str) -> dict[str, int]:
        """The positions, inside the segment, of the pieces of a document that are there and not deleted."""
        return self._live(self.documents.positions_of_pieces(document))

    def _live(self, found: dict[str, int]) -> dict[str, int]:
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


def search_settings(manifest: IndexManifest, record: SegmentRecord) -> SearchSettings | None:
    """How a segment is searched, as far as the manifest says; ``None`` leaves it to its kind."""
    return manifest.search if record.factory == manifest.factory else None


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
    originals = None if record.originals is None else check_file(folder, record.originals, opening.check)
    if factory.lossy and originals is None:
        raise IndexFormatError(f"{path}: expected a file of vectors for exact scores beside it; build the index again")
    return ApproximateIndex.read(
        path, factory, ids=documents, originals=originals, settings=settings, memory_map=opening.memory_map
    )
