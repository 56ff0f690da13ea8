from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from safe_retrieval.audit.probes import Probe, ProbeSet
from safe_retrieval.audit.regression import compare_reports, read_baseline
from safe_retrieval.audit.report import ReportFolder
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import Answers, RetrieverTarget
from safe_retrieval.errors import AuditError
from tests.audit.fakes import scripted

THEN = {"h1": ["H1"], "h2": ["B1", "H2"], "h4": ["H3"], "b1": ["B1"]}
NOW = {"h1": ["H1", "H2"], "h3": ["H3"], "b1": ["B1"]}


def audit(probe_set: ProbeSet, **arms: dict[str, list[str]]) -> AuditReport:
    targets = [RetrieverTarget(scripted(probe_set, ids), name) for name, ids in arms.items()]
    return run_audit(probe_set, targets, provenance=lambda: {"time": "2026-11-01T00:00:00+00:00"})


def written(path: Path, report: AuditReport) -> Path:
    with ReportFolder(path) as folder:
        folder.write(report)
    return path


def test_pairs_and_tests_by_hand(tmp_path: Path, probe_set: ProbeSet) -> None:
    folder = written(tmp_path / "then", audit(probe_set, mine=THEN, gone=THEN))
    against = compare_reports(audit(probe_set, mine=NOW, new=NOW), read_baseline(folder))
    assert (against.only_now, against.only_then) == (("new",), ("gone",))
    assert against.time == "2026-11-01T00:00:00+00:00"
    arm = against.arms["mine"]
    assert arm.shared == 4
    surfaced = [(pair.query_id, pair.passage_id, pair.rank, pair.own) for pair in arm.surfaced]
    assert surfaced == [("h1", "H2", 2, False), ("h3", "H3", 1, True)]
    assert [(pair.query_id, pair.passage_id) for pair in arm.vanished] == [("h2", "H2"), ("h4", "H3")]
    assert arm.harm == (1, 1, 1.0)  # h2 then, h3 now
    assert arm.any_harm == (2, 1, 1.0)  # h2 and h4 then, h3 now
    content = against.to_json()["arms"]["mine"]
    assert content["any_harm@5"] == {"only_then": 2, "only_now": 1, "p_value": 1.0, "p_adjusted": 1.0}
    assert set(content["surfaced"][0]) == {
        "query_id",
        "passage_id",
        "rank",
        "own",
        "hazard",
        "query_sha256",
        "text_sha256",
    }


def test_a_report_against_itself_has_no_change(tmp_path: Path, probe_set: ProbeSet) -> None:
    report = audit(probe_set, mine=THEN)
    arm = compare_reports(report, read_baseline(written(tmp_path, report) / "report.json")).arms["mine"]
    assert (arm.surfaced, arm.vanished) == ((), ())
    assert arm.any_harm == (0, 0, 1.0)


def test_p_values_are_corrected_over_arms(tmp_path: Path, probe_set: ProbeSet) -> None:
    everything = {f"h{i}": ["H1", "H2", "H3"] for i in (1, 2, 3, 4)}
    folder = written(tmp_path, audit(probe_set, a=everything, b=everything))
    against = compare_reports(audit(probe_set, a={}, b=everything), read_baseline(folder))
    assert against.arms["a"].any_harm.p_value == pytest.approx(0.125)
    assert against.arms["a"].any_harm_adjusted == pytest.approx(0.25)
    assert against.arms["b"].any_harm_adjusted == 1.0


def test_only_requests_that_both_were_asked_count(tmp_path: Path, probe_set: ProbeSet) -> None:
    now = audit(probe_set, mine=NOW)
    folder = written(tmp_path, audit(probe_set, mine=THEN))
    arm = replace(now.arms["mine"], subset=("h1", "h2", "b1"))
    regression = compare_reports(replace(now, arms={"mine": arm}), read_baseline(folder)).arms["mine"]
    assert regression.shared == 2
    assert [pair.query_id for pair in (*regression.surfaced, *regression.vanished)] == ["h1", "h2"]


def test_another_probe_set_is_refused(tmp_path: Path, probe_set: ProbeSet) -> None:
    folder = written(tmp_path, audit(probe_set, mine=THEN))
    other = audit(replace(probe_set, sha256="1" * 64), mine=THEN)
    with pytest.raises(AuditError, match=r"asked tiny 1.0 \(000000000000\), this audit tiny 1.0 \(111111111111\)"):
        compare_reports(other, read_baseline(folder))


def test_harm_that_was_not_measured_has_no_test_so_that_a_gate_looks_at_any_harm(
    tmp_path: Path, probe_set: ProbeSet
) -> None:
    class Closed(RetrieverTarget):
        """Holds none of the probes' passages, so none was written for a request."""

        def ask(self, probes: Sequence[Probe], *, k: int) -> Answers:
            return super().ask(probes, k=k)._replace(absent=frozenset({"H1", "H2", "H3"}))

    def closed(ids: dict[str, list[str]]) -> AuditReport:
        return run_audit(probe_set, [Closed(scripted(probe_set, ids), "mine")])

    everything = {f"h{i}": ["H2" if i == 1 else "H1"] for i in (1, 2, 3, 4)}
    folder = written(tmp_path, closed({}))
    arm = compare_reports(closed(everything), read_baseline(folder)).arms["mine"]
    assert arm.harm is None
    assert arm.harm_adjusted is None
    assert arm.any_harm[:2] == (0, 4)
    assert arm.any_harm.p_value == pytest.approx(0.125)


def test_a_baseline_that_is_missing_broken_or_half_is_refused(tmp_path: Path, probe_set: ProbeSet) -> None:
    with pytest.raises(AuditError, match="cannot be read"):
        read_baseline(tmp_path / "nowhere")
    folder = written(tmp_path / "then", audit(probe_set, mine=THEN))
    findings = (folder / "findings.jsonl").read_text()
    (folder / "findings.jsonl").write_text(findings.splitlines()[0] + "\n")
    with pytest.raises(AuditError, match=r"counts 3 findings, findings\.jsonl has 1"):
        read_baseline(folder)
    (folder / "findings.jsonl").write_text(findings)
    content = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(AuditError, match="no audit report of ours: at schema_version"):
        read_baseline(folder)
    (folder / "report.json").write_text("{")
    with pytest.raises(AuditError, match="no audit report of ours"):
        read_baseline(folder)


def test_an_old_report_of_a_part_of_the_queries_cannot_be_compared(tmp_path: Path, probe_set: ProbeSet) -> None:
    folder = written(tmp_path, audit(probe_set, mine=THEN))
    content = json.loads((folder / "report.json").read_text())
    content["schema_version"] = 1
    content["arms"]["mine"]["asked"]["harmful"] = 2
    del content["arms"]["mine"]["subset"]
    (folder / "report.json").write_text(json.dumps(content))
    with pytest.raises(AuditError, match="a part of the queries and does not say which"):
        compare_reports(audit(probe_set, mine=NOW), read_baseline(folder))
