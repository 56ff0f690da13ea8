"""Search that does not look at every vector, or not at the vectors themselves: FAISS nominates, exact scores decide.

What FAISS nominates is scored again from the vectors as they were given, so a hit's score is its exact cosine and ties
are ordered as everywhere; what an approximate index can do is miss a document. Where it finds fewer than it was asked
for, as happens when a filter leaves few documents in the clusters that it looks at, all selected vectors are looked at
instead: k hits come back whenever k documents match. Range search always looks at all of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFormatError, InputError
from safe_retrieval.index.base import IdTable, VectorIndex
from safe_retrieval.index.factories import Factory
from safe_retrieval.index.faiss_index import read_faiss, save_faiss
from safe_retrieval.index.vectors import Ranking, Selection, check_k, check_vectors, ordered, rank, score
from safe_retrieval.types import FloatMatrix, FloatVector

_BLOCK_ROWS = 16_384
_SPARE = 8
# Codes keep the order of near vectors only roughly, so more of them are scored again.
_LOSSY_FACTOR = 4
_PROBED_SHARE = 16
_LEAST_PROBED = 8
_LEAST_EF = 64

_CLASSES = {
    (False, "HNSW"): "IndexHNSWFlat",
    (False, "SQ8"): "IndexScalarQuantizer",
    (False, "RaBitQ"): "IndexRaBitQ",
    (True, "Flat"): "IndexIVFFlat",
    (True, "SQ8"): "IndexIVFScalarQuantizer",
    (True, "RaBitQ"): "IndexIVFRaBitQ",
}


class ApproximateIndex(VectorIndex):
    """A FAISS index of a kind that is not ``Flat``, opened from a folder."""

    @classmethod
    def read(cls, path: Path, factory: Factory, *, ids: IdTable, originals: Path | None) -> ApproximateIndex:
        """Open a file that :func:`write_approximate` made; check its hash first.

        Args:
            path: the FAISS file.
            factory: what it holds.
            ids: the ids of its vectors, by position.
            originals: the file of vectors as they were given, for kinds that keep codes.

        Raises:
            IndexFormatError: a file is missing or damaged, of another kind, or does not hold one vector an id.
        """
        loaded = read_faiss(path, _CLASSES[bool(factory.lists), factory.codes])
        if len(ids) != loaded.ntotal:
            raise IndexFormatError(f"{path}: expected {len(ids)} vectors, one for each document, got {loaded.ntotal}")
        index = cls.__new__(cls)
        VectorIndex.__init__(index, loaded.d, ids=ids)
        index._index = loaded
        index._factory = factory
        index._originals = None if originals is None else _read_originals(originals, loaded.ntotal, loaded.d)
        if originals is None and factory.lists:
            loaded.make_direct_map()  # where each vector is, or none could be had by its position
        return index

    _index: Any
    _factory: Factory
    _originals: FloatMatrix | None

    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) positions as they were given; (c, dimension) float32."""
        if self._originals is not None:
            return np.asarray(self._originals[positions])
        vectors: FloatMatrix = self._index.reconstruct_batch(positions)
        return vectors

    def rankings(self, vectors: FloatMatrix, k: int = 10, *, within: Selection | None = None) -> list[Ranking]:
        """As :meth:`~safe_retrieval.index.base.VectorIndex.rankings`, but documents may be missed."""
        queries = check_vectors(vectors, self.dimension, what="query vector")
        available = len(self) if within is None else within.count
        count = min(check_k(k), available)
        if count == 0:
            return [Ranking(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        wanted = count * _LOSSY_FACTOR if self._factory.lossy else count
        _, found = self._candidates(queries, min(wanted + _SPARE, available), within)
        return [self._settled(query, row[row >= 0], count, within) for query, row in zip(queries, found, strict=True)]

    def _settled(self, query: FloatVector, found: NDArray[np.int64], count: int, within: Selection | None) -> Ranking:
        if len(found) < count:
            positions, scores = self._scanned(query, -np.inf, within)
            return ordered(positions, scores, count)
        return rank(query, found, self.vectors_at(found), count)

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
        faiss: Any = importlib.import_module("faiss")
        selector = {} if within is None else {"sel": faiss.IDSelectorBitmap(within.bits)}
        if self._factory.lists:
            probed = min(self._factory.lists, max(_LEAST_PROBED, self._factory.lists // _PROBED_SHARE))
            parameters = faiss.SearchParametersIVF(nprobe=probed, **selector)
        elif self._factory.codes == "HNSW":
            parameters = faiss.SearchParametersHNSW(efSearch=max(_LEAST_EF, 2 * count), **selector)
        else:
            parameters = faiss.SearchParameters(**selector)
        scores, positions = self._index.search(queries, count, params=parameters)
        return scores, positions

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


def write_approximate(
    path: Path, factory: Factory, dimension: int, count: int, blocks: Callable[[], Iterable[FloatMatrix]]
) -> None:
    """Train on an even sample of the vectors, add all of them, and write FAISS's file.

    Args:
        path: the file.
        factory: the kind of index.
        dimension: length of a vector.
        count: number of vectors.
        blocks: gives the vectors in the order of their positions, (n, dimension) float32 each; asked twice.

    Raises:
        InputError: there are too few vectors to train on.
        OSError: the file cannot be written.
    """
    import faiss

    factory.check_count(count)
    index: Any = faiss.index_factory(dimension, factory.name, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(_sample(blocks(), count, factory.most_training))
    for block in blocks():
        index.add(block)
    save_faiss(index, path)


def _sample(blocks: Iterable[FloatMatrix], count: int, most: int) -> FloatMatrix:
    """At most ``most`` rows, as evenly spread as can be: corpora are often sorted by topic."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))

    def rows() -> Iterator[FloatMatrix]:
        start = 0
        for block in blocks:
            low, high = np.searchsorted(chosen, [start, start + len(block)])
            yield block[chosen[low:high] - start]
            start += len(block)

    return np.ascontiguousarray(np.concatenate(list(rows())))
