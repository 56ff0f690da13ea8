"""Exact search with FAISS: a flat inner-product index, with the checks that FAISS itself does not make.

FAISS takes duplicate ids, NaN and float64 in silence, pads with -1 when asked for more than there is, and corrupts
memory when it reads a damaged file; :class:`~safe_retrieval.index.base.VectorIndex` and :meth:`FaissIndex.read` stand
in front of it.
"""

from __future__ import annotations

import importlib
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFormatError
from safe_retrieval.index.base import Candidates, IdTable, VectorIndex
from safe_retrieval.index.factories import MOST_LISTS
from safe_retrieval.index.one_query import best_of_shares, threads_for, without_helpers
from safe_retrieval.index.products import largest_products
from safe_retrieval.index.vectors import Selection
from safe_retrieval.types import FloatMatrix, FloatVector

_READING = threading.Lock()


class FaissIndex(VectorIndex):
    """Unit vectors in a FAISS ``IndexFlatIP``.

    Args:
        dimension: length of a vector.
    """

    def __init__(self, dimension: int) -> None:
        import faiss

        super().__init__(dimension)
        self._index: Any = faiss.IndexFlatIP(dimension)

    @classmethod
    def read(cls, path: Path, *, ids: IdTable, memory_map: bool = False) -> FaissIndex:
        """Open a file that :func:`~safe_retrieval.index.faiss_files.write_flat` made.

        Check its hash first: FAISS does not survive every damaged file.

        Args:
            path: the file.
            ids: the ids of its vectors, by position.
            memory_map: leave the vectors in the file and page them in as they are asked for.

        Raises:
            IndexFormatError: the file is missing or damaged, holds another kind of index, or not one vector an id.
        """
        loaded = read_faiss(path, "IndexFlatIP", memory_map=memory_map)
        if len(ids) != loaded.ntotal:
            raise IndexFormatError(f"{path}: expected {len(ids)} vectors, one for each document, got {loaded.ntotal}")
        return cls.over(loaded, ids)

    @classmethod
    def over(cls, flat: Any, ids: IdTable) -> FaissIndex:
        """An ``IndexFlatIP`` that is in memory or mapped already; whoever owns it keeps it alive."""
        index = cls.__new__(cls)
        VectorIndex.__init__(index, flat.d, ids=ids)
        index._index = flat
        return index

    def _append(self, vectors: FloatMatrix) -> None:
        self._index.add(vectors)

    def _candidates(self, queries: FloatMatrix, count: int, within: Selection | None) -> Candidates:
        if len(queries) > 1:
            return Candidates(*largest_products(queries, self._rows(), count, within))
        threads = threads_for(4 * self.dimension * len(self)) if within is None else 1
        if threads > 1:
            return Candidates(*best_of_shares(partial(self._share, queries, count, threads), threads, count))
        with without_helpers():
            parameters = None if within is None else _selecting(within)
            return Candidates(*self._index.search(queries, count, params=parameters))

    def _rows(self) -> FloatMatrix:
        """FAISS's vectors, (n, dimension) float32, where they lie: in memory or in the file."""
        faiss: Any = importlib.import_module("faiss")
        rows: FloatMatrix = faiss.rev_swig_ptr(self._index.get_xb(), len(self) * self.dimension)
        return rows.reshape(-1, self.dimension)

    def _share(self, query: FloatMatrix, count: int, shares: int, number: int) -> tuple[FloatMatrix, NDArray[np.int64]]:
        """The best candidates for one query in one of so many equal parts of the vectors."""
        faiss: Any = importlib.import_module("faiss")
        rows = self._rows()
        start, stop = (part * len(rows) // shares for part in (number, number + 1))
        most = min(count, stop - start)
        if not most:
            return np.empty((1, 0), np.float32), np.empty((1, 0), np.int64)
        scores, places = faiss.knn(query, rows[start:stop], most, metric=faiss.METRIC_INNER_PRODUCT)
        return scores, places + start

    def _nominated(self, query: FloatVector, least: float, within: Selection | None) -> NDArray[np.int64]:
        parameters = None if within is None else _selecting(within)
        _, _, positions = self._index.range_search(query[None], least, params=parameters)
        found: NDArray[np.int64] = positions
        return found

    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) positions; (c, dimension) float32."""
        vectors: FloatMatrix = self._index.reconstruct_batch(positions)
        return vectors


def _selecting(within: Selection) -> Any:
    """Search parameters that let FAISS look at the selected positions alone."""
    faiss: Any = importlib.import_module("faiss")  # its stubs do not know what its Python wrappers take
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(within.bits))


def save_faiss(index: Any, path: Path) -> None:
    """Write any FAISS index.

    Raises:
        OSError: the file cannot be written.
    """
    import faiss

    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"FAISS could not write {path}: {error}") from error


def read_faiss(path: Path, kind: str, *, memory_map: bool = False) -> Any:
    """Read an inner-product index with limits on what the file can make FAISS allocate.

    Args:
        path: the file.
        kind: FAISS's name for the class of index that is expected.
        memory_map: leave vectors and codes in the file.

    Raises:
        IndexFormatError: the file is missing, damaged, or holds another kind of index.
    """
    import faiss

    loaded = load_faiss(path, memory_map=memory_map)
    if type(loaded).__name__ != kind or loaded.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexFormatError(f"{path}: expected an inner-product {kind}, got {type(loaded).__name__}")
    return loaded


def load_faiss(path: Path, *, memory_map: bool = False) -> Any:
    """Read a FAISS index of any kind, with the same limits.

    Args:
        path: the file.
        memory_map: leave vectors, codes and lists in the file and page them in as they are asked for.

    Raises:
        IndexFormatError: the file is missing or damaged.
    """
    import faiss

    with _READING:  # the limits are global to the process
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_loop_limit(MOST_LISTS)
        try:
            # No vector inside a file is longer than the file.
            faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
            # Of FAISS's two ways of mapping, the one that knows every kind, and starts no threads in each search.
            loaded = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if memory_map else 0)
        except (OSError, RuntimeError) as error:  # RuntimeError is FAISS's own, for whatever it does not like
            raise IndexFormatError(f"{path} is not a readable FAISS file: {error}; build the index again") from error
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])
    return loaded
