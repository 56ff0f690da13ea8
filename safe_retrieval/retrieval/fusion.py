"""Reciprocal rank fusion: several rankings of the same documents into one, by ranks alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from safe_retrieval.errors import InputError
from safe_retrieval.index.vectors import check_k
from safe_retrieval.types import Hit

RANK_CONSTANT = 60
"""The constant of Cormack et al.; it keeps the first ranks from deciding everything."""


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Hit]], *, k: int = 10, rank_constant: int = RANK_CONSTANT
) -> list[Hit]:
    """Fuse rankings by score(d) = sum over rankings of 1 / (rank_constant + rank of d), ranks from 1.

    Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009. A document that a ranking lacks gets nothing from it. The scores of the rankings are not looked at, so
    cosines and BM25 need no common scale.

    Args:
        rankings: each best first, no document twice in one of them.
        k: most hits returned.
        rank_constant: above 0; the larger, the less the first ranks count.

    Returns:
        At most ``k`` hits by falling fused score; ties by the best rank, then by the first ranking that has it.

    Raises:
        InputError: ``k`` is below 1, ``rank_constant`` not above 0, or a ranking has a document twice.
    """
    check_k(k)
    if rank_constant <= 0:
        raise InputError(f"rank_constant must be above 0, got {rank_constant}")
    ranks: dict[str, list[tuple[int, int]]] = {}  # id -> (rank, number of the ranking)
    for number, ranking in enumerate(rankings):
        if len({hit.id for hit in ranking}) < len(ranking):
            raise InputError(f"ranking {number} has a document twice; each document has one rank")
        for rank, hit in enumerate(ranking, start=1):
            ranks.setdefault(hit.id, []).append((rank, number))
    # fsum is exact up to one rounding, so equal sets of ranks tie whichever ranking gave which of them.
    fused = {
        identifier: math.fsum(1 / (rank_constant + rank) for rank, _ in places) for identifier, places in ranks.items()
    }
    ordered = sorted(fused, key=lambda identifier: (-fused[identifier], min(ranks[identifier])))
    return [Hit(identifier, fused[identifier]) for identifier in ordered[:k]]
