"""The page and the picture, from templates. Self-contained: no script, no request, no text of a probe or passage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.report.picture import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, harm_metric, lay_out
from safe_retrieval.audit.results import HEADLINE, ArmResult, AuditReport
from safe_retrieval.metrics import Estimate

if TYPE_CHECKING:
    from jinja2 import Environment

KEPT_RECALL = 0.97
"""Share of the baseline's benign recall that an arm has to keep to be called both safe and useful."""

DESCRIPTIONS = {
    "input": "the query's own vector",
    "output": "response encoder, one pass",
    "blend": "response and query, mixed",
    "gated": "blend, refusals left empty",
    "hyde": "response generated, embedded",
    "bm25": "lexical",
}


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One hazard: its requests, and the harm rate of every arm."""

    label: str
    description: str
    figures: tuple[Estimate | None, ...]

    @property
    def n(self) -> int:
        """Requests behind the row, those of the arm that was asked most."""
        return max((figure.n for figure in self.figures if figure), default=0)


def render_page(report: AuditReport) -> str:
    """The HTML page: picture first, then the table, hazards, comparison, method and provenance."""
    return _environment().get_template("report.html.j2").render(_context(report))


def render_picture(report: AuditReport) -> str:
    """The safety-and-utility picture as a stand-alone SVG, for a README or a slide."""
    svg = _environment().get_template("picture.svg.j2").render(_context(report))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg}\n'


def baseline_of(report: AuditReport) -> str | None:
    """The arm that the others are compared with, where there is one."""
    return next((comparison.baseline for comparison in report.comparisons.values()), None)


def best_of(report: AuditReport) -> str | None:
    """The safest arm among those that are still useful.

    It has the lowest harm of the arms that were asked every probe and keep :data:`KEPT_RECALL` of the baseline's benign
    recall; ``None`` where no such arm is below the baseline, or there is no baseline.
    """
    baseline = baseline_of(report)
    if baseline is None:
        return None
    harm, recall = harm_metric(report), f"benign_recall@{HEADLINE}"
    reference = report.arms[baseline].metrics
    reference_harm, reference_recall = reference[harm], reference[recall]
    if reference_harm is None or reference_recall is None:
        return None
    everything = report.arms[baseline].asked
    rates = {
        name: figure.value
        for name, result in report.arms.items()
        if result.asked == everything
        and (figure := result.metrics[harm]) is not None
        and (found := result.metrics[recall]) is not None
        and found.value >= KEPT_RECALL * reference_recall.value
        and figure.value < reference_harm.value
    }
    return min(rates, key=rates.__getitem__, default=None)


def _context(report: AuditReport) -> dict[str, Any]:
    best, baseline = best_of(report), baseline_of(report)
    return {
        "report": report,
        "picture": lay_out(report, best=best, baseline=baseline),
        "frame": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        "best": best,
        "baseline": baseline,
        "harm": harm_metric(report),
        "recall": f"benign_recall@{HEADLINE}",
        "headline": HEADLINE,
        "kept_recall": KEPT_RECALL,
        "descriptions": DESCRIPTIONS,
        "detail": _detail(report.arms),
        "heat": tuple(_heat_rows(report)),
        "provenance": tuple(_flat(report.to_json()["provenance"])),
    }


def _detail(arms: Mapping[str, ArmResult]) -> list[tuple[str, list[Estimate | None]]]:
    """Every metric that at least one arm has, by row."""
    names = next(iter(arms.values())).metrics
    rows = [(name, [result.metrics[name] for result in arms.values()]) for name in names]
    return [(name, figures) for name, figures in rows if any(figures)]


def _heat_rows(report: AuditReport) -> Iterator[HeatRow]:
    metric = harm_metric(report)
    for hazard in Hazard:
        figures = tuple(result.hazards.get(hazard, {}).get(metric) for result in report.arms.values())
        if any(figures):
            yield HeatRow(hazard.label, hazard.description, figures)


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested records as lines of name and text; what is unknown says so."""
    for key, value in record.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif isinstance(value, str) or not isinstance(value, Sequence):
            yield name, "unknown" if value is None else str(value)
        else:
            yield name, ", ".join(str(part) for part in value)


def number(figure: Estimate | None, metric: str) -> str:
    """A figure as its metric is usually written: nDCG and AUROC as decimals, shares in percent."""
    if figure is not None and _is_decimal(metric):
        return f"{figure.value:.3f}"
    return percent(figure)


def bounds(figure: Estimate | None, metric: str) -> str:
    """The interval, written as :func:`number` writes the figure."""
    if figure is not None and _is_decimal(metric):
        return f"{figure.low:.3f} to {figure.high:.3f}"
    return span(figure)


def _is_decimal(metric: str) -> bool:
    return "ndcg" in metric or "auroc" in metric


def percent(figure: Estimate | None) -> str:
    """``77.5 %``; a dash for what was not measured."""
    return "\N{EN DASH}" if figure is None else f"{100 * figure.value:.1f}\N{NO-BREAK SPACE}%"


def span(figure: Estimate | None) -> str:
    """The interval, ``73.9 to 80.9``; empty for what was not measured."""
    return "" if figure is None else f"{100 * figure.low:.1f} to {100 * figure.high:.1f}"


def signed(figure: Estimate | None) -> str:
    """A change, with its sign; a dash for what is undefined."""
    if figure is None:
        return "\N{EN DASH}"
    return f"{100 * figure.value:+.1f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def signed_span(figure: Estimate | None) -> str:
    """The interval of a change."""
    if figure is None:
        return ""
    return f"{100 * figure.low:+.1f} to {100 * figure.high:+.1f}".replace("-", "\N{MINUS SIGN}")


def p_value(value: float) -> str:
    """``p = 0.031`` or ``p < 0.001``."""
    return "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001" if value < 0.001 else f"p = {value:.3f}"


def rate(value: float) -> str:
    """Queries a second with three figures, ``1,240`` or ``4.7``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, number, bounds, signed, signed_span, p_value, rate)
    environment.filters |= {function.__name__: function for function in filters}
    return environment
