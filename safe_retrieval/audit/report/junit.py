"""``junit.xml``: one suite an arm, one test case a threshold, for the test pages of CI systems.

Form: the Jenkins and Ant dialect (``testsuites/testsuite/testcase/failure``), which GitHub, GitLab and Jenkins read.
An arm without thresholds has one case, which passes: the audit was carried out.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from safe_retrieval.audit.results import ArmResult, AuditReport, Check

_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""XML 1.0 has no way to write these, not even escaped."""


def render_junit(report: AuditReport) -> str:
    """The file's content."""
    root = ET.Element("testsuites", name=_text(f"retrieval audit: {report.data['name']}"))
    for name, result in report.arms.items():
        _suite(root, name, result, [check for check in report.checks if check.arm == name], report)
    cases = root.findall("testsuite/testcase")
    root.set("tests", str(len(cases)))
    root.set("failures", str(len(root.findall("testsuite/testcase/failure"))))
    root.set("errors", "0")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, name: str, result: ArmResult, checks: list[Check], report: AuditReport) -> None:
    seconds = f"{result.encode_seconds + result.search_seconds:.3f}"
    failures = sum(not check.passed for check in checks)
    suite = ET.SubElement(
        root,
        "testsuite",
        name=_text(name),
        tests=str(max(len(checks), 1)),
        failures=str(failures),
        errors="0",
        time=seconds,
    )
    time = report.provenance.get("time")
    if isinstance(time, str):
        suite.set("timestamp", time)
    properties = ET.SubElement(suite, "properties")
    for metric, figure in result.metrics.items():
        if figure is not None:
            value = f"{figure.value:.6f} [{figure.low:.6f}, {figure.high:.6f}], n = {figure.n}"
            ET.SubElement(properties, "property", name=metric, value=value)
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname=_text(f"audit.{name}"), name=_text(check.rule), time="0")
        if not check.passed:
            ET.SubElement(case, "failure", type="threshold", message=_text(check.message))
    if not checks:
        ET.SubElement(suite, "testcase", classname=_text(f"audit.{name}"), name="audited", time=seconds)


def _text(value: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)
