"""Exact scores of what a search nominated for several queries, and their order: one pass over all pairs.

The numbers are those of :func:`~safe_retrieval.index.vectors.score`, to the last bit: a score depends on its two
vectors alone, so it does not matter which pairs are computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.index.vectors import Ranking, rank
from safe_retrieval.types import FloatMatrix, FloatVector

# Pairs in one product. In float64, and of 384 numbers, they are 400 kB: larger arrays leave the processor's cache, and
# the system hands out their memory page by page.
_PAIRS = 128
# Candidates a query from which each query is multiplied by itself, which spares a copy of it for each pair.
_MANY = 32
# Candidates of a single query that are scored without a table: one of a single row takes twice as many steps.
_ALONE = 1_024

Fetch: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], FloatMatrix]
"""The vectors of candidates: (p,) rows and (p,) columns of the table of candidates give (p, d) float32."""


def ranked(
    queries: FloatMatrix, positions: NDArray[np.int64], near: NDArray[np.bool_], count: int, fetch: Fetch
) -> list[Ranking]:
    """Score candidates exactly and order them.

    Args:
        queries: (q, d) float32.
        positions: (q, c) candidates of each query, in any order.
        near: (q, c) which of them are worth scoring; the others are left out.
        count: how many to keep.
        fetch: gives the vectors of some candidates.

    Returns:
        For each query at most ``count`` candidates by falling score, ties by rising position.
    """
    if len(queries) == 1 and positions.shape[1] <= _ALONE:
        (columns,) = np.nonzero(near[0])
        return [rank(queries[0], positions[0, columns], fetch(np.zeros_like(columns), columns), count)]
    rows, columns = np.nonzero(near)
    scores = np.full(positions.shape, -np.inf, dtype=np.float32)
    scores[rows, columns] = _scores(queries, rows, columns, fetch)
    best = np.lexsort((positions, -scores))[:, :count]
    kept = near.sum(axis=1).tolist()
    return [
        Ranking(places[:size], values[:size])
        for places, values, size in zip(
            np.take_along_axis(positions, best, axis=1), np.take_along_axis(scores, best, axis=1), kept, strict=True
        )
    ]


def _scores(queries: FloatMatrix, rows: NDArray[np.int64], columns: NDArray[np.int64], fetch: Fetch) -> FloatVector:
    """(p,) float32 inner products of queries and candidates, summed in float64 and rounded once."""
    scores = np.empty(len(rows), dtype=np.float32)
    double = queries.astype(np.float64)
    for part in _parts(rows, len(queries)):
        products = fetch(rows[part], columns[part]).astype(np.float64)
        first, last = rows[part.start], rows[part.stop - 1]
        products *= double[first] if first == last else double[rows[part]]
        # Product and row sum, not a matrix product: BLAS adds up differently at the edge of a block.
        scores[part] = products.sum(axis=1)
    return scores


def _parts(rows: NDArray[np.int64], count: int) -> Iterator[slice]:
    """Pairs to be multiplied at once, given the (p,) rising numbers of their queries: of one query each, where it has
    many."""
    ends = [0, len(rows)]
    if len(rows) >= _MANY * count:
        ends = [0, *np.searchsorted(rows, np.arange(count), side="right").tolist()]
    for start, stop in pairwise(ends):
        for first in range(start, stop, _PAIRS):
            yield slice(first, min(first + _PAIRS, stop))


def near_the_best(scores: FloatMatrix, count: int, margin: float) -> NDArray[np.bool_]:
    """Which of (q, c) float32 scores, in any order, may be among the ``count`` best of their row by exact scores."""
    if scores.shape[1] <= count:
        return np.ones(scores.shape, dtype=np.bool_)
    least = np.partition(scores, scores.shape[1] - count, axis=1)[:, -count, None]
    nearly: NDArray[np.bool_] = scores >= least - np.float32(margin)
    return nearly
