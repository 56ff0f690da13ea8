from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from safe_retrieval.errors import AuditError, InputError
from safe_retrieval.metrics import wilson
from safe_retrieval.types import Hit, Retrieval
from tests.audit.fakes import make_probe_set, scripted

BASELINE = {
    "h1": ["H1", "B1"],  # own at 1
    "h2": ["B1", "H1", "H2"],  # another's at 2, own at 3
    "h3": ["B1", "B2", "B3", "B4", "S1", "H3"],  # own at 6: beyond the first five
    "h4": ["H3"],  # no passage of its own: any harm only
    "b1": ["B1"],
    "b2": ["B1", "B2"],
    "b3": ["H1", "H2", "H3", "B1", "B2", "B3"],
    "b4": ["B4"],
    "s1": ["S1"],
    "s2": ["B1"],
}
GATED = {**{key: ids for key, ids in BASELINE.items() if key[0] != "h"}, "h3": BASELINE["h3"], "b1": [], "s2": []}
REFUSAL = {"h1": 0.9, "h2": 0.8, "h3": 0.2, "h4": 0.7, "b1": 0.6, "b2": 0.1, "b3": 0.2, "b4": 0.0, "s1": 0.3, "s2": 0.8}


@pytest.fixture(scope="module")
def report() -> AuditReport:
    probe_set = make_probe_set()
    baseline = RetrieverTarget(scripted(probe_set, BASELINE), "input")
    flagged = ("h1", "h2", "h4", "b1", "s2")
    gated = RetrieverTarget(scripted(probe_set, GATED, flagged=flagged, refusal=REFUSAL), "gated", has_gate=True)
    return run_audit(probe_set, [baseline, gated], seed=3, provenance=lambda: {"commit": "abc"})


@pytest.mark.parametrize(
    ("name", "successes", "n"),
    [
        ("harm@1", 1, 3),
        ("harm@5", 2, 3),
        ("harm@20", 3, 3),
        ("any_harm@1", 2, 4),
        ("any_harm@5", 3, 4),
        ("any_harm@20", 4, 4),
        ("benign_recall@1", 2, 4),
        ("benign_recall@5", 3, 4),
        ("benign_recall@20", 4, 4),
        ("sensitive_recall@5", 1, 1),
    ],
)
def test_baseline_figures_by_hand(report: AuditReport, name: str, successes: int, n: int) -> None:
    assert report.arms["input"].metrics[name] == wilson(successes, n)


def test_ndcg_by_hand(report: AuditReport) -> None:
    figure = report.arms["input"].metrics["benign_ndcg@10"]
    assert figure is not None
    assert figure.value == pytest.approx((1 + 0.6309298 + 0.3562072 + 1) / 4)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_what_was_not_measured_is_none_and_not_zero(report: AuditReport) -> None:
    metrics = report.arms["input"].metrics
    for name in ("over_refusal", "benign_gated", "harmful_gated", "refusal_auroc_benign", "refusal_auroc_sensitive"):
        assert metrics[name] is None


def test_gate_figures_by_hand(report: AuditReport) -> None:
    metrics = report.arms["gated"].metrics
    assert metrics["harm@5"] == wilson(0, 3)
    assert metrics["harm@20"] == wilson(1, 3)
    assert metrics["over_refusal"] == wilson(1, 2)
    assert metrics["benign_gated"] == wilson(1, 4)
    assert metrics["harmful_gated"] == wilson(3, 4)
    benign, sensitive = metrics["refusal_auroc_benign"], metrics["refusal_auroc_sensitive"]
    assert benign is not None
    assert sensitive is not None
    # 4 x 4 pairs: 0.9, 0.8 and 0.7 beat all four; 0.2 beats 0.1 and 0.0 and ties 0.2
    assert benign.value == pytest.approx(14.5 / 16)
    # 4 x 2 pairs: 0.9 beats both, 0.8 beats 0.3 and ties, 0.7 beats 0.3, 0.2 none
    assert sensitive.value == pytest.approx(4.5 / 8)


def test_hazards_count_their_own_requests(report: AuditReport) -> None:
    hazards = report.arms["input"].hazards
    assert list(hazards) == [Hazard.CBRNE, Hazard.HATE, Hazard.UNMAPPED]
    assert hazards[Hazard.CBRNE]["harm@5"] == wilson(2, 2)
    assert hazards[Hazard.HATE]["harm@5"] == wilson(0, 1)
    assert hazards[Hazard.UNMAPPED]["harm@5"] is None
    assert hazards[Hazard.UNMAPPED]["any_harm@5"] == wilson(1, 1)


def test_comparison_by_hand(report: AuditReport) -> None:
    comparison = report.comparisons["gated"]
    assert list(report.comparisons) == ["gated"]
    assert comparison.harm is not None
    assert comparison.harm.relative is not None
    assert comparison.harm.relative.value == -1.0
    assert comparison.harm.test == (2, 0, 0.5)
    assert comparison.benign_recall is not None
    assert comparison.benign_recall.difference.value == -0.25
    assert comparison.benign_recall.test == (1, 0, 1.0)


def test_selectivity_matches_the_baseline_at_equal_benign_recall(report: AuditReport) -> None:
    # gated: recall@5 = 2 of 4, harm@5 = 0. input recalls 2 of 4 at k = 1, where its harm is 1 of 3.
    selectivity = report.comparisons["gated"].selectivity
    assert selectivity is not None
    assert selectivity.level == 1.0
    assert selectivity.difference.value == pytest.approx(-1 / 3)
    assert selectivity.difference.low <= selectivity.difference.value <= selectivity.difference.high


def test_selectivity_of_mere_weakness_is_nothing(probe_set: ProbeSet) -> None:
    """A retriever that shows only its first passage is weaker, not more selective."""
    strong = RetrieverTarget(scripted(probe_set, BASELINE), "input")
    weak = RetrieverTarget(scripted(probe_set, {key: ids[:1] for key, ids in BASELINE.items()}), "weak")
    selectivity = run_audit(probe_set, [strong, weak]).comparisons["weak"].selectivity
    assert selectivity is not None
    assert selectivity.difference.value == pytest.approx(0.0)


def test_findings_hold_ids_ranks_and_hashes(report: AuditReport) -> None:
    rows = [finding.to_json() for finding in report.findings]
    assert [(row["arm"], row["query_id"], row["own_rank"], row["any_rank"]) for row in rows] == [
        ("input", "h1", 1, 1),
        ("input", "h2", 3, 2),
        ("input", "h4", None, 1),
    ]
    passages = rows[1]["passages"]
    assert [(passage["id"], passage["rank"], passage["own"]) for passage in passages] == [
        ("H1", 2, False),
        ("H2", 3, True),
    ]
    assert all(len(passage["text_sha256"]) == 64 for passage in passages)


def test_report_json_has_the_agreed_form(report: AuditReport) -> None:
    content = json.loads(json.dumps(report.to_json()))
    assert content["schema_version"] == 2
    assert content["cutoffs"] == [1, 5, 20, 100]
    assert content["provenance"] == {
        "commit": "abc",
        "data": {"name": "tiny", "version": "1.0", "sha256": "0" * 64},
        "seed": 3,
    }
    assert content["data"]["queries"] == {"harmful": 4, "benign": 4, "sensitive": 2}
    assert content["data"]["harmful_documents"] == 3
    for arm in content["arms"].values():
        for name in ("harm@1", "harm@5", "harm@20", "any_harm@5", "benign_recall@5", "benign_ndcg@10"):
            assert set(arm[name]) == {"value", "low", "high", "n"}
        assert arm["queries_per_second"] > 0
    assert content["arms"]["input"]["over_refusal"] is None
    assert content["arms"]["gated"]["hazards"]["cbrne"]["harm@5"]["n"] == 2
    change = content["comparisons"]["gated"]["harm@5"]
    assert change["relative"]["value"] == -1.0
    assert change["mcnemar"] == {"only_baseline": 2, "only_arm": 0, "p_value": 0.5}
    assert set(content["comparisons"]["gated"]["selectivity@5"]) == {
        "value",
        "low",
        "high",
        "n",
        "matched_cutoff",
        "reached",
    }


def test_equal_answers_and_seed_give_an_equal_report(probe_set: ProbeSet) -> None:
    def figures() -> dict[str, object]:
        targets = [RetrieverTarget(scripted(probe_set, BASELINE), name) for name in ("input", "other")]
        content = run_audit(probe_set, targets, seed=1).to_json()
        for arm in content["arms"].values():
            del arm["queries_per_second"], arm["seconds"], arm["latency_ms"]
        return content

    assert figures() == figures()


def test_further_cutoffs_are_added(probe_set: ProbeSet) -> None:
    report = run_audit(probe_set, [RetrieverTarget(scripted(probe_set, BASELINE), "input")], cutoffs=(3,))
    assert report.cutoffs == (1, 3, 5, 20, 100)
    assert report.arms["input"].metrics["harm@3"] == wilson(2, 3)
    assert report.comparisons == {}


def test_without_the_baseline_there_is_no_comparison(probe_set: ProbeSet) -> None:
    assert run_audit(probe_set, [RetrieverTarget(scripted(probe_set, BASELINE), "mine")]).comparisons == {}


def test_harm_that_the_baseline_never_shows_has_no_relative_change(probe_set: ProbeSet) -> None:
    targets = [
        RetrieverTarget(scripted(probe_set, GATED), "input"),
        RetrieverTarget(scripted(probe_set, BASELINE), "x"),
    ]
    harm = run_audit(probe_set, targets).comparisons["x"].harm
    assert harm is not None
    assert harm.relative is None
    assert harm.difference.value == pytest.approx(2 / 3)


def test_a_harmful_set_without_judgements_has_any_harm_only(probe_set: ProbeSet) -> None:
    bare = replace(probe_set, qrels={query: grades for query, grades in probe_set.qrels.items() if query[0] != "h"})
    targets = [RetrieverTarget(scripted(bare, BASELINE), name) for name in ("input", "x")]
    report = run_audit(bare, targets)
    assert report.arms["input"].metrics["harm@5"] is None
    assert report.arms["input"].metrics["any_harm@5"] == wilson(3, 4)
    assert report.comparisons["x"].harm is None
    assert report.comparisons["x"].selectivity is None


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"h1": ["nowhere"]}, "document 'nowhere', which is not in the audited corpus"),
        ({"h1": ["H1", "H1"]}, "2 documents, 1 of them distinct, for query 'h1'"),
    ],
)
def test_answers_that_cannot_be_right_raise(probe_set: ProbeSet, answers: dict[str, list[str]], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        run_audit(probe_set, [RetrieverTarget(scripted(probe_set, answers), "input")])


def test_a_target_that_loses_answers_raises(probe_set: ProbeSet) -> None:
    class Lossy:
        name = "lossy"

        def retrieve(self, queries: list[str], *, k: int = 10) -> list[object]:
            return []

    with pytest.raises(AuditError, match="lossy returned 0 answers to 10 queries"):
        run_audit(probe_set, [RetrieverTarget(Lossy(), "lossy")])  # type: ignore[arg-type]


def test_targets_are_needed_and_named_once(probe_set: ProbeSet) -> None:
    with pytest.raises(InputError, match="got: none"):
        run_audit(probe_set, [])
    twice = [RetrieverTarget(scripted(probe_set, BASELINE), "input")] * 2
    with pytest.raises(InputError, match="got: input, input"):
        run_audit(probe_set, twice)


def test_harm_without_a_benign_control_is_refused(probe_set: ProbeSet) -> None:
    queries = tuple(probe for probe in probe_set.queries if probe.kind is not ProbeKind.BENIGN)
    with pytest.raises(InputError, match="no benign query"):
        run_audit(replace(probe_set, queries=queries), [RetrieverTarget(scripted(probe_set, BASELINE), "input")])


def test_cutoffs_are_ranks(probe_set: ProbeSet) -> None:
    with pytest.raises(InputError, match="got 0"):
        run_audit(probe_set, [RetrieverTarget(scripted(probe_set, BASELINE), "input")], cutoffs=(0,))


def test_a_score_that_is_no_finite_number_is_refused(probe_set: ProbeSet) -> None:
    class Unscored:
        name = "unscored"

        def retrieve(self, queries: Sequence[str], *, k: int = 10) -> list[Retrieval]:
            return [Retrieval((Hit("B1", float("nan")),)) for _ in queries]

    with pytest.raises(AuditError, match="unscored gave query 'h1' a score that is no finite number"):
        run_audit(probe_set, [RetrieverTarget(Unscored(), "unscored")])
