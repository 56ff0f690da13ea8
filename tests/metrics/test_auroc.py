from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from safe_retrieval.errors import InputError
from safe_retrieval.metrics import auroc, auroc_estimate


def test_by_hand_with_a_tie() -> None:
    # pairs: (3,1) (3,2) (2,1) won, (2,2) tied: 3.5 of 4
    assert auroc([3, 2], [1, 2]) == 0.875


def test_extremes() -> None:
    assert auroc([2, 3], [0, 1]) == 1.0
    assert auroc([0, 1], [2, 3]) == 0.0
    assert auroc([1, 1], [1, 1, 1]) == 0.5
    assert auroc([1], [0]) == 1.0


def test_equals_mann_whitney() -> None:
    random = np.random.default_rng(3)
    positives, negatives = random.integers(0, 20, 70) + 3.0, random.integers(0, 20, 110) + 0.0
    expected = mannwhitneyu(positives, negatives).statistic / (70 * 110)
    assert auroc(positives, negatives) == pytest.approx(expected, abs=1e-12)


def test_estimate_brackets_the_value_and_repeats_for_a_seed() -> None:
    random = np.random.default_rng(5)
    positives, negatives = random.normal(1, 1, 80), random.normal(0, 1, 60)
    estimate = auroc_estimate(positives, negatives, seed=7)
    assert estimate == auroc_estimate(positives, negatives, seed=7)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.n == 140
    # Hanley and McNeil's standard error, formula 1 of the paper, as an outside check of the width
    area = estimate.value
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = ((area * (1 - area) + 79 * (q1 - area**2) + 59 * (q2 - area**2)) / (80 * 60)) ** 0.5
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.mark.parametrize(("positives", "negatives"), [([], [1.0]), ([1.0], []), ([float("nan")], [1.0])])
def test_a_group_of_nothing_or_nan_raises(positives: list[float], negatives: list[float]) -> None:
    with pytest.raises(InputError, match="at least one finite score a group"):
        auroc(positives, negatives)
