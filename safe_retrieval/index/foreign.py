"""FAISS files that somebody else wrote: what kind they are, and their vectors, as far as FAISS gives them back."""

from __future__ import annotations

import importlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import DataError, IndexFormatError
from safe_retrieval.index.factories import FLAT, Factory, parse_factory
from safe_retrieval.index.faiss_index import load_faiss
from safe_retrieval.types import FloatMatrix

_METRICS = {0: "inner product", 1: "L2"}


class ForeignIndex:
    """A FAISS index of any kind.

    Args:
        path: the file; FAISS reads it with limits, but does not survive every damaged file: take it from where you
            would take a program.

    Attributes:
        path: the file.
        ids: (n,) int64, the numbers that the file gives its vectors; ``None`` if they are just numbered from 0.
        factory: what kind of ours it is, if it can be searched as it is: inner product, vectors as they are, numbered
            from 0; ``None`` otherwise.

    Raises:
        IndexFormatError: the file is missing or damaged, or ranks by something else than inner product or L2.
    """

    def __init__(self, path: Path) -> None:
        import faiss

        self.path = path
        self._index: Any = load_faiss(path)
        self._owner = self._index  # what it wraps lives as long as it does
        if self._index.metric_type not in _METRICS:
            raise IndexFormatError(
                f"{path}: expected an index by {' or '.join(_METRICS.values())}, got FAISS's metric "
                f"{self._index.metric_type}; cosines would rank its vectors otherwise"
            )
        self.ids: NDArray[np.int64] | None = None
        if isinstance(self._index, faiss.IndexIDMap):  # IndexIDMap2 is one too
            self.ids = faiss.vector_to_array(self._index.id_map)
            self._index = faiss.downcast_index(self._index.index)
        self._by_id = False
        self.factory = None if self.ids is not None else _kind(self._index)
        if isinstance(self._index, faiss.IndexIVF):
            self._read_lists(faiss)

    def _read_lists(self, faiss: Any) -> None:
        """Find out by which numbers an inverted file knows its vectors."""
        lists, index = self._index.invlists, self._index
        known = [
            faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number)).copy()
            for number in range(index.nlist)
            if lists.list_size(number)
        ]
        own = np.sort(np.concatenate([np.empty(0, np.int64), *known]))
        index.set_direct_map_type(faiss.DirectMap.Hashtable)
        if not np.array_equal(own, np.arange(len(self))):
            if self.ids is not None:
                raise IndexFormatError(f"{self.path} numbers its vectors twice over; take the inner index out of it")
            self.ids, self.factory, self._by_id = own, None, True

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    @property
    def kind(self) -> str:
        """FAISS's name for the class of index."""
        return type(self._index).__name__

    def vectors_at(self, places: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) places, counted from 0 in the order of :attr:`ids`; (c, dimension) float32.

        Kinds that keep codes give what the codes stand for.

        Raises:
            DataError: this kind does not give its vectors back.
        """
        # What IndexIDMap numbers lies inside it by place, an inverted file too.
        keys = self.ids[places] if self._by_id and self.ids is not None else places
        try:
            vectors: FloatMatrix = self._index.reconstruct_batch(keys)
        except RuntimeError as error:
            raise DataError(
                f"{self.path}: an {self.kind} does not give its vectors back ({error}); build the index from the texts"
            ) from error
        return vectors

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Places by rising number; sorted once, not for each question."""
        order: NDArray[np.int64] = np.arange(len(self)) if self.ids is None else np.argsort(self.ids, kind="stable")
        return order

    def places(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where (c,) numbers stand among :attr:`ids`; -1 for those that are not there."""
        ids = np.arange(len(self)) if self.ids is None else self.ids
        order = self._order
        at = np.minimum(np.searchsorted(ids, numbers, sorter=order), len(ids) - 1)
        found: NDArray[np.int64] = np.where(ids[order[at]] == numbers, order[at], -1)
        return found


def _holds_its_lists(index: Any, faiss: Any) -> bool:
    """Whether the lists are in the index's own file; ``OnDiskInvertedLists`` are in another, which the file names."""
    return isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.ArrayInvertedLists)


def _kind(index: Any) -> Factory | None:
    """The kind of ours that an index is, if there is such."""
    faiss: Any = importlib.import_module("faiss")  # its stubs do not know all of it

    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        return None
    match type(index).__name__:
        case "IndexFlatIP":
            return parse_factory(FLAT)
        case "IndexHNSWFlat":
            return parse_factory(f"HNSW{index.hnsw.nb_neighbors(1)}")
        case "IndexIVFFlat" if index.direct_map.type == faiss.DirectMap.NoMap and _holds_its_lists(index, faiss):
            return parse_factory(f"IVF{index.nlist},Flat")
        case _:
            return None
