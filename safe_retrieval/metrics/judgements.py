"""The two things a metric compares, and the checks that all metrics share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from safe_retrieval.errors import InputError

Qrels: TypeAlias = Mapping[str, Mapping[str, float]]
"""Query id to document id to grade. A grade above 0 is relevant; an absent pair is unjudged and earns nothing."""

Run: TypeAlias = Mapping[str, Sequence[str]]
"""Query id to document ids, best first, none twice. A judged query that is absent here was answered with nothing."""


def relevant_ids(grades: Mapping[str, float]) -> frozenset[str]:
    """The documents of one query whose grade is above 0."""
    return frozenset(document for document, grade in grades.items() if grade > 0)


def check_cutoff(k: int) -> None:
    """Raise InputError unless ``k`` is a rank, that is at least 1."""
    if k < 1:
        raise InputError(f"k must be 1 or more, got {k}")


def top(ranking: Sequence[str], k: int) -> Sequence[str]:
    """The first ``k`` ids of a ranking; all of them where there are fewer.

    Raises:
        InputError: an id stands there twice, which would be rewarded twice.
    """
    head = ranking[:k]
    if len(set(head)) != len(head):
        twice = next(document for document in head if list(head).count(document) > 1)
        raise InputError(f"a ranking must name a document once, {twice!r} is there twice; remove duplicates first")
    return head


def mean(values: Mapping[str, float], what: str) -> float:
    """Arithmetic mean over queries.

    Raises:
        InputError: there is no value. The mean of nothing is not 0.
    """
    if not values:
        raise InputError(f"{what} needs at least one judged query, got none")
    return math.fsum(values.values()) / len(values)
