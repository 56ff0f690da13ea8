"""An opened index: vectors, documents and manifest as one object, to be asked and to be changed.

Every object sees one state of the index, its *snapshot*: the one it was opened with, the one after its own last change,
or the one after :meth:`SearchableIndex.refresh`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from safe_retrieval.errors import EncoderMismatchError, IndexFolderError, InputError
from safe_retrieval.index.changes import changed, compacted, with_search
from safe_retrieval.index.conditions import Condition, to_sql
from safe_retrieval.index.diversity import check_balance, most_diverse
from safe_retrieval.index.factories import parse_factory
from safe_retrieval.index.filters import Where, as_filter
from safe_retrieval.index.manifest import IndexManifest
from safe_retrieval.index.publish import locked
from safe_retrieval.index.segments import USUAL_OPENING, Block, Opening
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.index.snapshots import Found, Snapshot
from safe_retrieval.index.vectors import Ranking, check_ids, check_k, check_vectors, one_row, refuse_one_string
from safe_retrieval.types import Document, Encoder, FloatMatrix, FloatVector, Hit

LOCK_SECONDS = 10.0
"""How long a change waits for another process that writes the index."""


class SearchableIndex:
    """What :func:`~safe_retrieval.index.folder.load_index` returns. Close it, or use it as a context manager.

    May be used from several threads: searches never wait, changes wait for one another. A search that began before a
    change goes on in the state before it.

    Attributes:
        path: the folder.
        read_only: whether changes are refused.
    """

    def __init__(
        self,
        path: Path,
        snapshot: Snapshot,
        *,
        opening: Opening = USUAL_OPENING,
        read_only: bool = False,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._current: Snapshot | None = snapshot
        self._opening = opening
        self._lock_seconds = lock_seconds
        self._one_change = threading.Lock()
        self._one_step = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.manifest.count

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and bool(self._snapshot.positions_of([identifier]))

    @property
    def _snapshot(self) -> Snapshot:
        if self._current is None:
            raise IndexFolderError(f"{self.path} was closed; open it again with load_index")
        return self._current

    @property
    def manifest(self) -> IndexManifest:
        """What the index holds and who may ask it."""
        return self._snapshot.manifest

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.manifest.dimension

    def close(self) -> None:
        """Let go of the files; searches in other threads end first."""
        self._current = None

    # Asking

    def search(self, vectors: FloatMatrix, k: int = 10, *, where: Where = None) -> list[list[Hit]]:
        """The nearest documents to each query.

        Args:
            vectors: (q, dimension) float32, unit norm, in the index's space (see :meth:`check_encoder`).
            k: most hits for a query.
            where: what the metadata of a hit must fulfil (:mod:`~safe_retrieval.index.filters`). Only matching
                documents are ranked, so k hits come back whenever k documents match.

        Returns:
            One list for each query: min(k, number of matching documents) hits by falling cosine, ties by position.

        Raises:
            InputError: vectors of another shape or type, not finite or not of unit norm; ``k`` below 1; or a faulty
                filter.
        """
        snapshot = self._snapshot
        return snapshot.hits(snapshot.rankings(vectors, k, _condition(where)))

    def search_documents(self, vectors: FloatMatrix, k: int = 10, *, where: Where = None) -> list[list[Found]]:
        """As :meth:`search`, with the documents themselves: one look-up where ids would take several."""
        snapshot = self._snapshot
        return snapshot.found(snapshot.rankings(vectors, k, _condition(where)))

    def search_range(self, vectors: FloatMatrix, min_score: float, *, where: Where = None) -> list[list[Hit]]:
        """All documents that are near enough to each query.

        Args:
            vectors: as in :meth:`search`.
            min_score: smallest cosine, itself included.
            where: as in :meth:`search`.

        Returns:
            One list for each query, in the order of :meth:`search`; as long as there are such documents.

        Raises:
            InputError: as in :meth:`search`, or ``min_score`` is no finite number.
        """
        if not math.isfinite(min_score):
            raise InputError(f"expected a finite number as smallest score, got {min_score}")
        snapshot = self._snapshot
        return snapshot.hits(snapshot.above(vectors, min_score, _condition(where)))

    def search_diverse(
        self, vectors: FloatMatrix, k: int = 10, *, candidates: int = 50, balance: float = 0.5, where: Where = None
    ) -> list[list[Hit]]:
        """Near documents that are not all alike: maximal marginal relevance (Carbonell and Goldstein, 1998).

        Args:
            vectors: as in :meth:`search`.
            k: most hits for a query.
            candidates: how many of the nearest documents the hits are chosen from; at least k are.
            balance: 1 asks for the nearest documents alone, 0 for those farthest from one another.
            where: as in :meth:`search`.

        Returns:
            One list for each query, in the order of choice, so scores (cosine to the query) need not fall.

        Raises:
            InputError: as in :meth:`search`, or ``balance`` is outside [0, 1].
        """
        check_k(k)
        check_balance(balance)
        snapshot = self._snapshot
        chosen = []
        for positions, scores in snapshot.rankings(vectors, max(k, candidates), _condition(where)):
            rows = most_diverse(scores, snapshot.vectors_at(positions), k, balance)
            chosen.append(Ranking(positions[rows], scores[rows]))
        return snapshot.hits(chosen)

    def search_by_vector(self, vector: FloatVector, k: int = 10, *, where: Where = None) -> list[Hit]:
        """The nearest documents to one vector, such as another document's; otherwise as :meth:`search`.

        Args:
            vector: (dimension,) float32, unit norm, in the index's space.
            k: most hits.
            where: as in :meth:`search`.

        Raises:
            InputError: as in :meth:`search`, or the vector is not one-dimensional.
        """
        (hits,) = self.search(one_row(vector), k, where=where)
        return hits

    def ids(self, *, where: Where = None) -> list[str]:
        """The ids of all documents that fulfil a condition on metadata, by position; of all there are without one.

        Raises:
            InputError: a faulty filter.
        """
        snapshot = self._snapshot
        return snapshot.ids_at(snapshot.matching(_condition(where)))

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents of those ids that are there; ids that are not are left out.

        Raises:
            InputError: ``ids`` is one string in place of a list.
        """
        refuse_one_string(ids)
        return self._snapshot.find(ids)

    def get_documents(self, ids: Sequence[str]) -> list[Document]:
        """The documents of all these ids, in the order asked.

        Raises:
            InputError: an id is not in the index, or ``ids`` is one string.
        """
        found = self.get(ids)
        self._refuse_missing(ids, found)
        return [found[identifier] for identifier in ids]

    def get_vectors(self, ids: Sequence[str]) -> FloatMatrix:
        """The vectors of all these ids, in the order asked; (n, dimension) float32, unit norm.

        Raises:
            InputError: an id is not in the index, or ``ids`` is one string.
        """
        refuse_one_string(ids)
        snapshot = self._snapshot
        positions = snapshot.positions_of(ids)
        self._refuse_missing(ids, positions)
        return snapshot.vectors_at(np.asarray([positions[identifier] for identifier in ids], dtype=np.int64))

    def sample_vectors(self, count: int, *, seed: int = 0) -> FloatMatrix:
        """Vectors of documents drawn at random without replacement; (min(count, n), dimension) float32, unit norm.

        Raises:
            InputError: ``count`` is below 0.
        """
        if count < 0:
            raise InputError(f"expected a number of vectors of 0 or more, got {count}")
        snapshot = self._snapshot
        positions = np.random.default_rng(seed).permutation(snapshot.matching(None))[:count]
        return snapshot.vectors_at(positions)

    def pieces_of(self, document: str) -> list[str]:
        """The ids of the pieces that :func:`~safe_retrieval.index.chunking.chunked` made of a document, by position."""
        return self._snapshot.pieces_of(document)

    def documents(self) -> Iterator[Document]:
        """All documents by position, streamed."""
        return self._snapshot.documents()

    def blocks(self) -> Iterator[Block]:
        """All documents and their vectors, (n, dimension) float32, by position, some hundred at a time."""
        return self._snapshot.blocks()

    def _refuse_missing(self, ids: Sequence[str], found: Mapping[str, Any]) -> None:
        missing = next((identifier for identifier in ids if identifier not in found), None)
        if missing is not None:
            raise InputError(f"there is no document with the id {missing!r} in {self.path}")

    def frozen(self) -> SearchableIndex:
        """The same state as an object of its own, which no change reaches: several questions, one answer.

        It costs nothing, and it refuses changes.
        """
        return SearchableIndex(self.path, self._snapshot, opening=self._opening, read_only=True)

    # Changing

    def add(self, documents: Sequence[Document], vectors: FloatMatrix) -> None:
        """Append documents; all of them, or none if one is faulty.

        Args:
            documents: n documents with ids that are not in the index.
            vectors: (n, dimension) float32, unit norm, by the index's encoder, of each document's ``content``.

        Raises:
            InputError: an id is there already or comes twice; vectors are not float32, not of that shape, not finite,
                zero, or not of unit norm; or the index is read-only.
            DataError: a document holds what cannot be stored.
            IndexLockedError: another process is writing the index.
            IndexFolderError: the folder cannot be written.
        """
        block = self._checked(documents, vectors)
        with self._changing() as snapshot:
            known = snapshot.positions_of([document.id for document in block.documents])
            if known:
                raise InputError(f"id {next(iter(known))!r} is already in {self.path}; upsert replaces documents")
            if block.documents:
                self._adopt(changed(self.path, snapshot, added=block))

    def upsert(self, documents: Sequence[Document], vectors: FloatMatrix, *, without: Sequence[str] = ()) -> int:
        """Append documents in the place of those with the same ids; all of them, or none if one is faulty.

        A document that replaces another one moves to the end: ties are ordered by the time of writing.

        Args:
            documents: n documents with distinct ids.
            vectors: as in :meth:`add`.
            without: ids of further documents that go in the same step, as far as they are there: pieces of an earlier
                version of a document that has fewer now.

        Returns:
            How many documents were replaced or went.

        Raises:
            InputError, DataError, IndexLockedError, IndexFolderError: as in :meth:`add`, but for ids that are there.
        """
        refuse_one_string(without)
        block = self._checked(documents, vectors)
        with self._changing() as snapshot:
            known = snapshot.positions_of([*(document.id for document in block.documents), *without])
            if block.documents or known:
                self._adopt(changed(self.path, snapshot, dead=sorted(known.values()), added=block))
        return len(known)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents; ids that are not there are left out.

        Their bytes stay on the disk until :meth:`compact` or until an addition writes their segment again.

        Returns:
            How many documents were deleted.

        Raises:
            InputError: ``ids`` is one string in place of a list, or the index is read-only.
            IndexLockedError: another process is writing the index.
            IndexFolderError: the folder cannot be written.
        """
        refuse_one_string(ids)
        with self._changing() as snapshot:
            known = snapshot.positions_of(ids)
            if known:
                self._adopt(changed(self.path, snapshot, dead=sorted(known.values())))
        return len(known)

    def compact(self, *, factory: str | None = None, memory: int | None = None) -> None:
        """Write everything into one segment without what was deleted; nothing is encoded.

        Args:
            factory: the kind of index to make (:mod:`~safe_retrieval.index.factories`), or ``auto`` for the advisor's
                choice; ``None`` keeps the index's own. Documents that are added later lie in a ``Flat`` segment, which
                is searched beside it, until the next compaction.
            memory: bytes that vectors may take while the index is made and, for ``auto``, while it is searched;
                ``None`` is no bound.

        Raises:
            InputError: the index is read-only; the factory is unknown, there are too few vectors to train it on, or it
                cannot be made within the memory.
            IndexLockedError: another process is writing the index.
            IndexFolderError: the folder cannot be written.
        """
        with self._changing() as snapshot:
            self._adopt(compacted(self.path, snapshot, factory, memory=memory))

    def tune(self, factory: str, settings: SearchSettings, *, memory: int | None = None) -> None:
        """Make all of the index of a kind, unless it is, and write down how much a search looks at.

        Args:
            factory: the kind of index by its name; ``auto`` has no settings of its own.
            settings: for segments of that kind, from here on, by whoever opens the index.
            memory: as for :meth:`compact`.

        Raises:
            InputError: as in :meth:`compact`, or such an index cannot be searched with these settings.
            IndexLockedError, IndexFolderError: as in :meth:`compact`.
        """
        settings.check(parse_factory(factory))
        with self._changing() as snapshot:
            # also where the manifest names the kind already: what was added since lies in flat segments
            self._adopt(compacted(self.path, snapshot, factory, memory=memory))
            self._adopt(with_search(self.path, self._snapshot, settings))

    def refresh(self) -> bool:
        """Go on to the newest state, which another object or process may have written.

        Returns:
            Whether there was a newer one.

        Raises:
            EncoderMismatchError: the index was built anew with another encoder.
            IndexFormatError: a file is missing or damaged; the object stays at the state that it has.
        """
        while True:
            before = self._snapshot
            after = Snapshot.open_newest(self.path, self._opening, before=before)
            if after.manifest == before.manifest:
                return False
            self._refuse_other_space(after.manifest)
            with self._one_step:  # never back: another thread may have gone on to a newer state while this one opened
                if self._current is before:
                    self._current = after
                    return True

    @contextmanager
    def _changing(self) -> Iterator[Snapshot]:
        """The newest state, with the lock held."""
        if self.read_only:
            raise InputError(f"{self.path} was opened read-only; open it with read_only=False to change it")
        with self._one_change, locked(self.path, timeout=self._lock_seconds):
            self.refresh()
            yield self._snapshot

    def _adopt(self, manifest: IndexManifest) -> None:
        """Go on to a state that was just written here, so its hashes are known to be right; unless closed meanwhile."""
        if (before := self._current) is None:
            return
        after = Snapshot.open(self.path, manifest, self._opening._replace(verify=False), before=before)
        with self._one_step:
            self._current = None if self._current is None else after

    def _checked(self, documents: Sequence[Document], vectors: FloatMatrix) -> Block:
        checked = list(documents)
        for number, document in enumerate(checked):
            if not isinstance(document, Document):
                raise InputError(f"document {number}: expected a Document, got {type(document).__name__}")
        check_ids([document.id for document in checked])
        rows = check_vectors(vectors, self.dimension)
        if len(checked) != len(rows):
            raise InputError(f"expected one vector for each document, got {len(checked)} documents and {len(rows)}")
        return Block(checked, rows)

    def _refuse_other_space(self, manifest: IndexManifest) -> None:
        own = self.manifest
        if (manifest.encoder.space, manifest.dimension) != (own.encoder.space, own.dimension):
            raise EncoderMismatchError(
                f"{self.path} was built anew by {manifest.encoder.name} since it was opened, and vectors of "
                f"{own.encoder.name} do not belong there; open it again with load_index"
            )

    # Trusting

    def faults(self) -> list[str]:
        """What is wrong with the numbering of documents or with a vector, one sentence each; reads everything."""
        return self._snapshot.faults()

    def check_encoder(self, encoder: Encoder) -> None:
        """Make sure that an encoder's queries land in the space of this index.

        Raises:
            EncoderMismatchError: they do not; the message names both encoders.
        """
        own = self.manifest.encoder
        if encoder.space != own.space or encoder.dimension != self.dimension:
            raise EncoderMismatchError(
                f"{self.path} was built by {own.name} ({self.dimension} dimensions, space {_short(own.space)}); "
                f"{encoder.name} speaks another space ({encoder.dimension} dimensions, {_short(encoder.space)}). Ask "
                f"with {own.name} or an adapter that was trained for it, or build the index with {encoder.name}"
            )


def _condition(where: Where) -> Condition | None:
    return None if (found := as_filter(where)) is None else to_sql(found)


def _short(space: str) -> str:
    return space if len(space) <= 20 else f"{space[:19]}..."
