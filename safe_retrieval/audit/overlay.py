"""Probe passages beside a retriever's own, at query time: a side index in memory, merged by score.

The retriever is asked as it is and never written. Its hits and those of the side index are put in one order by their
scores, which must mean the same (:mod:`safe_retrieval.audit.scales`), and the best k are kept: exactly what the
retriever would have returned, had the probe passages been in it and its search been exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safe_retrieval.audit.scales import Scale
from safe_retrieval.types import FloatMatrix, Hit


class Overlay:
    """Probe passages in the vector space of the audited retriever.

    Args:
        ids: n distinct ids.
        vectors: (n, d) float32, as the retriever would have embedded them.
        scale: what its scores are.
    """

    def __init__(self, ids: Sequence[str], vectors: FloatMatrix, scale: Scale) -> None:
        self._ids = ids
        self._vectors = vectors
        self._sign = -1.0 if scale.is_distance else 1.0
        self.scale = scale

    def search(self, queries: FloatMatrix, k: int) -> list[list[Hit]]:
        """The best ``k`` for each of (q, d) queries, by falling score (distances are negated), ties by position."""
        scores = self._sign * self.scale.scores(queries, self._vectors)
        positions = np.arange(len(self._ids))
        rows = [(row, np.lexsort((positions, -row))[:k]) for row in scores]
        return [[Hit(self._ids[place], float(row[place])) for place in best] for row, best in rows]


def merged(own: Sequence[Hit], beside: Sequence[Hit], k: int) -> list[Hit]:
    """Two rankings by falling score as one; at equal scores ``own`` comes first, and an id in both keeps its better.

    Args:
        own: what the retriever returned, its scores on the overlay's scale.
        beside: what the overlay found.
        k: most hits.
    """
    best: dict[str, Hit] = {}
    for hit in sorted([*own, *beside], key=lambda each: -each.score):
        best.setdefault(hit.id, hit)
    return list(best.values())[:k]
