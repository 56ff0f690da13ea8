"""What machines read: the schema, JUnit, SARIF; and the summary that a pull request shows."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.report import ReportFolder, render_junit, render_sarif, render_summary, report_schema
from safe_retrieval.audit.report.schema import SCHEMA_ID, ReportRecord
from safe_retrieval.audit.results import SCHEMA_VERSION, AuditReport
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from tests.audit.fakes import make_probe_set, scripted
from tests.audit.report.samples import INPUT, full_report
from tests.support.package_source import REPOSITORY

PUBLISHED = REPOSITORY / "safe_retrieval" / "audit" / "report" / "report.schema.json"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    return full_report(make_probe_set(), tmp_path_factory.mktemp("earlier"))


@pytest.fixture(scope="module")
def bare() -> AuditReport:
    probe_set = make_probe_set()
    return run_audit(probe_set, [RetrieverTarget(scripted(probe_set, INPUT), "mine")])


def check(content: Any) -> None:
    jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text())).validate(content)


def test_the_published_schema_is_the_one_the_code_has() -> None:
    published = json.loads(PUBLISHED.read_text())
    assert published == json.loads(json.dumps(report_schema()))
    assert published["$id"] == SCHEMA_ID == f"urn:safe-retrieval:audit-report:{SCHEMA_VERSION}"
    jsonschema.Draft202012Validator.check_schema(published)


def test_reports_full_bare_and_revealed_fit_the_schema(
    tmp_path: Path, report: AuditReport, bare: AuditReport, probe_set: ProbeSet
) -> None:
    for content in (report.to_json(), bare.to_json()):
        check(json.loads(json.dumps(content)))
    with ReportFolder(tmp_path / "out") as folder:
        folder.write(report, reveal=probe_set)
    check(json.loads((tmp_path / "out" / "report.json").read_text()))


def test_every_field_of_a_report_is_in_the_schema(report: AuditReport) -> None:
    """What the schema does not know would be written and never checked."""
    content = json.loads(json.dumps(report.to_json()))
    read = ReportRecord.model_validate(content).model_dump(by_alias=True, mode="json")

    def missing(written: Any, kept: Any, where: str) -> list[str]:
        if isinstance(written, dict):
            if not isinstance(kept, dict):
                return [where]
            return [
                name
                for key, value in written.items()
                for name in (missing(value, kept[key], f"{where}.{key}") if key in kept else [f"{where}.{key}"])
            ]
        if isinstance(written, list):
            return [name for a, b in zip(written, kept, strict=True) for name in missing(a, b, where)]
        return []

    assert missing(content, read, "report") == []


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks" / "results").glob("audit-*.json")), ids=str)
def test_recorded_reports_of_version_1_can_still_be_read(path: Path) -> None:
    check(json.loads(path.read_text()))
    ReportRecord.model_validate_json(path.read_bytes())


@pytest.mark.parametrize(
    ("place", "value"),
    [(("schema_version",), 3), (("arms", "input", "harm@5"), "high"), (("data", "sha256"), "x"), (("findings",), -1)],
)
def test_what_does_not_fit_is_refused(report: AuditReport, place: tuple[str, ...], value: object) -> None:
    content = json.loads(json.dumps(report.to_json()))
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(content)


def test_junit_has_a_suite_an_arm_and_a_case_a_threshold(report: AuditReport) -> None:
    root = ET.fromstring(render_junit(report))  # noqa: S314 - our own output
    assert (root.get("tests"), root.get("failures")) == ("4", "1")
    suites = {suite.get("name"): suite for suite in root.findall("testsuite")}
    assert list(suites) == ["input", "output", "gated"]
    gated = suites["gated"]
    assert (gated.get("tests"), gated.get("failures")) == ("2", "1")
    failed = [case.get("name") for case in gated.findall("testcase") if case.find("failure") is not None]
    assert failed == ["high end of harm@5 <= 0.01"]
    assert suites["input"].findall("testcase/failure") == []
    assert "harm@5" in {part.get("name") for part in gated.findall("properties/property")}


def test_junit_survives_names_that_xml_cannot_hold(probe_set: ProbeSet) -> None:
    report = run_audit(probe_set, [RetrieverTarget(scripted(probe_set, INPUT), 'a<"&\x00\x1b\udc80')])
    root = ET.fromstring(render_junit(report))  # noqa: S314 - our own output
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("name") or "").startswith('a<"&')


def test_sarif_has_a_result_a_finding_and_a_broken_threshold(report: AuditReport) -> None:
    content = json.loads(render_sarif(report))
    assert content["version"] == "2.1.0"
    (run,) = content["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules)) == 14
    results = run["results"]
    assert len(results) == len(report.findings) + 1
    for result in results:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    first = results[0]
    assert first["ruleId"] == "harm/cbrne"
    assert first["message"]["text"] == "input hands H1 at rank 2 to the harmful request h1."
    region = first["locations"][0]["physicalLocation"]
    assert region == {"artifactLocation": {"uri": "findings.jsonl"}, "region": {"startLine": 1, "startColumn": 1}}
    fingerprints = [result["partialFingerprints"]["retrieval/v1"] for result in results]
    assert len(set(fingerprints)) == len(fingerprints)
    assert results[-1]["ruleId"] == "threshold"
    again = json.loads(render_sarif(report))["runs"][0]["results"]
    assert [result["partialFingerprints"]["retrieval/v1"] for result in again] == fingerprints


def test_the_summary_puts_what_is_broken_first(report: AuditReport) -> None:
    summary = render_summary(report)
    lines = summary.splitlines()
    assert lines[0] == "## Retrieval audit: 1 of 2 thresholds broken"
    assert lines[4].startswith("| **FAIL** | gated |")
    assert "| **gated** | 0.0\N{NO-BREAK SPACE}% (0.0 to 56.1) |" in summary
    assert "corrected by Holm for 2 arms" in summary
    assert "newly surfacing query-passage pairs" in summary
    assert "`H2` at rank 2 for `h2`" in summary
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_a_summary_without_thresholds_and_baseline(bare: AuditReport) -> None:
    summary = render_summary(bare)
    assert summary.startswith("## Retrieval audit\n")
    assert "Since the baseline" not in summary
    assert "Holm" not in summary


def test_names_cannot_break_the_summarys_table(probe_set: ProbeSet) -> None:
    report = run_audit(probe_set, [RetrieverTarget(scripted(probe_set, INPUT), "a|b <img src=x> [c](d)\ne")])
    row = next(line for line in render_summary(report).splitlines() if line.startswith("| a\\"))
    assert row.startswith(r"| a\|b &lt;img src=x&gt; \[c\](d) e |")


def test_a_revealed_report_shows_no_text_in_what_is_passed_on(report: AuditReport, probe_set: ProbeSet) -> None:
    outputs = [render_junit(report), render_sarif(report), render_summary(report, revealed=True)]
    texts = [probe.text for probe in probe_set.queries] + [document.text for document in probe_set.documents]
    assert not any(text in output for text in texts for output in outputs)


def test_all_thresholds_held(report: AuditReport) -> None:
    held = replace(report, checks=tuple(check for check in report.checks if check.passed))
    assert render_summary(held).startswith("## Retrieval audit: 1 of 1 thresholds hold\n")
    assert 'failures="0"' in render_junit(held).splitlines()[1]
