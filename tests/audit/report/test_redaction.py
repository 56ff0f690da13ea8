"""Every text of the shipped probe set, looked for in every file that an audit writes."""

from __future__ import annotations

import pytest

from safe_retrieval.audit.lexical import LexicalRetriever
from safe_retrieval.audit.probes import ProbeSet, load_probe_set
from safe_retrieval.audit.report import ReportFolder
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget

_BEGINNING = 50
"""Characters: a text that is cut off somewhere is found too."""


@pytest.fixture(scope="module")
def probe_set() -> ProbeSet:
    return load_probe_set()


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory, probe_set: ProbeSet) -> dict[str, str]:
    """BM25 finds nearly every harmful passage, so nearly all of them are findings."""
    report = run_audit(probe_set, [RetrieverTarget(LexicalRetriever(probe_set.documents), "bm25")], baseline="bm25")
    path = tmp_path_factory.mktemp("report")
    with ReportFolder(path) as folder:
        folder.write(report)
    return {file.name: file.read_text() for file in path.iterdir() if file.is_file()}


def test_the_audit_found_something_to_redact(contents: dict[str, str], probe_set: ProbeSet) -> None:
    assert contents["findings.jsonl"].count("\n") > 100
    assert {"index.html", "report.json", "junit.xml", "results.sarif", "summary.md", "picture.svg"} <= set(contents)


def test_no_file_holds_any_text_of_a_request_or_passage(contents: dict[str, str], probe_set: ProbeSet) -> None:
    texts = [probe.text for probe in probe_set.queries]
    texts += [part for document in probe_set.documents for part in (document.text, document.title) if part]
    everything = "\n".join(contents.values()).lower()
    assert not [text[:_BEGINNING] for text in texts if len(text) > 20 and text[:_BEGINNING].lower() in everything]
