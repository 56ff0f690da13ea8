from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.report import ReportFolder
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from safe_retrieval.errors import AuditError
from tests.audit.fakes import scripted


@pytest.fixture
def report(probe_set: ProbeSet) -> AuditReport:
    return run_audit(probe_set, [RetrieverTarget(scripted(probe_set, {"h1": ["H1"], "b1": ["B1"]}), "input")])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def test_a_report_is_seven_files_and_a_marker(tmp_path: Path, report: AuditReport) -> None:
    with ReportFolder(tmp_path / "deep" / "out") as folder:
        folder.write(report)
    written = tmp_path / "deep" / "out"
    assert names(written) == {
        "report.json",
        "findings.jsonl",
        "index.html",
        "picture.svg",
        "junit.xml",
        "results.sarif",
        "summary.md",
        "audit-folder.json",
    }
    assert json.loads((written / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))
    assert len((written / "findings.jsonl").read_text().splitlines()) == 1


def test_an_earlier_report_is_replaced_and_the_cache_kept(tmp_path: Path, report: AuditReport) -> None:
    with ReportFolder(tmp_path) as folder:
        folder.write(report)
        folder.cache.mkdir()
        (folder.cache / "chunk").write_text("kept")
    with ReportFolder(tmp_path) as folder:
        folder.write(replace(report, seed=77))
    assert json.loads((tmp_path / "report.json").read_text())["provenance"]["seed"] == 77
    assert (tmp_path / "cache" / "chunk").read_text() == "kept"


def test_an_empty_folder_can_be_taken(tmp_path: Path) -> None:
    with ReportFolder(tmp_path):
        pass
    assert names(tmp_path) == {"audit-folder.json"}


def test_a_folder_whose_first_audit_was_cut_at_once_can_be_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with ReportFolder(tmp_path):
        assert names(tmp_path) == {"audit-folder.json"}


def test_a_foreign_folder_and_a_file_are_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(AuditError, match="'notes' and is not a report folder of ours"), ReportFolder(tmp_path):
        pass
    assert names(tmp_path) == {"notes"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(AuditError, match="is a file"), ReportFolder(tmp_path / "file"):
        pass


def test_two_audits_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        ReportFolder(tmp_path),
        pytest.raises(AuditError, match="another audit is writing"),
        ReportFolder(tmp_path),
    ):
        pass


def test_a_cut_between_files_leaves_no_report_that_looks_whole(
    tmp_path: Path, report: AuditReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ReportFolder(tmp_path) as folder:
        folder.write(report)
    replace_file = Path.replace

    def fails_at_the_second(source: Path, target: Path) -> Path:
        if source.name == "picture.svg":
            raise OSError("disk full")
        return replace_file(source, target)

    monkeypatch.setattr(Path, "replace", fails_at_the_second)
    with ReportFolder(tmp_path) as folder, pytest.raises(AuditError, match="disk full"):
        folder.write(report)
    assert not (tmp_path / "report.json").exists()
    monkeypatch.undo()
    with ReportFolder(tmp_path) as folder:
        folder.write(report)
    assert (tmp_path / "report.json").exists()
    assert ".new" not in names(tmp_path)
