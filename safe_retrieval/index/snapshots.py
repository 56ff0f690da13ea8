"""The snapshot: the segments of one manifest, searched as one index.

A snapshot never changes. Whoever changes an index makes new files and a new snapshot; a search that is under way goes
on in the one that it began with. Files are closed when the last snapshot that holds them is gone.

A *position* is a place in the sequence of all segments, deleted documents counted: it orders equal scores by the time
of writing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFormatError, IndexLockedError
from safe_retrieval.index.conditions import Condition
from safe_retrieval.index.manifest import IndexManifest, SegmentRecord, read_manifest
from safe_retrieval.index.segments import Block, Opening, Segment, search_settings
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.index.vectors import Ranking, check_k, check_vectors, ordered
from safe_retrieval.types import Document, FloatMatrix, Hit

ATTEMPTS = 50
"""How often a reader looks again: a writer replaces the manifest and then removes the files of the old one, so whoever
read the old manifest just before finds its files gone."""


class Found(NamedTuple):
    """A hit with its document; the score is the cosine."""

    document: Document
    score: float


_new_found = partial(tuple.__new__, Found)


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


_Files = tuple[SegmentRecord, SearchSettings | None]
"""What a segment was opened from, deletions apart: these change without opening it again."""


def _files(manifest: IndexManifest, record: SegmentRecord) -> _Files:
    return replace(record, deleted=None, deleted_count=0), search_settings(manifest, record)


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
                known[files] = known[files].with_deletions(folder, record, opening.check)
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
        positions = np.concatenate([ranking.positions for ranking in rankings])
        wanted, which = np.unique(positions, return_inverse=True)
        documents: list[Document] = []  # segments stand in the order of their positions
        for number, _, local in self.located(wanted):
            documents += self.segments[number].documents.at(local.tolist())
        scores = np.concatenate([ranking.scores for ranking in rankings])
        # As NamedTuple makes them, without a call of Python for each.
        found = map(_new_found, zip(map(documents.__getitem__, which.tolist()), scores.tolist(), strict=True))
        return [list(islice(found, len(ranking.positions))) for ranking in rankings]

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
        if len(self.segments) == 1:  # as a rule
            yield Located(0, np.arange(len(positions)), positions)
            return
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

    def pieces_of(self, document: str) -> list[str]:
        """The ids of the pieces that chunking made of a document, by position."""
        return [identifier for segment in self.segments for identifier in segment.positions_of_pieces(document)]

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
