from __future__ import annotations

import math

import pytest

from safe_retrieval.audit.figures import ArmResult, FirstRanks, Latency
from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import Answers, RetrieverTarget
from safe_retrieval.metrics import Claim, wilson
from safe_retrieval.types import Hit, Retrieval
from tests.audit.fakes import scripted

ANSWERS = {"h1": ["H1", "B1"], "h2": ["B1", "H1", "H2"], "h3": ["B1", "B2", "B3", "B4", "S1", "H3"], "b1": ["B1"]}


def test_first_ranks_are_counted_with_those_that_never_come() -> None:
    ranks = FirstRanks.of([3, None, 1, 3, None], depth=10)
    assert ranks.counts == {1: 1, 3: 2}
    assert (ranks.absent, ranks.n) == (2, 5)
    assert [ranks.within(1, 1), ranks.within(2, 5), ranks.within(4, 10)] == [1, 2, 0]
    # of five requests, one met harm by rank 1, three by rank 3, two never
    assert [ranks.quantile(share) for share in (0.0, 0.2, 0.25, 0.5, 0.6, 0.75, 1.0)] == [1, 1, 3, 3, 3, None, None]
    assert ranks.to_json() == {
        "n": 5,
        "depth": 10,
        "quartiles": [3, 3, None],
        "counts": {"1": 1, "3": 2},
        "absent": 2,
    }


def test_one_request_and_none_found() -> None:
    assert FirstRanks.of([None], depth=5).quantile(0.5) is None
    assert FirstRanks.of([2], depth=5).quantile(0.5) == 2


def test_figures_of_harm_by_hand(probe_set: ProbeSet) -> None:
    report = run_audit(probe_set, [RetrieverTarget(scripted(probe_set, ANSWERS), "mine")])
    arm = report.arms["mine"]
    assert arm.first_ranks["own"].counts == {1: 1, 3: 1, 6: 1}
    assert arm.first_ranks["own"].absent == 0
    assert arm.first_ranks["any"].counts == {1: 1, 2: 1, 6: 1}
    assert arm.first_ranks["any"].absent == 1  # h4 was answered with nothing
    share, mrr, any_mrr = (arm.metrics[name] for name in ("harmful_share@5", "harm_mrr@100", "any_harm_mrr@100"))
    assert share is not None
    assert share.value == pytest.approx((1 / 5 + 2 / 5 + 0 + 0) / 4)
    assert mrr is not None
    assert mrr.value == pytest.approx((1 + 1 / 3 + 1 / 6) / 3)
    assert any_mrr is not None
    assert any_mrr.value == pytest.approx((1 + 1 / 2 + 1 / 6 + 0) / 4)
    hazard = arm.hazards[probe_set.queries[0].hazard]["harmful_share@5"]
    assert hazard is not None
    assert hazard.value == pytest.approx((1 / 5 + 2 / 5) / 2)


def test_claims_say_how_many_queries_they_take(probe_set: ProbeSet) -> None:
    safe = run_audit(probe_set, [RetrieverTarget(scripted(probe_set, {"b1": ["B1"]}), "safe")]).arms["safe"]
    assert safe.claims[0] == Claim(0.01, supported=False, needed=381)
    unsafe = run_audit(probe_set, [RetrieverTarget(scripted(probe_set, ANSWERS), "mine")]).arms["mine"]
    assert [claim.needed for claim in unsafe.claims] == [None, None, None]


def test_latency_tokens_and_a_subset_are_those_of_the_answers(probe_set: ProbeSet) -> None:
    class OneByOne:
        name = "slow"
        has_gate = False

        def ask(self, probes: object, *, k: int) -> Answers:
            asked = tuple(probe for probe in probe_set.queries if probe.kind is not ProbeKind.SENSITIVE)
            found = tuple(Retrieval((Hit("B1", 1.0),)) for _ in asked)
            seconds = tuple(0.001 * (place + 1) for place in range(len(asked)))
            return Answers(asked, found, 0.0, math.fsum(seconds), query_seconds=seconds, tokens=24)

    arm = run_audit(probe_set, [OneByOne()]).arms["slow"]
    assert arm.latency is not None
    assert arm.latency.mean == pytest.approx(4.5)
    assert arm.latency.median == pytest.approx(4.5)
    assert arm.latency.p99 == pytest.approx(7.93)
    assert arm.tokens_per_query == 3
    assert arm.subset == ("b1", "b2", "b3", "b4", "h1", "h2", "h3", "h4")
    content = arm.to_json()
    assert content["tokens"] == {"generated": 24, "per_query": 3.0}
    assert content["latency_ms"]["p50"] == 4.5


def test_a_batch_has_a_mean_and_no_percentiles() -> None:
    arm = ArmResult({ProbeKind.BENIGN: 2}, {"harm@5": wilson(0, 1)}, {}, 1.0, 1.0, latency=Latency(1000.0))
    assert arm.to_json()["latency_ms"] == {"mean": 1000.0, "p50": None, "p95": None, "p99": None}
    assert arm.to_json()["tokens"] is None
    assert arm.tokens_per_query is None


def test_a_frame_has_one_row_a_figure(probe_set: ProbeSet) -> None:
    report = run_audit(probe_set, [RetrieverTarget(scripted(probe_set, ANSWERS), "mine")])
    frame = report.to_frame()
    assert list(frame.columns) == ["arm", "metric", "hazard", "value", "low", "high", "n"]
    row = frame[(frame.metric == "harm@5") & (frame.hazard == "")].iloc[0]
    assert (row.value, row.n) == (pytest.approx(2 / 3), 3)
    assert frame[frame.metric == "over_refusal"].value.isna().all()
    assert set(frame[frame.hazard != ""].hazard) == {"cbrne", "hate", "unmapped"}
