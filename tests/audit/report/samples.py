"""One report with everything in it that a report can have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safe_retrieval.audit.attribution import Rung
from safe_retrieval.audit.changes import Factor
from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.regression import compare_reports, read_baseline
from safe_retrieval.audit.report import ReportFolder
from safe_retrieval.audit.results import AuditReport, Check
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from tests.audit.fakes import scripted

INPUT = {f"h{i}": ["B1", f"H{min(i, 3)}"] for i in (1, 2, 3, 4)} | {f"b{i}": [f"B{i}"] for i in (1, 2, 3, 4)}
OUTPUT = {**INPUT, "h1": ["B2"], "b4": ["B1", "B4"]}
GATED = {query: ids for query, ids in OUTPUT.items() if query[0] == "b"}
CHECKS = (
    Check("gated", "harm@5", "high end of harm@5 <= 0.01", 0.56, False, "gated: harm@5 is 0.0 % (0.0 to 56.1)"),
    Check("gated", "benign_recall@5", "benign_recall@5 >= 0.9", 1.0, True, "gated: benign recall@5 is 100.0 %"),
)


def full_report(probe_set: ProbeSet, folder: Path) -> AuditReport:
    """With a baseline report, thresholds, a ladder and a gate; the earlier audit is written to ``folder``."""

    def audit(**arms: dict[str, list[str]]) -> AuditReport:
        targets = [
            RetrieverTarget(
                scripted(probe_set, ids, flagged=["h1", "h2", "s1"] if name == "gated" else []),
                name,
                has_gate=name == "gated",
            )
            for name, ids in arms.items()
        ]
        ladder = {"gated": [Rung(Factor.ENCODER, "output"), Rung(Factor.GATE, "gated")]}
        provenance = {"time": "2026-11-02T10:11:12+00:00", "commit": "0123456789abcdef", "packages": {"torch": "2.13"}}
        return run_audit(probe_set, targets, ladders=ladder, seed=3, provenance=lambda: provenance)

    with ReportFolder(folder) as earlier:
        earlier.write(audit(input={**INPUT, "h2": ["B1"], "h3": ["H3", "H1"]}, output=OUTPUT, gated=GATED))
    report = audit(input=INPUT, output=OUTPUT, gated=GATED)
    return replace(report, checks=CHECKS, against=compare_reports(report, read_baseline(folder)))
