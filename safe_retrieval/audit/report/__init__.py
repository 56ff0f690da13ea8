"""How an audit reports: one folder with ``report.json``, ``findings.jsonl``, ``index.html``, ``picture.svg``,
``junit.xml``, ``results.sarif`` and ``summary.md``.

Every writer here takes an :class:`~safe_retrieval.audit.results.AuditReport`, which holds ids, hashes and figures and
no text of a query or passage, so none can show any; the two that can, take the texts beside it (``reveal``).
"""

from safe_retrieval.audit.report.folder import ReportFolder
from safe_retrieval.audit.report.junit import render_junit
from safe_retrieval.audit.report.markdown import render_summary
from safe_retrieval.audit.report.page import render_page, render_picture
from safe_retrieval.audit.report.sarif import render_sarif
from safe_retrieval.audit.report.schema import report_schema
from safe_retrieval.audit.report.table import summary_table

__all__ = [
    "ReportFolder",
    "render_junit",
    "render_page",
    "render_picture",
    "render_sarif",
    "render_summary",
    "report_schema",
    "summary_table",
]
