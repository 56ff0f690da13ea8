"""One query asked of an inverted file whose lists hold the vectors themselves, each thread looking at some clusters."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.index.base import Candidates
from safe_retrieval.index.one_query import best_of_shares, threads_for, without_helpers
from safe_retrieval.types import FloatMatrix

# Where FAISS says in which cluster a vector is and where there, the cluster is in the upper half of the number.
_PLACE_BITS = 32


class _Clusters(NamedTuple):
    """The clusters that a query looks at.

    Attributes:
        numbers: (1, p) int64, the nearest first.
        nearness: (1, p) float32, inner products of the query and their centres.
        shares: of how many parts each is every so-manyth of them.
        selector: FAISS's, of the only vectors that count; ``None`` where all do.
    """

    numbers: NDArray[np.int64]
    nearness: FloatMatrix
    shares: int
    selector: Any


def candidates_of_one(index: Any, query: FloatMatrix, count: int, parameters: Any) -> Candidates:
    """The best candidates of a query, and their vectors unless there is a selector.

    Args:
        index: an ``IndexIVFFlat``.
        query: (1, d) float32.
        count: how many.
        parameters: FAISS's ``SearchParametersIVF``.
    """
    worth = threads_for(4 * index.d * index.ntotal * parameters.nprobe // index.nlist)
    threads = min(worth, parameters.nprobe)  # a share has a cluster at least: FAISS refuses to look at none
    with without_helpers():
        nearness, numbers = index.quantizer.search(query, parameters.nprobe)
    clusters = _Clusters(numbers, nearness, threads, parameters.sel)
    scores, labels = best_of_shares(partial(_share, index, query, count, clusters), threads, count)
    if parameters.sel is not None:
        return Candidates(scores, labels)
    return Candidates(scores, *_at_places(index, labels))


def _share(
    index: Any, query: FloatMatrix, count: int, clusters: _Clusters, number: int
) -> tuple[FloatMatrix, NDArray[np.int64]]:
    """The best candidates in a share of the clusters: where they stand in them or, with a selector, positions."""
    faiss: Any = importlib.import_module("faiss")
    numbers, nearness = (
        np.ascontiguousarray(side[:, number :: clusters.shares]) for side in (clusters.numbers, clusters.nearness)
    )
    scores, labels = np.empty((1, count), np.float32), np.empty((1, count), np.int64)
    parameters = faiss.SearchParametersIVF(nprobe=numbers.shape[1], sel=clusters.selector)
    arrays = map(faiss.swig_ptr, (numbers, nearness, scores, labels))
    places = clusters.selector is None  # FAISS gives them without a selector only
    index.search_preassigned_c(1, faiss.swig_ptr(query), count, *arrays, places, parameters)
    return scores, labels


def _at_places(index: Any, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions (1, c) and vectors (1, c, d) at places in clusters; -1 and zeros where there is none."""
    faiss: Any = importlib.import_module("faiss")
    positions = np.full(places.shape, -1)
    vectors = np.zeros((*places.shape, index.d), np.float32)
    for column, place in enumerate(places[0].tolist()):
        if place >= 0:
            cluster, offset = place >> _PLACE_BITS, place & ((1 << _PLACE_BITS) - 1)
            positions[0, column] = index.invlists.get_single_id(cluster, offset)
            index.reconstruct_from_offset(cluster, offset, faiss.swig_ptr(vectors[0, column]))
    return positions, vectors
