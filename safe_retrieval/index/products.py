"""The largest inner products of several queries with many vectors, by blocked matrix products in NumPy.

NumPy's BLAS and its vectorised ``partition`` beat FAISS's flat index at this wherever there is more than one query:
64 queries take it two fifths of the time on two AVX2 cores (``benchmarks/index/search.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.index.vectors import Selection
from safe_retrieval.types import FloatMatrix

# Vectors in one product: 64 queries against a block need 4 MB of scores.
_BLOCK_ROWS = 16_384
_BLOCK_QUERIES = 64
# Vectors copied at once where they are not aligned: few enough to stay in the processor's cache.
_COPIED_ROWS = 1_024


def largest_products(
    queries: FloatMatrix, vectors: FloatMatrix, count: int, within: Selection | None = None
) -> tuple[FloatMatrix, NDArray[np.int64]]:
    """The best rows of a matrix for each query.

    Args:
        queries: (q, d) float32.
        vectors: (n, d) float32; may be mapped from a file.
        count: how many; at most n, or at most the number selected.
        within: the only rows that count, if there is such a restriction.

    Returns:
        (q, count) float32 products, falling, and their (q, count) int64 rows. Ties are in no stated order, and among
        those at the last rank some may be left out.
    """
    parts = [
        _of_block(queries[start : start + _BLOCK_QUERIES], vectors, count, within)
        for start in range(0, len(queries), _BLOCK_QUERIES)
    ]
    if not parts:
        return np.empty((0, count), np.float32), np.empty((0, count), np.int64)
    scores, rows = (np.concatenate(side) for side in zip(*parts, strict=True))
    return scores, rows


def _of_block(
    queries: FloatMatrix, vectors: FloatMatrix, count: int, within: Selection | None
) -> tuple[FloatMatrix, NDArray[np.int64]]:
    best = np.empty((len(queries), 0), np.float32)
    found = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        scores, rows = _products(queries, block, None if within is None else within.mask[start : start + len(block)])
        if not len(rows):
            continue
        joined = np.concatenate([best, scores], axis=1)
        columns = _largest(joined, count)
        width = best.shape[1]  # the best so far stand before the new ones
        after = start + rows[np.maximum(columns - width, 0)]
        if width:
            before = np.take_along_axis(found, np.minimum(columns, width - 1), axis=1)
            np.copyto(after, before, where=columns < width)
        found = after
        best = np.take_along_axis(joined, columns, axis=1)
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)


def _products(
    queries: FloatMatrix, block: FloatMatrix, mask: NDArray[np.bool_] | None
) -> tuple[FloatMatrix, NDArray[np.int64]]:
    """(q, m) products with the chosen rows of a block, and which rows those are."""
    if mask is None:
        return _product(queries, block), np.arange(len(block))
    rows = np.flatnonzero(mask)
    if len(rows) * 2 < len(block):
        return queries @ block[rows].T, rows
    scores = _product(queries, block)[:, rows]  # columns of scores are fewer bytes to copy than rows of vectors
    return scores, rows


def _product(queries: FloatMatrix, block: FloatMatrix) -> FloatMatrix:
    """(q, m) products with all rows of a block.

    In a FAISS file that is mapped, vectors begin at an odd address. NumPy multiplies nothing that is not aligned before
    it has copied it, and would copy the whole block into new memory, which takes twice as long as the product.
    """
    if block.flags.aligned:
        return queries @ block.T
    scores = np.empty((len(queries), len(block)), np.float32)
    aligned = np.empty((_COPIED_ROWS, block.shape[1]), np.float32)
    for start in range(0, len(block), _COPIED_ROWS):
        part = block[start : start + _COPIED_ROWS]
        copied = aligned[: len(part)]
        np.copyto(copied, part)
        np.matmul(queries, copied.T, out=scores[:, start : start + len(part)])
    return scores


def _largest(scores: FloatMatrix, count: int) -> NDArray[np.int64]:
    """(q, min(count, n)) columns of the largest scores in each row of (q, n), in any order."""
    width = scores.shape[1]
    if width <= count:
        return np.broadcast_to(np.arange(width), scores.shape)
    # partition and a comparison, since argpartition takes three times as long
    least = np.partition(scores, width - count, axis=1)[:, width - count]
    columns = np.empty((len(scores), count), np.int64)
    for row, (values, bound) in enumerate(zip(scores, least, strict=True)):
        there = np.flatnonzero(values >= bound)
        if len(there) > count:  # ties at the last rank
            there = there[np.argsort(-values[there], kind="stable")[:count]]
        columns[row] = there
    return columns
