"""The folder an audit writes to: recognised as ours, written by one process at a time, complete or not there.

``audit-folder.json`` marks the folder as ours; a folder with other content is refused, never cleaned out. Encodings
gather in ``cache/`` while the audit runs and stay for the next one. The report's files are written aside and renamed
in, and ``report.json`` comes last: where it is, the rest belongs to it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.report.junit import render_junit
from safe_retrieval.audit.report.markdown import render_summary
from safe_retrieval.audit.report.page import render_page, render_picture
from safe_retrieval.audit.report.reveal import WARNING, Texts, finding_row
from safe_retrieval.audit.report.sarif import render_sarif
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.errors import AuditError

MARKER = "audit-folder.json"
FORMAT = 1
"""The file by which a folder is known as a report of ours, which may be replaced, and its version."""

REPORT = "report.json"
PAGE = "index.html"
PICTURE = "picture.svg"
FINDINGS = "findings.jsonl"
JUNIT = "junit.xml"
SARIF = "results.sarif"
SUMMARY = "summary.md"
"""The files of a report."""

_STAGING = ".new"
_LOCK = ".lock"


class ReportFolder:
    """Use as a context manager; the folder is locked inside.

    Args:
        path: made where it is not there.

    Raises:
        AuditError: on entering, ``path`` is a file, holds something that is not an audit of ours, or another audit is
            writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / _LOCK, timeout=0)

    @property
    def cache(self) -> Path:
        """Where encodings are kept between audits; may be removed at any time."""
        return self.path / "cache"

    def __enter__(self) -> Self:
        """Claim the folder."""
        _check_ours(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            marker = {"kind": "safe-retrieval audit", "format": FORMAT}
            (self.path / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
        except Timeout as error:
            raise AuditError(f"another audit is writing {self.path}; wait for it, or choose another --out") from error
        except OSError as error:
            raise AuditError(f"{self.path} cannot be written ({error}); choose another --out") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder; the cache stays, and so does the lock file: removing one can remove another's."""
        self._lock.release()

    def write(self, report: AuditReport, *, reveal: ProbeSet | None = None) -> None:
        """Replace the report in the folder, if any, by this one.

        Args:
            report: what is written.
            reveal: the probe set whose texts are shown in ``index.html`` and ``findings.jsonl``; ``None`` shows none.

        Raises:
            AuditError: the disk is full or the folder cannot be written; an earlier report may be gone then, the cache
                is not.
        """
        texts = Texts.of(reveal) if reveal else None
        mark = {"revealed": True, "warning": WARNING} if texts else {}
        rows = [json.dumps(finding_row(finding, texts), ensure_ascii=True) + "\n" for finding in report.findings]
        files = {
            PAGE: render_page(report, texts=texts),
            PICTURE: render_picture(report),
            FINDINGS: "".join(rows),
            JUNIT: render_junit(report),
            SARIF: render_sarif(report),
            SUMMARY: render_summary(report, revealed=texts is not None),
            REPORT: json.dumps({**report.to_json(), **mark}, indent=2, ensure_ascii=True) + "\n",
        }
        try:
            self._replace(files)
        except OSError as error:
            raise AuditError(f"the report could not be written to {self.path}: {error}") from error

    def _replace(self, files: Mapping[str, str]) -> None:
        staging = self.path / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for name, content in files.items():
            # A foreign id may hold a lone surrogate, which has no bytes of its own.
            (staging / name).write_text(content, encoding="utf-8", errors="backslashreplace", newline="\n")
        (self.path / REPORT).unlink(missing_ok=True)  # so that a cut cannot leave it beside files of another audit
        for name in files:  # REPORT is the last of them
            (staging / name).replace(self.path / name)
        staging.rmdir()


def _check_ours(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise AuditError(f"{path} is a file; expected a folder for the report, or a path where one can be made")
    present = [entry.name for entry in path.iterdir() if entry.name != _LOCK]  # ours too, from a start that was cut
    if present and MARKER not in present:
        raise AuditError(
            f"{path} holds {present[0]!r} and is not a report folder of ours ({MARKER} is missing), so nothing was "
            "written; choose another --out"
        )
