from __future__ import annotations

import pytest
from statsmodels.stats.multitest import multipletests

from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.results import comparison_json
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from tests.audit.fakes import scripted

INPUT = {f"h{i}": [f"H{min(i, 3)}"] for i in (1, 2, 3, 4)} | {f"b{i}": [f"B{i}"] for i in (1, 2, 3, 4)}


def test_p_values_are_corrected_over_the_arms_one_metric_at_a_time(probe_set: ProbeSet) -> None:
    arms = {
        "input": INPUT,
        "a": {query: ids for query, ids in INPUT.items() if query[0] == "b"},
        "b": {**INPUT, "h1": []},
        "c": {**INPUT, "b1": ["B2", "B1"]},
    }
    report = run_audit(probe_set, [RetrieverTarget(scripted(probe_set, ids), name) for name, ids in arms.items()])
    for metric in ("harm@5", "any_harm@5", "benign_recall@5", "benign_ndcg@10"):
        changes = [comparison.changes[metric] for comparison in report.comparisons.values()]
        raw = [change.p_value for change in changes if change]
        assert [change.p_adjusted for change in changes if change] == pytest.approx(
            multipletests(raw, method="holm")[1].tolist()
        )
    content = comparison_json(report.comparisons["c"])
    assert content["correction"] == {"method": "holm", "arms": 3}
    assert content["harm@5"]["test"] == "mcnemar"
    assert content["benign_ndcg@10"]["test"] == "paired-bootstrap"
    assert content["benign_ndcg@10"]["mcnemar"] is None
    assert content["any_harm@5"]["p_adjusted"] == 1.0


def test_one_arm_needs_no_correction(probe_set: ProbeSet) -> None:
    targets = [RetrieverTarget(scripted(probe_set, ids), name) for name, ids in (("input", INPUT), ("x", {}))]
    change = run_audit(probe_set, targets).comparisons["x"].any_harm
    assert change is not None
    assert change.p_adjusted == change.p_value == pytest.approx(2 * 0.5**4)
