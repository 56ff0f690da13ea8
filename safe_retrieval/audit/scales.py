"""Scores of foreign retrievers: which of the usual ones they are, found out by computing them again.

Two result lists can be merged by score only if both mean the same by it. So the audit takes passages that the retriever
returned with text and score, embeds query and text with the retriever's own embedder, and looks which formula gives
those scores. Where none does, nothing is merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.types import FloatMatrix

TOLERANCE = 0.02
"""How far a score may be from the formula's, for quantised vectors and half precision; squared distances twice that."""

AGREEING = 0.9
"""Share of passages whose score must agree; the rest may have been cut or cleaned before they were embedded."""


class Scale(StrEnum):
    """What a score is, of a query q and a passage p."""

    COSINE = "cosine"
    INNER_PRODUCT = "inner-product"
    UNIT_COSINE = "unit-cosine"
    """(1 + cosine) / 2, a relevance from 0 to 1."""
    COSINE_DISTANCE = "cosine-distance"
    """1 - cosine."""
    L2 = "l2"
    """Euclidean distance."""
    SQUARED_L2 = "squared-l2"
    """What FAISS returns for L2."""

    @property
    def is_distance(self) -> bool:
        """Whether less is nearer."""
        return self in {Scale.COSINE_DISTANCE, Scale.L2, Scale.SQUARED_L2}

    @property
    def tolerance(self) -> float:
        """See :data:`TOLERANCE`."""
        return 2 * TOLERANCE if self is Scale.SQUARED_L2 else TOLERANCE

    def scores(self, queries: FloatMatrix, documents: FloatMatrix) -> NDArray[np.float64]:
        """(q, n) scores of (q, d) queries and (n, d) documents."""
        first, second = np.asarray(queries, dtype=np.float64), np.asarray(documents, dtype=np.float64)
        match self:
            case Scale.INNER_PRODUCT:
                return np.asarray(first @ second.T)
            case Scale.COSINE | Scale.UNIT_COSINE | Scale.COSINE_DISTANCE:
                cosine = _unit(first) @ _unit(second).T
                return np.asarray(
                    {Scale.COSINE: cosine, Scale.UNIT_COSINE: (1 + cosine) / 2, Scale.COSINE_DISTANCE: 1 - cosine}[self]
                )
            case Scale.L2 | Scale.SQUARED_L2:
                squared = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
                return np.asarray(
                    np.maximum(squared, 0) if self is Scale.SQUARED_L2 else np.sqrt(np.maximum(squared, 0))
                )


class Sample(NamedTuple):
    """Passages with the scores that a retriever gave them: row i of each belongs together."""

    queries: FloatMatrix
    documents: FloatMatrix
    scores: Sequence[float]


class Agreement(NamedTuple):
    """How well a formula explains scores: the mean difference, and the share within its tolerance."""

    scale: Scale
    difference: float
    share: float

    @property
    def holds(self) -> bool:
        """Whether it explains them."""
        return self.share >= AGREEING


def agreement(sample: Sample, scale: Scale) -> Agreement:
    """Compare a sample's scores with the formula's."""
    rows = zip(sample.queries, sample.documents, strict=True)
    computed = np.array([scale.scores(query[None], document[None])[0, 0] for query, document in rows])
    apart = np.abs(computed - np.asarray(sample.scores, dtype=np.float64))
    return Agreement(scale, float(apart.mean()), float((apart <= scale.tolerance).mean()))


def best_agreement(sample: Sample) -> Agreement:
    """The formula that explains a sample best; look at ``holds``.

    For unit vectors a cosine is an inner product; the first of equals is taken, and it makes no difference.
    """
    found = [agreement(sample, scale) for scale in Scale]
    return min(found, key=lambda each: (not each.holds, round(each.difference, 6)))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
