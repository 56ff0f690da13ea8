from __future__ import annotations

import numpy as np
import pytest

from safe_retrieval.training.reliability import Calibration, calibration_of, rounded


def test_by_hand() -> None:
    # Twenty rows, two a bin, in the order of their probabilities; the first of each pair refuses from the sixth on.
    foretold = np.repeat([0.05, 0.05, 0.1, 0.1, 0.2, 0.45, 0.55, 0.8, 0.9, 1.0], 2)
    came = np.array([0, 0] * 5 + [1, 0] * 2 + [1, 1] * 3, dtype=float)
    found = calibration_of(foretold, came)
    apart = [0.05, 0.05, 0.1, 0.1, 0.2, 0.05, 0.05, 0.2, 0.1, 0.0]
    assert found.error == pytest.approx(np.mean(apart))
    assert found.foretold_near_half == pytest.approx(0.5)
    assert (found.near_half, found.refused_near_half) == (4, 0.5)


def test_what_a_judge_says_counts_as_it_is() -> None:
    foretold = np.linspace(0, 1, 50)
    assert calibration_of(foretold, foretold).error == pytest.approx(0)
    assert calibration_of(foretold, np.clip(foretold + 0.1, 0, 1)).error == pytest.approx(0.095, abs=0.006)


def test_the_order_of_the_rows_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    foretold = generator.random(500)
    came = (generator.random(500) < foretold).astype(float)
    order = generator.permutation(500)
    one, other = calibration_of(foretold, came), calibration_of(foretold[order], came[order])
    assert one == pytest.approx(other)
    assert one.error < 0.1


def test_no_row_near_one_half_is_not_a_share_of_zero() -> None:
    found = calibration_of(np.array([0.1, 0.9, 0.2]), np.array([0.0, 1.0, 0.0]))
    assert (found.near_half, found.foretold_near_half, found.refused_near_half) == (0, None, None)
    assert found.error == pytest.approx((0.1 + 0.1 + 0.2) / 3)  # fewer rows than bins
    assert rounded(Calibration(0.123456, 3, 0.49999, None)) == {
        "error": 0.1235,
        "near_half": 3,
        "foretold_near_half": 0.5,
        "refused_near_half": None,
    }
