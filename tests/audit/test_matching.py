from __future__ import annotations

import numpy as np
import pytest

from safe_retrieval.audit.changes import Selectivity, Weakening
from safe_retrieval.audit.matching import _match, selectivity, weakness_curve
from safe_retrieval.types import Hit

OWN = {"h1": {"H1": 1}, "h2": {"H2": 1}}
BENIGN = {"b1": {"B1": 1}, "b2": {"B2": 1}, "b3": {"B3": 1}, "b4": {"B4": 1}}
BASELINE = {
    "h1": [Hit("H1", 0.9)],
    "h2": [Hit("X", 0.8), Hit("H2", 0.5)],
    "b1": [Hit("B1", 0.95)],
    "b2": [Hit("B2", 0.7)],
    "b3": [Hit("X", 0.6), Hit("B3", 0.4)],
    "b4": [Hit("X", 0.6)],
}
"""harm@5 1.0, recall@5 0.75; by falling score: B1 0.95, H1 0.9, B2 0.7, H2 0.5, B3 0.4."""


def matched(arm: dict[str, list[Hit]], weakening: Weakening) -> Selectivity:
    found = selectivity(BASELINE, arm, OWN, BENIGN, weakening=weakening, depth=5, seed=0)
    assert found is not None
    return found


def test_a_score_threshold_is_lowered_until_recall_is_equal() -> None:
    arm = {"b1": [Hit("B1", 1.0)], "b2": [Hit("B2", 1.0)]}  # recall 0.5, no harm at all
    found = matched(arm, Weakening.THRESHOLD)
    assert found.level == pytest.approx(0.7)  # B1 and B2 are shown from there, and H1 with them
    assert found.difference.value == pytest.approx(0 - 0.5)
    assert found.reached
    assert found.difference.low <= found.difference.value <= found.difference.high


def test_fewer_passages_until_recall_is_equal() -> None:
    found = matched({"b1": [Hit("B1", 1.0)], "b2": [Hit("B2", 1.0)]}, Weakening.CUTOFF)
    assert found.level == 1.0  # k = 1: B1 and B2, and H1
    assert found.difference.value == pytest.approx(-0.5)


def test_the_baseline_with_a_threshold_is_weaker_and_not_more_selective() -> None:
    weaker = {query: [hit for hit in hits if hit.score >= 0.7] for query, hits in BASELINE.items()}
    assert matched(weaker, Weakening.THRESHOLD).difference.value == pytest.approx(0.0)


@pytest.mark.parametrize("weakening", list(Weakening))
def test_an_arm_that_recalls_more_than_the_baseline_can_is_said_to(weakening: Weakening) -> None:
    arm = {query: [Hit(f"B{query[1]}", 1.0)] for query in BENIGN}
    found = matched(arm, weakening)
    assert not found.reached
    assert found.difference.value == pytest.approx(-1.0)


@pytest.mark.parametrize("weakening", list(Weakening))
def test_an_arm_that_finds_nothing_is_matched_with_nothing(weakening: Weakening) -> None:
    found = matched({}, weakening)
    assert found.difference.value == 0.0
    assert found.reached


@pytest.mark.parametrize("weakening", list(Weakening))
def test_ties_of_scores_and_one_query_a_side(weakening: Weakening) -> None:
    baseline = {"h1": [Hit("H1", 0.5)], "b1": [Hit("B1", 0.5)]}
    arm = {"b1": [Hit("B1", 0.1)]}
    found = selectivity(baseline, arm, {"h1": {"H1": 1}}, {"b1": {"B1": 1}}, weakening=weakening, depth=5, seed=0)
    assert found is not None
    assert found.difference.value == -1.0  # equal recall only where H1 is shown too
    assert (found.difference.low, found.difference.high) == (-1.0, -1.0)


def test_nothing_to_match_on_is_none() -> None:
    assert selectivity(BASELINE, {}, {}, BENIGN, weakening=Weakening.CUTOFF, depth=5, seed=0) is None
    assert selectivity(BASELINE, {}, OWN, {}, weakening=Weakening.THRESHOLD, depth=5, seed=0) is None


def test_the_weakness_curve_by_hand() -> None:
    curve = weakness_curve(BASELINE, OWN, BENIGN)
    full = (1 + 1 + 0.6309298 + 0) / 4
    assert curve[0] == (pytest.approx(full), 1.0)  # all shown
    assert curve[1:] == (
        (pytest.approx(0.5), 1.0),  # without B3
        (pytest.approx(0.5), 0.5),  # without H2
        (pytest.approx(0.25), 0.5),  # without B2
        (pytest.approx(0.25), 0.0),  # without H1
        (0.0, 0.0),
    )
    assert weakness_curve(BASELINE, {}, BENIGN) == ()
    assert weakness_curve({}, OWN, BENIGN) == ((0.0, 0.0),)


def test_matching_rows_at_once_is_interpolation_row_by_row() -> None:
    random = np.random.default_rng(5)
    steps = random.integers(0, 3, (200, 12)) / 40  # many levels at which nothing rises
    recall = np.column_stack([np.zeros(200), np.cumsum(steps, axis=1), random.random(200)])
    harm = np.column_stack([np.zeros(200), np.cumsum(random.random((200, 12)) / 12, axis=1), random.random(200)])
    values = np.arange(13.0)
    matched = _match(harm, recall, values)
    for row in range(200):
        heights, first = np.unique(recall[row, :-1], return_index=True)
        wanted = recall[row, -1]
        assert matched.difference[row] == pytest.approx(harm[row, -1] - np.interp(wanted, heights, harm[row][first]))
        assert matched.level[row] == pytest.approx(np.interp(wanted, heights, values[first]))
        assert matched.reached[row] == (wanted <= heights[-1])
