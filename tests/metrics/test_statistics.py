from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint

from safe_retrieval.errors import InputError
from safe_retrieval.metrics import (
    Change,
    bootstrap_mean,
    mcnemar,
    mean_estimate,
    paired_bootstrap,
    required_sample_size,
    wilson,
)
from safe_retrieval.metrics import statistics as module


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 60), (60, 60), (7, 60), (1, 520), (403, 520)])
def test_wilson_equals_statsmodels_also_at_the_ends_and_for_one(successes: int, n: int) -> None:
    low, high = proportion_confint(successes, n, method="wilson")
    estimate = wilson(successes, n)
    assert estimate.value == successes / n
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert estimate.n == n


def test_wilson_by_hand_for_no_failure_in_ten() -> None:
    # z^2 / (n + z^2) with z = 1.959964
    assert wilson(0, 10).high == pytest.approx(3.841459 / 13.841459, abs=1e-6)
    assert wilson(0, 10).low == 0.0


def test_a_share_of_nothing_raises() -> None:
    with pytest.raises(InputError, match="at least one observation"):
        wilson(0, 0)


@pytest.mark.parametrize("successes", [-1, 11])
def test_impossible_counts_raise(successes: int) -> None:
    with pytest.raises(InputError, match="between 0 and n = 10"):
        wilson(successes, 10)


def test_confidence_must_be_a_probability() -> None:
    with pytest.raises(InputError, match="got 95"):
        wilson(1, 10, confidence=95)


def test_bootstrap_of_a_constant_and_of_one_value_has_no_width() -> None:
    assert bootstrap_mean([0.3] * 5)[1:3] == (pytest.approx(0.3), pytest.approx(0.3))
    assert bootstrap_mean([0.7]) == (0.7, 0.7, 0.7, 1)


def test_bootstrap_agrees_with_scipy() -> None:
    sample = np.random.default_rng(1).beta(2, 5, 200)
    interval = bootstrap((sample,), np.mean, method="percentile", n_resamples=10_000).confidence_interval
    estimate = bootstrap_mean(sample)
    assert estimate.value == pytest.approx(sample.mean())
    assert estimate.low == pytest.approx(interval.low, abs=0.002)
    assert estimate.high == pytest.approx(interval.high, abs=0.002)


def test_bootstrap_repeats_for_a_seed_and_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = np.random.default_rng(2).random(50)
    whole = bootstrap_mean(sample, seed=4, resamples=999)
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", 500)
    assert bootstrap_mean(sample, seed=4, resamples=999) == whole
    assert bootstrap_mean(sample, seed=5, resamples=999) != whole


def test_mean_estimate_is_wilson_for_shares_and_bootstrap_otherwise() -> None:
    assert mean_estimate([1, 0, 0, 1]) == wilson(2, 4)
    assert mean_estimate([0, 0, 0]) == wilson(0, 3)
    assert mean_estimate([0.5, 1.0, 0.0], seed=1) == bootstrap_mean([0.5, 1.0, 0.0], seed=1)


@pytest.mark.parametrize("values", [[], [float("nan")], [[0.0]]])
def test_means_of_nothing_of_nan_and_of_tables_raise(values: list[float]) -> None:
    with pytest.raises(InputError):
        mean_estimate(values)


@pytest.mark.parametrize("table", [(3, 12), (12, 3), (0, 6), (0, 1), (40, 41)])
def test_mcnemar_equals_statsmodels(table: tuple[int, int]) -> None:
    only_first, only_second = table
    first = [1] * only_first + [0] * only_second + [1] * 5 + [0] * 4
    second = [0] * only_first + [1] * only_second + [1] * 5 + [0] * 4
    expected = statsmodels_mcnemar([[5, only_first], [only_second, 4]], exact=True).pvalue
    assert mcnemar(first, second) == (only_first, only_second, pytest.approx(expected, abs=1e-12))


def test_mcnemar_by_hand_and_without_any_difference() -> None:
    assert mcnemar([1] * 5, [0] * 5).p_value == pytest.approx(2 * 0.5**5)
    assert mcnemar([1, 0], [1, 0]) == (0, 0, 1.0)


def test_mcnemar_refuses_graded_values_and_other_lengths() -> None:
    with pytest.raises(InputError, match="use paired_bootstrap"):
        mcnemar([0.5], [1.0])
    with pytest.raises(InputError, match="got 1 and 2 values"):
        mcnemar([1], [1, 0])


def test_paired_bootstrap_by_hand() -> None:
    first, second = [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]
    assert paired_bootstrap(first, second).value == pytest.approx(-0.6)
    assert paired_bootstrap(first, second, change=Change.RELATIVE).value == pytest.approx(-0.75)


def test_equal_systems_differ_by_nothing_however_noisy_the_queries_are() -> None:
    values = np.random.default_rng(0).random(40)
    assert paired_bootstrap(values, values)[:3] == pytest.approx((0.0, 0.0, 0.0))


def test_paired_bootstrap_agrees_with_scipy() -> None:
    random = np.random.default_rng(8)
    first = random.random(150)
    second = np.clip(first + random.normal(0.05, 0.1, 150), 0, 1)
    interval = bootstrap(
        (first, second), lambda a, b, axis: b.mean(axis) - a.mean(axis), paired=True, method="percentile"
    ).confidence_interval
    estimate = paired_bootstrap(first, second)
    assert estimate.low == pytest.approx(interval.low, abs=0.002)
    assert estimate.high == pytest.approx(interval.high, abs=0.002)
    assert estimate.n == 150


def test_relative_change_from_zero_raises_and_rare_zero_resamples_are_left_out() -> None:
    with pytest.raises(InputError, match="first mean above 0"):
        paired_bootstrap([0, 0], [1, 0], change=Change.RELATIVE)
    estimate = paired_bootstrap([1, 0, 0], [1, 0, 0], change=Change.RELATIVE)
    assert estimate[:3] == (0.0, 0.0, 0.0)


def test_sample_size_of_the_documented_example() -> None:
    assert required_sample_size(0.0, 0.01) == 381
    assert wilson(0, 381).high <= 0.01 < wilson(0, 380).high


@given(st.integers(0, 50), st.integers(1, 400))
def test_the_required_sample_supports_the_claim_and_one_query_less_does_not(failures: int, more: int) -> None:
    n = failures + more
    claim = wilson(failures, n).high
    if not failures / n < claim < 1:
        return
    assert abs(required_sample_size(failures / n, claim) - n) <= 1


@pytest.mark.parametrize(("expected", "claim"), [(0.1, 0.1), (-0.1, 0.2), (0.5, 1.0)])
def test_claims_that_no_sample_can_support_raise(expected: float, claim: float) -> None:
    with pytest.raises(InputError, match="expected < claim < 1"):
        required_sample_size(expected, claim)
