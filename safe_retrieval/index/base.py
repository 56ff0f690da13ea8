"""What the exact and the FAISS index have in common: string ids, checks before anything goes in, ranking."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import InputError
from safe_retrieval.index.vectors import (
    Ranking,
    Selection,
    check_ids,
    check_k,
    check_vectors,
    ordered,
    rank,
    rounding_margin,
    score,
)
from safe_retrieval.types import FloatMatrix, FloatVector, Hit

# Candidates beyond k that are asked for at once, and for how many of k one more of them. Near-ties at rank k are few as
# a rule; where they are not, the search goes on with twice as many.
_SPARE = 8
_SPARE_OF = 4
# Vectors that are scored at once where their number has no bound.
_BLOCK_ROWS = 16_384


class IdTable(Protocol):
    """String ids by position."""

    def __len__(self) -> int:
        """Number of ids."""

    def ids_at(self, positions: Sequence[int]) -> list[str]:
        """The ids at these positions, in the order asked."""


class IdList:
    """Ids in memory."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._known: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def ids_at(self, positions: Sequence[int]) -> list[str]:
        """The ids at these positions, in the order asked."""
        return [self._ids[position] for position in positions]

    def extend(self, ids: Sequence[str]) -> None:
        """Append ids.

        Raises:
            InputError: one of them is there already; nothing is appended then.
        """
        repeated = next((identifier for identifier in ids if identifier in self._known), None)
        if repeated is not None:
            raise InputError(f"id {repeated!r} is already in the index; ids are unique")
        self._ids.extend(ids)
        self._known.update(ids)


class VectorIndex(ABC):
    """Unit vectors with string ids, searched exactly by inner product, which for unit vectors is the cosine.

    Args:
        dimension: length of a vector.
        ids: ids of vectors that are there already, for an index opened from a folder; nothing can be added to it.
    """

    def __init__(self, dimension: int, *, ids: IdTable | None = None) -> None:
        if dimension < 1:
            raise InputError(f"dimension must be at least 1, got {dimension}")
        self._dimension = dimension
        self._ids: IdTable = IdList() if ids is None else ids

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    def __len__(self) -> int:
        return len(self._ids)

    def vectors_between(self, start: int, stop: int) -> FloatMatrix:
        """The vectors at positions ``start`` to ``stop - 1``; (stop - start, dimension) float32."""
        return self.vectors_at(np.arange(start, stop))

    def add(self, ids: Sequence[str], vectors: FloatMatrix) -> None:
        """Append vectors; all of them, or none if one is faulty.

        Args:
            ids: n strings, none of them in the index yet.
            vectors: (n, dimension) float32, unit norm.

        Raises:
            InputError: an id is repeated or no string; vectors are not float32, not of that shape, not finite, zero,
                or not of unit norm; or the index was opened from a folder.
        """
        if not isinstance(self._ids, IdList):
            raise InputError("this index was opened from a folder, to be asked; build a new one to change it")
        checked_ids = check_ids(ids)
        checked = check_vectors(vectors, self.dimension)
        if len(checked_ids) != len(checked):
            raise InputError(f"expected one id for each vector, got {len(checked_ids)} ids and {len(checked)} vectors")
        self._ids.extend(checked_ids)
        self._append(checked)

    def search(self, vectors: FloatMatrix, k: int = 10) -> list[list[Hit]]:
        """The nearest vectors to each query.

        Args:
            vectors: (q, dimension) float32, unit norm.
            k: most hits for a query; more than the index holds is fine and gives all of it.

        Returns:
            One list for each query: min(k, n) hits by falling score, ties by the order in which they were added.

        Raises:
            InputError: faulty vectors, as in :meth:`add`, or ``k`` below 1.
        """
        rankings = self.rankings(vectors, k)
        ids = self._ids.ids_at([int(position) for ranking in rankings for position in ranking.positions])
        hits = iter(ids)
        return [[Hit(next(hits), float(value)) for value in ranking.scores] for ranking in rankings]

    def rankings(self, vectors: FloatMatrix, k: int = 10, *, within: Selection | None = None) -> list[Ranking]:
        """As :meth:`search`, with positions in place of ids, and of the selected positions alone if there are such."""
        queries = check_vectors(vectors, self.dimension, what="query vector")
        available = len(self) if within is None else within.count
        count = min(check_k(k), available)
        rankings: list[Ranking] = [Ranking(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        if count == 0:
            return rankings
        asked = count + _SPARE + count // _SPARE_OF
        open_rows = np.arange(len(queries))
        while open_rows.size:
            asked = min(asked, available)
            scores, positions = self._candidates(queries[open_rows], asked, within)
            # Settled: all candidates were asked for, or the last one is too far below rank k to be a near-tie.
            bound = scores[:, count - 1] - rounding_margin(self.dimension)
            settled = (scores[:, -1] < bound) | (asked == available)
            for row in np.flatnonzero(settled):
                kept = positions[row, scores[row] >= bound[row]]
                query = queries[open_rows[row]]
                rankings[open_rows[row]] = rank(query, kept, self.vectors_at(kept), count)
            open_rows = open_rows[~settled]
            asked *= 2
        return rankings

    def above(self, query: FloatVector, least: float, *, within: Selection | None = None) -> Ranking:
        """All positions whose inner product with a query is at least ``least``, ranked as by :meth:`rankings`.

        Args:
            query: (dimension,) float32, checked.
            least: smallest score.
            within: the only positions that count, if there is such a restriction.
        """
        found = self._nominated(query, least - rounding_margin(self.dimension), within)
        parts = [found[start : start + _BLOCK_ROWS] for start in range(0, len(found), _BLOCK_ROWS)]
        scores = np.concatenate([np.empty(0, np.float32), *(score(query, self.vectors_at(part)) for part in parts)])
        near = np.flatnonzero(scores >= least)
        return ordered(found[near], scores[near])

    @abstractmethod
    def _append(self, vectors: FloatMatrix) -> None:
        """Store checked vectors at the next positions."""

    @abstractmethod
    def _candidates(
        self, queries: FloatMatrix, count: int, within: Selection | None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(q, count) float32 scores, falling, and their positions; ``count`` is at most the number selected."""

    @abstractmethod
    def _nominated(self, query: FloatVector, least: float, within: Selection | None) -> NDArray[np.int64]:
        """The selected positions whose float32 score is above ``least``, in any order."""

    @abstractmethod
    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) positions; (c, dimension) float32."""
