"""Search that does not look at every vector, or not at the vectors themselves: FAISS nominates, exact scores decide.

What FAISS nominates is scored again from the vectors as they were given, so a hit's score is its exact cosine and those
that were found are ordered as everywhere; what an approximate index can do is miss a document.

A filter leaves fewer documents among the nearest ones, so a search with one looks at more: where a tenth of all
documents is left, at ten times as many clusters or nodes, and where that costs no less, at every document that is left.
Where fewer are found than were asked for all the same, every selected vector is looked at: k hits come back whenever k
documents match. Range search always looks at all of them.
"""

from __future__ import annotations

import importlib
import math
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFormatError, InputError
from safe_retrieval.index.base import Candidates, IdTable, VectorIndex
from safe_retrieval.index.clusters import candidates_of_one
from safe_retrieval.index.exact_scores import near_the_best
from safe_retrieval.index.factories import Factory
from safe_retrieval.index.faiss_index import FaissIndex, read_faiss
from safe_retrieval.index.settings import SearchSettings, usual_settings
from safe_retrieval.index.vectors import Ranking, Selection, ordered, rounding_margin, score
from safe_retrieval.types import FloatMatrix, FloatVector

# Vectors that are scored at once: in float64 and of 384 numbers, 6 MB.
_BLOCK_ROWS = 2_048
_SPARE = 8
# So few selected vectors are all looked at: about a millisecond of one core, at 384 numbers.
_FEW = 16_384

# How FAISS shares out a batch over threads. Its default gives each some queries, and where vectors are to come along
# does not even that: one thread searched for all of them.
_QUERIES_AND_CLUSTERS = 2

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
            originals: the file of vectors as they were given, for kinds that keep codes.
            settings: how much a search looks at; ``None`` takes those of an index that nobody tuned.
            memory_map: leave vectors and what FAISS keeps in their files.

        Raises:
            IndexFormatError: a file is missing or damaged, of another kind, or does not hold one vector an id.
        """
        loaded = read_faiss(path, _CLASSES[bool(factory.lists), factory.codes], memory_map=memory_map)
        if len(ids) != loaded.ntotal:
            raise IndexFormatError(f"{path}: expected {len(ids)} vectors, one for each document, got {loaded.ntotal}")
        if factory.lists and not factory.lossy:
            loaded.parallel_mode = _QUERIES_AND_CLUSTERS
        index = cls.__new__(cls)
        VectorIndex.__init__(index, loaded.d, ids=ids)
        index._index = loaded
        index._factory = factory
        index._originals = (
            None if originals is None else _read_originals(originals, loaded.ntotal, loaded.d, memory_map=memory_map)
        )
        index.settings = settings or usual_settings(factory)
        index._flat = _graphs_vectors(loaded, ids) if factory.codes == "HNSW" else None
        index._mapping = threading.Lock()
        index._mapped = not factory.lists
        return index

    _index: Any
    _factory: Factory
    _originals: FloatMatrix | None
    _flat: FaissIndex | None
    _mapping: threading.Lock
    _mapped: bool

    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) positions as they were given; (c, dimension) float32.

        Raises:
            IndexFormatError: an inverted file does not say where one of them is.
        """
        if self._originals is not None:
            return self._originals[positions]
        if self._flat is not None:
            return self._flat.vectors_at(positions)
        with self._mapping:
            if not self._mapped:  # where in the lists each vector is: it reads all ids, so not before it is needed
                self._index.make_direct_map()
                self._mapped = True
        try:
            vectors: FloatMatrix = self._index.reconstruct_batch(positions)
        except RuntimeError as error:  # FAISS's own, for a position that is in no list
            raise IndexFormatError(f"a vector is in no cluster: {error}; build the index again") from error
        return vectors

    def nearest(self, queries: FloatMatrix, k: int, within: Selection | None) -> list[Ranking]:
        """As :meth:`~safe_retrieval.index.base.VectorIndex.nearest`, but documents may be missed."""
        if self._flat is not None and within is not None and within.count <= self._as_cheap(within):
            return self._flat.nearest(queries, k, within)
        rankings = self._refined(queries, k, within) if self._factory.lossy else super().nearest(queries, k, within)
        count = min(k, len(self) if within is None else within.count)
        return [
            ranking if len(ranking.positions) == count else self._found_by_all(query, count, within)
            for query, ranking in zip(queries, rankings, strict=True)
        ]

    def _as_cheap(self, within: Selection) -> float:
        """How many vectors may be looked at one by one for what a walk through the graph costs that finds as many."""
        return max(_FEW, self._factory.links * self.settings.ef * len(self) / max(1, within.count))

    def _found_by_all(self, query: FloatVector, count: int, within: Selection | None) -> Ranking:
        """The best of all selected vectors."""
        if self._flat is not None:
            return self._flat.nearest(query[None], count, within)[0]
        return ordered(*self._scanned(query, -np.inf, within), count)

    def _refined(self, queries: FloatMatrix, k: int, within: Selection | None) -> list[Ranking]:
        """The best of the candidates that codes nominate, some times as many as hits."""
        available = len(self) if within is None else within.count
        count = min(k, available)
        if not count or not len(queries):
            return [Ranking(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        found = self._candidates(queries, min(count * self.settings.refine + _SPARE, available), within).positions
        at_once = max(1, _BLOCK_ROWS // found.shape[1])
        rankings: list[Ranking] = []
        for start in range(0, len(queries), at_once):
            part = slice(start, start + at_once)
            rankings += self._decided(queries[part], found[part], count)
        return rankings

    def _decided(self, queries: FloatMatrix, found: NDArray[np.int64], count: int) -> list[Ranking]:
        """Those of (q, c) candidates, -1 where there are no more, that are best by exact scores."""
        vectors = self.vectors_at(found.ravel()).reshape(*found.shape, -1)
        scores = np.where(found >= 0, np.matmul(vectors, queries[:, :, None])[:, :, 0], np.float32(-np.inf))
        # Only what may be a hit by these float32 scores is worth an exact one.
        near = near_the_best(scores, count, rounding_margin(self.dimension)) & (found >= 0)
        return self._ranked(queries, Candidates(scores, found, vectors), near, count)

    def above(self, query: FloatVector, least: float, *, within: Selection | None = None) -> Ranking:
        """All positions with at least that score; looks at every selected vector, so none is missed."""
        if self._flat is not None:
            return self._flat.above(query, least, within=within)
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

    def _candidates(self, queries: FloatMatrix, count: int, within: Selection | None) -> Candidates:
        parameters = self._parameters(count, within)
        if not self._factory.lists or self._factory.lossy:
            return Candidates(*self._index.search(queries, count, params=parameters))
        if len(queries) == 1:
            return candidates_of_one(self._index, queries, count, parameters)
        if within is not None:  # FAISS does not bring selected vectors
            return Candidates(*self._index.search(queries, count, params=parameters))
        # The lists hold the vectors as they were given, so they come along without a look-up by position.
        return Candidates(*self._index.search_and_reconstruct(queries, count, params=parameters))

    def _parameters(self, count: int, within: Selection | None) -> Any:
        """How FAISS searches for so many candidates; with a filter it looks at more."""
        share = 1.0 if within is None else within.count / len(self)
        probes = ef = 0
        if self._factory.lists:
            all_of_them = within is not None and within.count <= _FEW
            probes = self._factory.lists if all_of_them else math.ceil(self.settings.probes / share)
            probes = min(self._factory.lists, probes)
        elif self._factory.codes == "HNSW":
            # Candidates are a quarter more than hits: at least twice the hits.
            ef = math.ceil(max(self.settings.ef, count * 8 / 5) / share)
        if within is None:
            return _parameters(probes, ef)
        faiss: Any = importlib.import_module("faiss")
        return _new_parameters(probes, ef, sel=faiss.IDSelectorBitmap(within.bits))

    def _nominated(self, query: FloatVector, least: float, within: Selection | None) -> NDArray[np.int64]:
        """The selected positions above a score; of an inverted file, those in the clusters that a search looks at."""
        if self._flat is not None:
            return self._flat._nominated(query, least, within)
        _, _, found = self._index.range_search(query[None], least, params=self._parameters(0, within))
        positions: NDArray[np.int64] = found
        return positions

    def faults(self) -> list[str]:
        """Whether the clusters of an inverted file hold each position once; one sentence if not."""
        if not self._factory.lists:
            return []
        faiss: Any = importlib.import_module("faiss")
        lists, seen, held = self._index.invlists, np.zeros(len(self), dtype=np.bool_), 0
        for number in filter(lists.list_size, range(self._factory.lists)):
            ids = faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
            seen[ids[(ids >= 0) & (ids < len(self))]] = True
            held += len(ids)
        if seen.all() and held == len(self):
            return []
        there = np.count_nonzero(seen)
        expected = f"expected each of the positions 0 to {len(self) - 1} once in its clusters"
        return [f"{expected}, got {there} of them among {held}; build the index again"]

    def _append(self, vectors: FloatMatrix) -> None:
        raise InputError(f"this index was opened from a folder, to be asked; it takes no {len(vectors)} vectors more")


@lru_cache(maxsize=64)
def _parameters(probes: int, ef: int) -> Any:
    """What a search without a filter is told; made once, since making it takes as long as scoring some candidates."""
    return _new_parameters(probes, ef)


def _new_parameters(probes: int, ef: int, **selector: Any) -> Any:
    faiss: Any = importlib.import_module("faiss")
    if probes:
        return faiss.SearchParametersIVF(nprobe=probes, **selector)
    if ef:
        return faiss.SearchParametersHNSW(efSearch=ef, **selector)
    return faiss.SearchParameters(**selector)


def _graphs_vectors(graph: Any, ids: IdTable) -> FaissIndex:
    """The vectors of a graph as the flat index that they are."""
    faiss: Any = importlib.import_module("faiss")
    return FaissIndex.over(faiss.downcast_index(graph.storage), ids)


def _read_originals(path: Path, count: int, dimension: int, *, memory_map: bool) -> FloatMatrix:
    """Vectors from a file, paged in as they are asked for or held."""
    try:
        vectors: FloatMatrix = np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexFormatError(f"{path} cannot be read: {error}; restore it, or build the index again") from error
    if vectors.shape != (count, dimension) or vectors.dtype != np.float32:
        raise IndexFormatError(f"{path}: expected ({count}, {dimension}) float32, got {vectors.shape} {vectors.dtype}")
    return np.asarray(vectors)  # not as a memmap, whose every look-up costs some microseconds
