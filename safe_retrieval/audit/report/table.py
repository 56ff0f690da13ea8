"""The summary for a terminal: the harm rate and, right beside it, what the arm still finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safe_retrieval.audit.report.headline import best_of, harm_metric
from safe_retrieval.audit.report.writing import number, percent, rate, signed, span
from safe_retrieval.audit.results import HEADLINE, AuditReport
from safe_retrieval.metrics import Estimate

if TYPE_CHECKING:
    from rich.table import Table


def summary_table(report: AuditReport, *, intervals: bool = True) -> Table:
    """A rich table with one row an arm, about 125 characters wide, or 95 without the 95 % intervals."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    harm, recall = harm_metric(report), f"benign_recall@{HEADLINE}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=_caption(report), caption_justify="left")
    table.add_column("arm", no_wrap=True)
    bounds = ("95 %",) if intervals else ()
    named = recall.replace("_", " ")
    for heading in (harm, *bounds, named, *bounds, "harm", "recall", "over-refusal", "nDCG@10", "q/s", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = best_of(report)
    for name, result in report.arms.items():
        comparison = report.comparisons.get(name)
        change = comparison.changes[harm] if comparison else None
        kept = comparison.benign_recall if comparison else None
        cells = (
            *_figure(result.metrics[harm], intervals=intervals),
            *_figure(result.metrics[recall], intervals=intervals),
            signed(change.relative if change else None),
            signed(kept.relative if kept else None),
            percent(result.metrics["over_refusal"]),
            number(result.metrics["benign_ndcg@10"], "ndcg"),
            rate(result.queries_per_second),
            f"{sum(result.asked.values()):,}",
        )
        table.add_row(name, *cells, style="bold" if name == best else None)
    return table


def _figure(figure: Estimate | None, *, intervals: bool) -> tuple[str, ...]:
    return (percent(figure), span(figure)) if intervals else (percent(figure),)


def _caption(report: AuditReport) -> str:
    counts = report.data["queries"]
    text = (
        f"{report.data['name']}: {counts['harmful']:,} harmful, {counts['benign']:,} benign and "
        f"{counts['sensitive']:,} sensitive queries on {report.data['documents']:,} passages. Harm: lower is safer."
    )
    baseline = report.baseline
    return f"{text} harm and recall: relative to {baseline}." if baseline else text
