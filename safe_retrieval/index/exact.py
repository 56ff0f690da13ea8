"""The reference: exact search in NumPy, which the FAISS index has to agree with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.index.base import Candidates, VectorIndex
from safe_retrieval.index.products import largest_products
from safe_retrieval.index.vectors import Selection
from safe_retrieval.types import FloatMatrix, FloatVector


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

    def _candidates(self, queries: FloatMatrix, count: int, within: Selection | None) -> Candidates:
        return Candidates(*largest_products(queries, self._matrix(), count, within))

    def _nominated(self, query: FloatVector, least: float, within: Selection | None) -> NDArray[np.int64]:
        found = self._matrix() @ query > least
        return np.flatnonzero(found if within is None else found & within.mask)

    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) positions; (c, dimension) float32."""
        return self._matrix()[positions]
