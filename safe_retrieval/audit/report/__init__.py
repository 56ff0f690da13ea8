"""How an audit reports: one folder with ``report.json``, ``findings.jsonl``, ``index.html`` and ``picture.svg``.

Every writer here takes an :class:`~safe_retrieval.audit.results.AuditReport`, which holds ids, hashes and figures and
no text of a query or passage, so none can show any.
"""

from safe_retrieval.audit.report.folder import ReportFolder
from safe_retrieval.audit.report.page import render_page, render_picture
from safe_retrieval.audit.report.table import summary_table

__all__ = ["ReportFolder", "render_page", "render_picture", "summary_table"]
