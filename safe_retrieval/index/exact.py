"""The reference: exact search in NumPy, which the FAISS index has to agree with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.index.base import VectorIndex
from safe_retrieval.index.vectors import Selection
from safe_retrieval.types import FloatMatrix, FloatVector

# Rows of the corpus in one product: 64 queries against a block need 4 MB of scores.
_BLOCK_ROWS = 16_384
_BLOCK_QUERIES = 64


class ExactIndex(VectorIndex):
    """Unit vectors in memory, searched by blocked matrix products; needs NumPy alone.

    Args:
        dimension: length of a vector.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self._blocks: list[FloatMatrix] = []
        self._vectors: FloatMatrix = np.empty((0, dimension), dtype=np.float32)

    def _append(self, vectors: FloatMatrix) -> None:
        self._blocks.append(vectors.copy())  # the caller may go on to change its array

    def _matrix(self) -> FloatMatrix:
        """All vectors, (n, d); what was added since the last search is joined here, once."""
        if self._blocks:
            self._vectors = np.concatenate([self._vectors, *self._blocks])
            self._blocks = []
        return self._vectors

    def _candidates(
        self, queries: FloatMatrix, count: int, within: Selection | None
    ) -> tuple[FloatMatrix, NDArray[np.int64]]:
        parts = [
            self._best(queries[start : start + _BLOCK_QUERIES], count, within)
            for start in range(0, len(queries), _BLOCK_QUERIES)
        ]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([found for _, found in parts])

    def _best(
        self, queries: FloatMatrix, count: int, within: Selection | None
    ) -> tuple[FloatMatrix, NDArray[np.int64]]:
        matrix = self._matrix()
        scores = np.empty((len(queries), 0), dtype=np.float32)
        positions = np.empty((len(queries), 0), dtype=np.int64)
        for start in range(0, len(matrix), _BLOCK_ROWS):
            block = queries @ matrix[start : start + _BLOCK_ROWS].T  # (q, rows)
            found = np.arange(start, start + block.shape[1])
            if within is not None:
                chosen = within.mask[start : start + block.shape[1]]
                block, found = block[:, chosen], found[chosen]
            rows = np.broadcast_to(found, block.shape)
            scores = np.concatenate([scores, block], axis=1)
            positions = np.concatenate([positions, rows], axis=1)
            if scores.shape[1] > count:
                kept = np.argpartition(-scores, count - 1, axis=1)[:, :count]
                scores = np.take_along_axis(scores, kept, axis=1)
                positions = np.take_along_axis(positions, kept, axis=1)
        order = np.argsort(-scores, axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)

    def _nominated(self, query: FloatVector, least: float, within: Selection | None) -> NDArray[np.int64]:
        found = self._matrix() @ query > least
        return np.flatnonzero(found if within is None else found & within.mask)

    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) positions; (c, dimension) float32."""
        return self._matrix()[positions]
