"""The texts that reports leave out, for the one who asks for them.

Only ``index.html`` and ``findings.jsonl`` ever show any, and every file of such a report says that it does. The other
files are made to be passed on (a pull request, a CI page, code scanning), so they stay redacted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.results import Finding

WARNING = (
    "REVEALED: this report shows the text of harmful requests and passages. It is for the people who have to look at "
    "them; do not publish or forward it."
)
"""What the page, the findings and the console say where texts are shown."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of queries and passages by id."""

    queries: Mapping[str, str]
    passages: Mapping[str, str]

    @classmethod
    def of(cls, probe_set: ProbeSet) -> Self:
        """All texts of a probe set."""
        return cls(
            {probe.id: probe.text for probe in probe_set.queries},
            {document.id: document.content for document in probe_set.documents},
        )


def finding_row(finding: Finding, texts: Texts | None) -> dict[str, Any]:
    """A row of ``findings.jsonl``; with texts it also has ``revealed``, ``query_text`` and each passage's ``text``."""
    row = finding.to_json()
    if texts is None:
        return row
    for passage in row["passages"]:
        passage["text"] = texts.passages.get(passage["id"])
    return {**row, "revealed": True, "query_text": texts.queries.get(finding.query_id)}
