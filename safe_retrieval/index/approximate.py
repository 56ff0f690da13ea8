"""Search that does not look at every vector, or not at the vectors themselves: FAISS nominates, exact scores decide.

What FAISS nominates is scored again from the vectors as they were given, so a hit's score is its exact cosine and ties
are ordered as everywhere; what an approximate index can do is miss a document. Where it finds fewer than it was asked
for, as happens when a filter leaves few documents in the clusters that it looks at, all selected vectors are looked at
instead: k hits come back whenever k documents match. Range search always looks at all of them.
"""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFormatError, InputError
from safe_retrieval.index.base import IdTable, VectorIndex
from safe_retrieval.index.factories import Factory
from safe_retrieval.index.faiss_index import read_faiss
from safe_retrieval.index.settings import SearchSettings, usual_settings
from safe_retrieval.index.vectors import Ranking, Selection, check_k, check_vectors, ordered, rank, score
from safe_retrieval.types import FloatMatrix, FloatVector

_BLOCK_ROWS = 16_384
_SPARE = 8

_CLASSES = {
    (False, "HNSW"): "IndexHNSWFlat",
    (False, "SQ8"): "IndexScalarQuantizer",
    (False, "RaBitQ"): "IndexRaBitQ",
    (True, "Flat"): "IndexIVFFlat",
    (True, "SQ8"): "IndexIVFScalarQuantizer",
    (True, "RaBitQ"): "IndexIVFRaBitQ",
    (True, "PQ"): "IndexIVFPQ",
}


class ApproximateIndex(VectorIndex):
    """A FAISS index of a kind that is not ``Flat``, opened from a folder.

    Attributes:
        settings: how much a search looks at; may be set between searches.
    """

    settings: SearchSettings

    @classmethod
    def read(
        cls,
        path: Path,
        factory: Factory,
        *,
        ids: IdTable,
        originals: Path | None,
        settings: SearchSettings | None = None,
        memory_map: bool = False,
    ) -> ApproximateIndex:
        """Open a file that :func:`~safe_retrieval.index.vector_files.write_vectors` made; check its hash first.

        Args:
            path: the FAISS file.
            factory: what it holds.
            ids: the ids of its vectors, by position.
            originals: the file of vectors as they were given, for kinds that keep codes; always memory-mapped.
            settings: how much a search looks at; ``None`` takes those of an index that nobody tuned.
            memory_map: leave what FAISS keeps in the file too.

        Raises:
            IndexFormatError: a file is missing or damaged, of another kind, or does not hold one vector an id.
        """
        loaded = read_faiss(path, _CLASSES[bool(factory.lists), factory.codes], memory_map=memory_map)
        if len(ids) != loaded.ntotal:
            raise IndexFormatError(f"{path}: expected {len(ids)} vectors, one for each document, got {loaded.ntotal}")
        index = cls.__new__(cls)
        VectorIndex.__init__(index, loaded.d, ids=ids)
        index._index = loaded
        index._factory = factory
        index._originals = None if originals is None else _read_originals(originals, loaded.ntotal, loaded.d)
        index.settings = settings or usual_settings(factory)
        index._mapping = threading.Lock()
        index._mapped = not factory.lists
        return index

    _index: Any
    _factory: Factory
    _originals: FloatMatrix | None
    _mapping: threading.Lock
    _mapped: bool

    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) positions as they were given; (c, dimension) float32."""
        if self._originals is not None:
            return np.asarray(self._originals[positions])
        with self._mapping:
            if not self._mapped:  # where in the lists each vector is: it reads all ids, so not before it is needed
                self._index.make_direct_map()
                self._mapped = True
        vectors: FloatMatrix = self._index.reconstruct_batch(positions)
        return vectors

    def rankings(self, vectors: FloatMatrix, k: int = 10, *, within: Selection | None = None) -> list[Ranking]:
        """As :meth:`~safe_retrieval.index.base.VectorIndex.rankings`, but documents may be missed."""
        queries = check_vectors(vectors, self.dimension, what="query vector")
        available = len(self) if within is None else within.count
        count = min(check_k(k), available)
        if count == 0:
            return [Ranking(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        wanted = count * self.settings.refine if self._factory.lossy else count
        found, candidates = self._with_vectors(queries, min(wanted + _SPARE, available), within)
        return [
            self._settled(query, row, None if candidates is None else candidates[number], count, within)
            for number, (query, row) in enumerate(zip(queries, found, strict=True))
        ]

    def _with_vectors(
        self, queries: FloatMatrix, count: int, within: Selection | None
    ) -> tuple[NDArray[np.int64], FloatMatrix | None]:
        """(q, count) candidates, -1 where there are no more; their vectors (q, count, d) if FAISS has them at hand."""
        if not self._factory.lists or self._factory.lossy or within is not None:  # FAISS does not bring selected ones
            return self._candidates(queries, count, within)[1], None
        # The lists hold the vectors as they were given, so they come along without a look-up by position.
        _, found, vectors = self._index.search_and_reconstruct(queries, count, params=self._parameters(count, within))
        return found, vectors

    def _settled(
        self,
        query: FloatVector,
        found: NDArray[np.int64],
        vectors: FloatMatrix | None,
        count: int,
        within: Selection | None,
    ) -> Ranking:
        kept = found >= 0
        if np.count_nonzero(kept) < count:
            positions, scores = self._scanned(query, -np.inf, within)
            return ordered(positions, scores, count)
        found = found[kept]
        return rank(query, found, self.vectors_at(found) if vectors is None else vectors[kept], count)

    def above(self, query: FloatVector, least: float, *, within: Selection | None = None) -> Ranking:
        """All positions with at least that score; looks at every selected vector, so none is missed."""
        return ordered(*self._scanned(query, least, within))

    def _scanned(self, query: FloatVector, least: float, within: Selection | None) -> Ranking:
        """Exact scores of all selected vectors that are at least ``least``, by position."""
        chosen = np.arange(len(self)) if within is None else np.flatnonzero(within.mask)
        found, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for start in range(0, len(chosen), _BLOCK_ROWS):
            block = chosen[start : start + _BLOCK_ROWS]
            values = score(query, self.vectors_at(block))
            near = np.flatnonzero(values >= least)
            found.append(block[near])
            scores.append(values[near])
        return Ranking(np.concatenate(found), np.concatenate(scores))

    def _candidates(
        self, queries: FloatMatrix, count: int, within: Selection | None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        scores, positions = self._index.search(queries, count, params=self._parameters(count, within))
        return scores, positions

    def _parameters(self, count: int, within: Selection | None) -> Any:
        faiss: Any = importlib.import_module("faiss")
        selector = {} if within is None else {"sel": faiss.IDSelectorBitmap(within.bits)}
        if self._factory.lists:
            probed = min(self._factory.lists, self.settings.probes)
            return faiss.SearchParametersIVF(nprobe=probed, **selector)
        if self._factory.codes == "HNSW":
            return faiss.SearchParametersHNSW(efSearch=max(self.settings.ef, 2 * count), **selector)
        return faiss.SearchParameters(**selector)

    def _nominated(self, query: FloatVector, least: float, within: Selection | None) -> NDArray[np.int64]:
        return self._scanned(query, least, within).positions

    def _append(self, vectors: FloatMatrix) -> None:
        raise InputError(f"this index was opened from a folder, to be asked; it takes no {len(vectors)} vectors more")


def _read_originals(path: Path, count: int, dimension: int) -> FloatMatrix:
    """Vectors from a file, paged in as they are asked for."""
    try:
        vectors: FloatMatrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexFormatError(f"{path} cannot be read: {error}; restore it, or build the index again") from error
    if vectors.shape != (count, dimension) or vectors.dtype != np.float32:
        raise IndexFormatError(f"{path}: expected ({count}, {dimension}) float32, got {vectors.shape} {vectors.dtype}")
    return vectors
