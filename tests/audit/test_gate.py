from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from safe_retrieval.audit.changes import BaselineComparison, Pair, Regression
from safe_retrieval.audit.gate import Bound, Threshold, Worsening, check, check_names, check_worsening
from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.settings import ThresholdSettings
from safe_retrieval.audit.targets import RetrieverTarget
from safe_retrieval.errors import InputError
from safe_retrieval.metrics import McNemar, wilson
from tests.audit.fakes import make_probe_set, scripted
from tests.audit.test_runner import BASELINE


@pytest.fixture(scope="module")
def report() -> AuditReport:
    probe_set = make_probe_set()
    return run_audit(probe_set, [RetrieverTarget(scripted(probe_set, BASELINE), "input")], baseline="input")


def test_an_interval_is_harder_to_pass_than_a_point(report: AuditReport) -> None:
    harm = wilson(2, 3)
    point, interval = check(
        report,
        [Threshold("harm@5", at_most=0.7, bound=Bound.POINT), Threshold("harm@5", at_most=0.7)],
    )
    assert (point.passed, point.value) == (True, harm.value)
    assert (interval.passed, interval.value) == (False, harm.high)
    assert interval.rule == "high end of harm@5 <= 0.7"
    assert interval.message.startswith("input: high end of harm@5 <= 0.7 is broken: 0.6667 (")


def test_at_least_looks_at_the_low_end_and_the_limit_itself_passes(report: AuditReport) -> None:
    recall = wilson(3, 4)
    low, exact = check(
        report,
        [
            Threshold("benign_recall@5", at_least=recall.value),
            Threshold("benign_recall@5", at_least=recall.value, bound=Bound.POINT),
        ],
    )
    assert (low.passed, low.value, low.rule) == (False, recall.low, "low end of benign_recall@5 >= 0.75")
    assert exact.passed


def test_what_was_not_measured_passes_nothing(report: AuditReport) -> None:
    (verdict,) = check(report, [Threshold("over_refusal", at_most=1.0)])
    assert (verdict.passed, verdict.value) == (False, None)


def test_a_hazard_has_its_own_figure(report: AuditReport) -> None:
    hate, absent = check(
        report,
        [
            Threshold("harm@5", at_most=0.0, bound=Bound.POINT, hazard=Hazard.HATE),
            Threshold("harm@5", at_most=0.0, hazard=Hazard.PRIVACY),
        ],
    )
    assert hate.passed
    assert hate.rule == "harm@5 (hate) <= 0"
    assert not absent.passed


def test_names_are_checked_before_anything_is_asked() -> None:
    check_names([Threshold("harm@20", at_most=0.1), Threshold("harm_mrr@100", at_most=0.1)], {1, 5, 20, 100})
    with pytest.raises(InputError, match="got 'harm@3'"):
        check_names([Threshold("harm@3", at_most=0.1)], {1, 5, 20, 100})
    with pytest.raises(InputError, match="for hate"):
        check_names([Threshold("benign_recall@5", at_least=0.1, hazard=Hazard.HATE)], {5})


@pytest.mark.parametrize("limit", [{"at_most": 5}, {"at_most": -0.1}, {"at_least": -1}, {"at_least": float("nan")}])
def test_a_limit_that_nothing_could_break_is_refused(limit: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"expected a limit from 0 to 1 on harm@5 \(5 % is 0\.05\)"):
        Threshold("harm@5", **limit)
    with pytest.raises(ValidationError):
        ThresholdSettings.model_validate({"metric": "harm@5", **limit})


def test_thresholds_that_cannot_be_meant(report: AuditReport) -> None:
    with pytest.raises(InputError, match="at_most or at_least"):
        Threshold("harm@5")
    with pytest.raises(InputError, match="names 'other'; audited: input"):
        check(report, [Threshold("harm@5", at_most=1.0, targets=("other",))])


def regression(only_then: int, only_now: int, p_value: float) -> Regression:
    pair = Pair("q", "p", 1, True, "hate", "0", "1")
    test = McNemar(only_then, only_now, p_value)
    surfaced = (pair,) * only_now
    return Regression(surfaced, (), test, test, 100, p_value, p_value)


@pytest.mark.parametrize(
    ("change", "significant", "surfaced"),
    [
        (regression(0, 12, 0.001), False, False),
        (regression(12, 0, 0.001), True, True),  # better, significantly
        (regression(1, 3, 0.6), True, False),
        (regression(0, 0, 1.0), True, True),
    ],
)
def test_what_became_worse(report: AuditReport, change: Regression, significant: bool, surfaced: bool) -> None:
    against = BaselineComparison("before", None, "0", {"input": change}, (), ())
    compared = replace(report, against=against)
    assert [verdict.passed for verdict in check_worsening(compared, Worsening.SIGNIFICANT)] == [significant]
    assert [verdict.passed for verdict in check_worsening(compared, Worsening.ANY)] == [surfaced]
    assert check_worsening(compared, Worsening.NEVER) == ()
    assert check_worsening(report, Worsening.ANY) == ()


@pytest.mark.parametrize("worsening", [Worsening.SIGNIFICANT, Worsening.ANY])
def test_what_cannot_be_compared_does_not_pass(report: AuditReport, worsening: Worsening) -> None:
    nothing_shared = replace(regression(0, 0, 1.0), shared=0)
    against = BaselineComparison("before", None, "0", {"input": nothing_shared}, ("renamed",), ("old",))
    verdicts = check_worsening(replace(report, against=against), worsening)
    assert [(verdict.arm, verdict.passed) for verdict in verdicts] == [("input", False), ("renamed", False)]
    assert "asked it none of the same requests" in verdicts[0].message
    assert "has no arm of this name" in verdicts[1].message
