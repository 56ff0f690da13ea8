"""How sure a figure is: intervals for shares and means, paired tests, and the sample a claim needs.

All intervals are two-sided at 95 % unless ``confidence`` says otherwise. What is random takes a seed and gives the same
answer for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import InputError

Values: TypeAlias = Sequence[float] | NDArray[np.float32] | NDArray[np.float64]
"""One value a query."""

Sample: TypeAlias = NDArray[np.float64]
"""(n,) one value a query, or one a resample."""

_CELLS_AT_ONCE = 4_000_000
"""Counts held at a time (32 MB), so that 10,000 resamples of many distinct rows do not fill the memory."""


class Estimate(NamedTuple):
    """A figure, its interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


class McNemar(NamedTuple):
    """Outcome of McNemar's test: the discordant pairs and the two-sided exact p-value."""

    only_first: int
    only_second: int
    p_value: float


class Change(StrEnum):
    """How :func:`paired_bootstrap` compares two means."""

    DIFFERENCE = "difference"
    """mean(second) - mean(first)."""
    RELATIVE = "relative"
    """mean(second) / mean(first) - 1."""


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, got {confidence}")


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """A share with its Wilson score interval, which keeps its coverage at 0 % and 100 % and never leaves [0, 1].

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927;
    recommended for small n by Brown, Cai and DasGupta, Statistical Science 16(2), 2001.

    Raises:
        InputError: ``n`` is 0 (a share of nothing is not 0), or ``successes`` is not between 0 and ``n``.
    """
    _check_confidence(confidence)
    if n < 1:
        raise InputError("a share needs at least one observation, got none")
    if not 0 <= successes <= n:
        raise InputError(f"successes must lie between 0 and n = {n}, got {successes}")
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n)


def percentile_interval(draws: Sample, *, confidence: float = 0.95) -> tuple[float, float]:
    """The central interval of bootstrap draws (Efron's percentile method); draws that are NaN are left out.

    Raises:
        InputError: no draw is a number.
    """
    _check_confidence(confidence)
    if np.isnan(draws).all():
        raise InputError("no resample has a defined value, so there is no interval")
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def _sample(values: Values, what: str) -> Sample:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise InputError(f"{what} needs at least one value in one row, got shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise InputError(f"{what} needs finite values; leave unjudged queries out instead of passing NaN")
    return sample


def resampled_means(rows: NDArray[np.float64], *, seed: int, resamples: int) -> NDArray[np.float64]:
    """Column means of bootstrap resamples.

    Drawing n of n rows with replacement is drawing how often each *distinct* row comes up, a multinomial count; metric
    values have few distinct rows, so this costs a small share of gathering rows one by one.

    Args:
        rows: (n, c) one row a query, one column a quantity; columns of a row stay together.
        seed: of the random generator; equal seeds give equal draws.
        resamples: how many.

    Returns:
        (resamples, c) float64.
    """
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    share = counts / len(rows)
    block = max(1, _CELLS_AT_ONCE // len(distinct))
    means = np.empty((resamples, rows.shape[1]))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        means[start : start + size] = random.multinomial(len(rows), share, size=size) @ distinct / len(rows)
    return means


def bootstrap_mean(values: Values, *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95) -> Estimate:
    """A mean over queries with a percentile bootstrap interval; for values that are not just 0 and 1, such as nDCG.

    Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; for retrieval metrics:
    T. Sakai, "Evaluating evaluation metrics based on the bootstrap", SIGIR 2006. With n = 1 the interval has no width.

    Raises:
        InputError: there is no value, or one is not finite.
    """
    sample = _sample(values, "a bootstrap")
    means = resampled_means(sample[:, None], seed=seed, resamples=resamples)
    low, high = percentile_interval(means, confidence=confidence)
    return Estimate(float(sample.mean()), low, high, sample.size)


def mean_estimate(values: Values, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """A mean with the interval that fits: Wilson where every value is 0 or 1, else the bootstrap.

    Raises:
        InputError: there is no value, or one is not finite.
    """
    sample = _sample(values, "a mean")
    if np.isin(sample, (0.0, 1.0)).all():
        return wilson(int(sample.sum()), sample.size, confidence=confidence)
    return bootstrap_mean(values, seed=seed, confidence=confidence)


def _pair(first: Values, second: Values, what: str) -> tuple[Sample, Sample]:
    left, right = _sample(first, what), _sample(second, what)
    if left.size != right.size:
        raise InputError(f"{what} compares the same queries in the same order, got {left.size} and {right.size} values")
    return left, right


def mcnemar(first: Values, second: Values) -> McNemar:
    """McNemar's exact test of two systems that each succeed (1) or fail (0) on the same queries.

    The p-value is two-sided, from the binomial distribution of the discordant pairs with p = 1/2; 1.0 where the two
    never differ.

    Source: Q. McNemar, Psychometrika 12, 1947; exact form in A. Agresti, "Categorical Data Analysis", section 10.1.

    Raises:
        InputError: lengths differ, nothing is there, or a value is neither 0 nor 1.
    """
    left, right = _pair(first, second, "McNemar's test")
    if not np.isin(np.concatenate([left, right]), (0.0, 1.0)).all():
        raise InputError("McNemar's test needs values 0 or 1; use paired_bootstrap for graded metrics")
    only_first, only_second = int((left > right).sum()), int((right > left).sum())
    discordant = only_first + only_second
    if discordant == 0:
        return McNemar(0, 0, 1.0)
    from scipy.stats import binomtest

    return McNemar(only_first, only_second, float(binomtest(only_first, discordant).pvalue))


def _change(first: Sample, second: Sample, change: Change) -> Sample:
    if change is Change.DIFFERENCE:
        return second - first
    defined = first != 0
    return np.where(defined, second / np.where(defined, first, 1.0) - 1.0, np.nan)


def paired_bootstrap(
    first: Values,
    second: Values,
    *,
    change: Change = Change.DIFFERENCE,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Estimate:
    """How the mean changes from the first system to the second, with an interval, on the same queries.

    Queries are resampled, not systems, so what makes a query hard for both cancels out. Resamples in which the first
    mean is 0 have no relative change and are left out.

    Source: B. Efron and R. Tibshirani, 1993, chapter 13; paired use: T. Berg-Kirkpatrick et al., EMNLP 2012.

    Raises:
        InputError: lengths differ, nothing is there, or a relative change from 0 is asked for.
    """
    left, right = _pair(first, second, "a paired bootstrap")
    if change is Change.RELATIVE and left.mean() == 0:
        raise InputError("a relative change needs a first mean above 0; use Change.DIFFERENCE")
    value = _change(np.array([left.mean()]), np.array([right.mean()]), change)
    means = resampled_means(np.column_stack([left, right]), seed=seed, resamples=resamples)
    draws = _change(means[:, 0], means[:, 1], change)
    low, high = percentile_interval(draws, confidence=confidence)
    return Estimate(float(value[0]), low, high, left.size)


def required_sample_size(expected: float, claim: float, *, confidence: float = 0.95) -> int:
    """Queries needed before a share expected to be ``expected`` supports "the share is at most ``claim``".

    The claim holds when the upper end of the two-sided Wilson interval is at most ``claim``. That interval inverts the
    score test, so its end meets the claim where (claim - expected)^2 = z^2 claim (1 - claim) / n; solved for n and
    rounded up. Example: with no failure expected, "at most 1 %" takes 381 queries.

    Raises:
        InputError: not 0 <= expected < claim < 1.
    """
    _check_confidence(confidence)
    if not 0 <= expected < claim < 1:
        raise InputError(f"need 0 <= expected < claim < 1, got expected {expected} and claim {claim}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return math.ceil(z * z * claim * (1 - claim) / (claim - expected) ** 2)
