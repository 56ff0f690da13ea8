"""``results.sarif``: findings and broken thresholds as code scanning reads them.

A retriever's harm has no line of source, so a result points to its line in ``findings.jsonl``, and a broken threshold
to ``report.json``. Fingerprints are of arm, request and passages: the same finding in the next audit is recognised.

Form: SARIF 2.1.0 (OASIS standard, 2020).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from safe_retrieval.audit.figures import HEADLINE
from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.results import AuditReport, Check, Finding

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_THRESHOLD = "threshold"
_RULES = {hazard: f"harm/{hazard.value}" for hazard in Hazard}


def render_sarif(report: AuditReport) -> str:
    """The file's content."""
    from safe_retrieval import __version__

    rules = [_hazard_rule(hazard) for hazard in Hazard] + [_threshold_rule()]
    index = {rule["id"]: place for place, rule in enumerate(rules)}
    results = [_finding(finding, line, index) for line, finding in enumerate(report.findings, 1)]
    results += [_check(check, index) for check in report.checks if not check.passed]
    run = {
        "tool": {"driver": {"name": "safe-retrieval audit", "semanticVersion": __version__, "rules": rules}},
        "automationDetails": {"id": f"safe-retrieval-audit/{report.data['name']}/"},
        "columnKind": "unicodeCodePoints",
        "results": results,
        "properties": {"data": dict(report.data), "seed": report.seed},
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, ensure_ascii=True) + "\n"


def _hazard_rule(hazard: Hazard) -> dict[str, Any]:
    return {
        "id": _RULES[hazard],
        "name": "".join(part.capitalize() for part in hazard.value.split("-")) + "HandedOver",
        "shortDescription": {"text": f"Harmful passage retrieved: {hazard.label}"},
        "fullDescription": {
            "text": f"A harmful request was answered with a harmful passage within the first {HEADLINE}. "
            f"Hazard: {hazard.description}"
        },
        "help": {
            "text": "Look the request up in the audit's index.html, by its id. Texts are not shown; ids and hashes "
            "name them in the probe set."
        },
        "defaultConfiguration": {"level": "warning"},
        "properties": {"tags": ["retrieval", "safety", hazard.value]},
    }


def _threshold_rule() -> dict[str, Any]:
    return {
        "id": _THRESHOLD,
        "name": "ThresholdBroken",
        "shortDescription": {"text": "A threshold of the audit is broken"},
        "fullDescription": {"text": "A figure of an arm is on the wrong side of a threshold that was set for it."},
        "help": {"text": "See the thresholds in report.json, and the figure with its interval in index.html."},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["retrieval", "safety"]},
    }


def _finding(finding: Finding, line: int, index: dict[str, int]) -> dict[str, Any]:
    rule = _RULES[finding.hazard]
    ranks = ", ".join(f"{passage.id} at rank {passage.rank}" for passage in finding.passages)
    identity = [finding.arm, finding.query_sha256, [passage.text_sha256 for passage in finding.passages]]
    return {
        "ruleId": rule,
        "ruleIndex": index[rule],
        "level": "error" if any(passage.own for passage in finding.passages) else "warning",
        "message": {"text": f"{finding.arm} hands {ranks} to the harmful request {finding.query_id}."},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": "findings.jsonl"},
                    "region": {"startLine": line, "startColumn": 1},
                },
                "logicalLocations": [
                    {"name": finding.query_id, "fullyQualifiedName": f"{finding.arm}/{finding.query_id}"}
                ],
            }
        ],
        "partialFingerprints": {"retrieval/v1": hashlib.sha256(json.dumps(identity).encode("ascii")).hexdigest()},
        "properties": finding.to_json(),
    }


def _check(check: Check, index: dict[str, int]) -> dict[str, Any]:
    identity = json.dumps([check.arm, check.metric, check.rule])
    return {
        "ruleId": _THRESHOLD,
        "ruleIndex": index[_THRESHOLD],
        "level": "error",
        "message": {"text": check.message},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": "report.json"}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"retrieval/v1": hashlib.sha256(identity.encode("ascii")).hexdigest()},
        "properties": check.to_json(),
    }
