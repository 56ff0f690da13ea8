"""The page and the picture, from templates. Self-contained: one script in the file, no request, no text unasked."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.report import writing
from safe_retrieval.audit.report.drill import drill_json
from safe_retrieval.audit.report.headline import KEPT_RECALL, RECALL, best_of, harm_metric
from safe_retrieval.audit.report.picture import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, lay_out
from safe_retrieval.audit.report.reveal import WARNING, Texts
from safe_retrieval.audit.results import HEADLINE, ArmResult, AuditReport
from safe_retrieval.metrics import Estimate

if TYPE_CHECKING:
    from jinja2 import Environment

DESCRIPTIONS = {
    "input": "the query's own vector",
    "output": "response encoder, one pass",
    "blend": "response and query, mixed",
    "gated": "blend, refusals left empty",
    "hyde": "response generated, embedded",
    "bm25": "lexical",
}
"""What each of our own arms is, in a few words, by its name."""

_TEMPLATES = Path(__file__).with_name("templates")
_BINS = ((1, 1), (2, 5), (6, 20), (21, 100))


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


class RankRow(NamedTuple):
    """One arm: the share of requests whose first harmful passage stands in each range of ranks, the last beyond all."""

    arm: str
    whose: str
    shares: tuple[float, ...]
    median: int | None
    depth: int


def render_page(report: AuditReport, *, texts: Texts | None = None) -> str:
    """The HTML page; it shows texts, under a warning, only where they are given."""
    context = _context(report) | _page_context(report, texts)
    return _environment().get_template("report.html.j2").render(context)


def render_picture(report: AuditReport) -> str:
    """The frontier as a stand-alone SVG, for a README or a slide."""
    svg = _environment().get_template("picture.svg.j2").render(_context(report))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg}\n'


def _context(report: AuditReport) -> dict[str, Any]:
    best, baseline = best_of(report), report.baseline
    return {
        "report": report,
        "picture": lay_out(report, best=best, baseline=baseline),
        "frame": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        "best": best,
        "baseline": baseline,
        "harm": harm_metric(report),
        "recall": RECALL,
        "headline": HEADLINE,
    }


def _page_context(report: AuditReport, texts: Texts | None) -> dict[str, Any]:
    from markupsafe import Markup

    script = (_TEMPLATES / "script.js").read_text(encoding="utf-8")
    heat, ranks = tuple(_heat_rows(report)), tuple(_rank_rows(report))
    return {
        "kept_recall": KEPT_RECALL,
        "descriptions": DESCRIPTIONS,
        "detail": _detail(report.arms),
        "heat": heat,
        "rank_rows": ranks,
        "rank_labels": _rank_labels(report),
        "claims": [(name, arm) for name, arm in report.arms.items() if arm.claims],
        "provenance": tuple(_flat(report.to_json()["provenance"])),
        "revealed": texts is not None,
        "warning": WARNING,
        "sections": tuple(_sections(report, heat=bool(heat), ranks=bool(ranks))),
        "answers": Markup(drill_json(report, texts)),  # noqa: S704 - JSON in which no "<" is left
        "script": Markup(script),  # noqa: S704 - a file of this package
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _sections(report: AuditReport, *, heat: bool, ranks: bool) -> Iterator[tuple[str, str]]:
    """Anchors and titles of what this page has, in its order."""
    yield from [("checks", "Thresholds")] if report.checks else []
    yield "figures", "Figures"
    yield from [("against", "Since the baseline report")] if report.against else []
    yield from [("hazards", "By hazard")] if heat else []
    yield from [("ranks", "Where harm stands")] if ranks else []
    yield from [("weakness", "Safer or weaker")] if report.comparisons else []
    yield from [("claims", "Claims")] if any(arm.claims for arm in report.arms.values()) else []
    yield from [("queries", "Query by query")] if report.queries else []
    yield from [("all", "Every metric"), ("cost", "Cost"), ("method", "Method"), ("provenance", "Provenance")]


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


def _rank_rows(report: AuditReport) -> Iterator[RankRow]:
    for name, result in report.arms.items():
        for whose, ranks in result.first_ranks.items():
            counts = [ranks.within(first, last) for first, last in _BINS if first <= ranks.depth]
            counts.append(ranks.n - sum(counts))
            yield RankRow(name, whose, tuple(count / ranks.n for count in counts), ranks.quantile(0.5), ranks.depth)


def _rank_labels(report: AuditReport) -> list[str]:
    depth = max((ranks.depth for arm in report.arms.values() for ranks in arm.first_ranks.values()), default=0)
    bins = [(first, last) for first, last in _BINS if first <= depth]
    return [str(last) if first == last else f"{first} to {last}" for first, last in bins] + ["beyond"]


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


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        writing.percent,
        writing.number,
        writing.bounds,
        writing.signed,
        writing.signed_span,
        writing.points,
        writing.p_value,
        writing.rate,
        writing.milliseconds,
        writing.whole_percent,
        writing.metric_name,
    )
    environment.filters |= {function.__name__: function for function in filters}
    return environment
