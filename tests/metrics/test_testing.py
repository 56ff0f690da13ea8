from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, ttest_rel
from statsmodels.stats.multitest import multipletests

from safe_retrieval.errors import InputError
from safe_retrieval.metrics import Claim, claim, holm, paired_bootstrap_p, wilson


def test_holm_by_hand() -> None:
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4]) == [0.4]
    assert holm([]) == []


@settings(max_examples=30, deadline=None)  # one call of statsmodels takes 60 ms
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels_also_with_ties(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), abs=1e-12)


@pytest.mark.parametrize("p_value", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_cannot_be_corrected(p_value: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.5, p_value])


def test_a_claim_on_no_failure_needs_the_documented_sample() -> None:
    assert claim(0, 381, 0.01) == Claim(0.01, supported=True, needed=381)
    assert claim(0, 380, 0.01) == Claim(0.01, supported=False, needed=381)


def test_a_claim_below_what_was_measured_cannot_be_reached_by_asking_more() -> None:
    assert claim(2, 100, 0.01) == Claim(0.01, supported=False, needed=None)
    assert claim(1, 100, 0.01).needed is None
    assert claim(1, 1, 0.99) == Claim(0.99, supported=False, needed=None)


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.01, 0.99))
def test_a_supported_claim_is_one_whose_interval_ends_below_the_limit(failures: int, more: int, limit: float) -> None:
    n = failures + more
    checked = claim(failures, n, limit)
    assert checked.supported == (wilson(failures, n).high <= limit)
    assert (checked.needed is None) == (failures / n >= limit)


@pytest.mark.parametrize("limit", [0.0, 1.0, -1.0])
def test_a_limit_is_a_share(limit: float) -> None:
    with pytest.raises(InputError, match="limit lies between 0 and 1"):
        claim(0, 10, limit)


def test_equal_systems_one_query_and_ties_give_no_evidence() -> None:
    assert paired_bootstrap_p([0.2, 0.4], [0.2, 0.4]) == 1.0
    assert paired_bootstrap_p([0.1], [0.9]) == 1.0
    assert paired_bootstrap_p([0.1, 0.2, 0.3], [0.2, 0.3, 0.4]) == 0.25  # three of three: 2 x (1/2)^3
    assert paired_bootstrap_p([0.5, 0.2], [0.2, 0.5]) == 1.0


def test_the_paired_bootstrap_test_agrees_with_the_t_test_and_the_permutation_test() -> None:
    random = np.random.default_rng(3)
    first = random.beta(2, 3, 300)
    second = np.clip(first + random.normal(0.008, 0.06, 300), 0, 1)
    p_value = paired_bootstrap_p(first, second, seed=1)
    assert p_value == pytest.approx(ttest_rel(first, second).pvalue, abs=0.01)
    permuted = permutation_test(
        (second - first,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=5000, rng=0
    )
    assert p_value == pytest.approx(permuted.pvalue, abs=0.015)
    assert paired_bootstrap_p(first, second, seed=1) == p_value


def test_the_paired_bootstrap_test_keeps_its_level() -> None:
    random = np.random.default_rng(11)
    p_values = []
    for _ in range(300):
        first = random.random(60)
        p_values.append(paired_bootstrap_p(first, random.permutation(first) * 0.5 + first * 0.5, resamples=500))
    assert np.mean(np.array(p_values) <= 0.05) < 0.09


def test_shapes_and_values_are_checked() -> None:
    with pytest.raises(InputError, match="same queries"):
        paired_bootstrap_p([1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="same queries"):
        paired_bootstrap_p([], [])
    with pytest.raises(InputError, match="finite"):
        paired_bootstrap_p([float("nan")], [1.0])
