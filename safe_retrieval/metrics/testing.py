"""Tests beside the intervals: of a graded metric's change, of several changes at once, and of a claim about a share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from safe_retrieval.errors import InputError
from safe_retrieval.metrics.statistics import Values, required_sample_size, resampled_means, wilson

_ROUNDING = 1e-12
"""Means of the same values in another order differ in their last bits; such draws count as equal."""


class Claim(NamedTuple):
    """Whether a sample supports "the share is at most ``limit``".

    Attributes:
        limit: of the share.
        supported: the upper end of the Wilson interval is at most ``limit``.
        needed: queries, asked and to be asked, that would support it if the share stayed what was measured; ``None``
            where the measured share is not below the limit, so that no number of queries would.
    """

    limit: float
    supported: bool
    needed: int | None


def claim(successes: int, n: int, limit: float, *, confidence: float = 0.95) -> Claim:
    """Check "the share is at most ``limit``" on ``successes`` of ``n``, and say how many queries it takes.

    ``needed`` takes the measured share for the true one, so it is the least that can be expected, not a promise; where
    a share of 0 was measured, plan with a small one above it.

    Raises:
        InputError: ``n`` is 0, ``successes`` is not between 0 and ``n``, or ``limit`` not between 0 and 1.
    """
    if not 0 < limit < 1:
        raise InputError(f"a claim's limit lies between 0 and 1, got {limit}")
    share = wilson(successes, n, confidence=confidence)
    needed = required_sample_size(share.value, limit, confidence=confidence) if share.value < limit else None
    return Claim(limit, share.high <= limit, needed)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several: reject all that are at most alpha, and the chance of even one false
    rejection stays at most alpha, whatever the dependence between the tests.

    With p_(1) <= ... <= p_(m), the corrected value of rank i is max over j <= i of min(1, (m - j + 1) p_(j)).

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6,
    1979.

    Args:
        p_values: any number of them; none gives none.

    Returns:
        Corrected p-values, in the given order.

    Raises:
        InputError: a value is no probability.
    """
    if not all(0 <= value <= 1 for value in p_values):
        raise InputError(f"p-values lie between 0 and 1, got {list(p_values)}")
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    least = 0.0
    for place, position in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p_values[position]))
        corrected[position] = least
    return corrected


def paired_bootstrap_p(first: Values, second: Values, *, seed: int = 0, resamples: int = 10_000) -> float:
    """Two-sided p-value of "the means do not differ", for graded values on the same queries.

    The differences are shifted to mean 0, which makes the hypothesis true of the sample, and resampled; p is the share
    of resamples whose mean lies at least as far from 0 as the measured one, both counts raised by one so that it is
    never 0. Resampling knows no more spread than the sample shows, and one query shows none; so p is held to at least
    2^(1 - m), the least that a sign test of m differing queries can reach. Equal values give 1.

    Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.4; for retrieval metrics T.
    Sakai, SIGIR 2006.

    Raises:
        InputError: lengths differ, nothing is there, or a value is not finite.
    """
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or not left.size:
        raise InputError(
            f"a paired test compares the same queries in the same order, got shapes {left.shape} and {right.shape}"
        )
    differences = right - left
    if not np.isfinite(differences).all():
        raise InputError("a paired test needs finite values; leave unjudged queries out instead of passing NaN")
    measured = math.fsum(differences) / differences.size
    means = resampled_means((differences - measured)[:, None], seed=seed, resamples=resamples)[:, 0]
    as_far = int((np.abs(means) >= abs(measured) - _ROUNDING).sum())
    least = 2.0 ** min(1 - int(np.count_nonzero(differences)), 0)
    return float(max(least, (as_far + 1) / (resamples + 1)))
