"""What the exact and the FAISS index have in common: string ids, checks before anything goes in, ranking."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import InputError
from safe_retrieval.index.exact_scores import ranked
from safe_retrieval.index.vectors import (
    Ranking,
    Selection,
    check_ids,
    check_k,
    check_vectors,
    ordered,
    rounding_margin,
    score,
)
from safe_retrieval.types import FloatMatrix, FloatVector, Hit

# Candidates beyond k that are asked for at once, and for how many of k one more of them. Near-ties at rank k are few as
# a rule; where they are not, the search goes on with twice as many, so often, and then with all that are near enough.
_SPARE = 8
_SPARE_OF = 4
_ROUNDS = 3
# Vectors that are scored at once: in float64 and of 384 numbers, 6 MB.
_BLOCK_ROWS = 2_048


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


class Candidates(NamedTuple):
    """What a search nominates for q queries, whose exact scores then decide.

    Attributes:
        scores: (q, c) float32, falling.
        positions: (q, c) int64; -1 where there are no more.
        vectors: (q, c, dimension) float32, if they came along.
    """

    scores: FloatMatrix
    positions: NDArray[np.int64]
    vectors: NDArray[np.float32] | None = None


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
        return self.nearest(check_vectors(vectors, self.dimension, what="query vector"), check_k(k), within)

    def nearest(self, queries: FloatMatrix, k: int, within: Selection | None) -> list[Ranking]:
        """As :meth:`rankings`, of queries and a ``k`` that were checked."""
        available = len(self) if within is None else within.count
        count = min(k, available)
        rankings: list[Ranking] = [Ranking(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        if count == 0 or not len(queries):
            return rankings
        asked = count + _SPARE + count // _SPARE_OF
        open_rows, bounds = np.arange(len(queries)), np.empty(0, np.float32)
        for _ in range(_ROUNDS):
            asked = min(asked, available)
            found = self._candidates(queries[open_rows], asked, within)
            # Settled: all candidates were asked for, or the last one is too far below rank k to be a near-tie.
            bounds = found.scores[:, count - 1] - rounding_margin(self.dimension)
            settled = (found.scores[:, -1] < bounds) | (asked == available)
            near = (found.scores >= bounds[:, None]) & (found.positions >= 0)
            if len(open_rows) == len(queries) and settled.all():  # as a rule
                return self._ranked(queries, found, near, count)
            near &= settled[:, None]
            ready = self._ranked(queries[open_rows], found, near, count)
            for row in np.flatnonzero(settled).tolist():
                rankings[open_rows[row]] = ready[row]
            open_rows, bounds = open_rows[~settled], bounds[~settled]
            if not open_rows.size:
                return rankings
            asked *= 2
        for row, bound in zip(open_rows.tolist(), bounds.tolist(), strict=True):
            chosen = self._nominated(queries[row], bound, within)
            rankings[row] = ordered(chosen, self._scored(queries[row], chosen), count)
        return rankings

    def _ranked(self, queries: FloatMatrix, found: Candidates, near: NDArray[np.bool_], count: int) -> list[Ranking]:
        """The best of those candidates that are near, by exact scores."""

        def fetch(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> FloatMatrix:
            if found.vectors is None:
                return self.vectors_at(found.positions[rows, columns])
            return found.vectors[rows, columns]

        return ranked(queries, found.positions, near, count, fetch)

    def _scored(self, query: FloatVector, positions: NDArray[np.int64]) -> FloatVector:
        """Exact scores at (c,) positions; (c,) float32. Vectors of one block at a time are in memory."""
        if len(positions) <= _BLOCK_ROWS:
            return score(query, self.vectors_at(positions))
        parts = (positions[start : start + _BLOCK_ROWS] for start in range(0, len(positions), _BLOCK_ROWS))
        return np.concatenate([score(query, self.vectors_at(part)) for part in parts])

    def above(self, query: FloatVector, least: float, *, within: Selection | None = None) -> Ranking:
        """All positions whose inner product with a query is at least ``least``, ranked as by :meth:`rankings`.

        Args:
            query: (dimension,) float32, checked.
            least: smallest score.
            within: the only positions that count, if there is such a restriction.
        """
        found = self._nominated(query, least - rounding_margin(self.dimension), within)
        scores = self._scored(query, found)
        near = np.flatnonzero(scores >= least)
        return ordered(found[near], scores[near])

    def faults(self) -> list[str]:
        """What is wrong with the places of vectors, one sentence each; the vectors themselves are not looked at."""
        return []

    @abstractmethod
    def _append(self, vectors: FloatMatrix) -> None:
        """Store checked vectors at the next positions."""

    @abstractmethod
    def _candidates(self, queries: FloatMatrix, count: int, within: Selection | None) -> Candidates:
        """So many for each query; ``count`` is at most the number selected."""

    @abstractmethod
    def _nominated(self, query: FloatVector, least: float, within: Selection | None) -> NDArray[np.int64]:
        """The selected positions whose float32 score is above ``least``, in any order."""

    @abstractmethod
    def vectors_at(self, positions: NDArray[np.int64]) -> FloatMatrix:
        """The vectors at (c,) positions; (c, dimension) float32."""
