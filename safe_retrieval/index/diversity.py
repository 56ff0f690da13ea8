"""Maximal marginal relevance: hits that are near the query and far from one another.

Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries
(SIGIR 1998): of the candidates that are left, take the one with the greatest

    balance * cosine(candidate, query) - (1 - balance) * max over those taken of cosine(candidate, taken)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import InputError
from safe_retrieval.types import FloatMatrix, FloatVector


def check_balance(balance: float) -> float:
    """Refuse a balance outside [0, 1].

    Raises:
        InputError: it is outside, or no number.
    """
    if not 0 <= balance <= 1:
        raise InputError(f"expected a balance from 0 (far from one another) to 1 (near the query), got {balance}")
    return balance


def most_diverse(scores: FloatVector, vectors: FloatMatrix, k: int, balance: float) -> NDArray[np.int64]:
    """Which candidates to take, in this order.

    Args:
        scores: (c,) float32, cosine of each candidate to the query.
        vectors: (c, d) float32, unit norm, the candidates, best first.
        k: how many to take at most.
        balance: 1 keeps the order of the scores, 0 looks at diversity alone.

    Returns:
        (min(k, c),) int64, rows of ``vectors``; between equals the one that comes first.
    """
    relevance = balance * scores.astype(np.float64)
    wide = vectors.astype(np.float64)
    # Nothing is taken yet, so the first choice is by relevance; with balance 0 that is the first candidate.
    nearest_taken = np.full(len(scores), -np.inf)
    left = np.ones(len(scores), dtype=np.bool_)
    taken: list[int] = []
    for _ in range(min(k, len(scores))):
        penalty = (1 - balance) * nearest_taken if taken else np.zeros(len(scores))
        value = np.where(left, relevance - penalty, -np.inf)
        best = int(np.argmax(value))
        taken.append(best)
        left[best] = False
        nearest_taken = np.maximum(nearest_taken, wide @ wide[best])
    return np.asarray(taken, dtype=np.int64)
