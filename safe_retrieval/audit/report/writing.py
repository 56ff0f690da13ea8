"""How figures are written for people; what was not measured is a dash, never 0."""

from __future__ import annotations

from safe_retrieval.metrics import Estimate

DASH = "\N{EN DASH}"
"""For what was not measured."""


def number(figure: Estimate | None, metric: str) -> str:
    """A figure as its metric is usually written: nDCG and AUROC as decimals, shares in percent."""
    if figure is not None and is_decimal(metric):
        return f"{figure.value:.3f}"
    return percent(figure)


def bounds(figure: Estimate | None, metric: str) -> str:
    """The interval, written as :func:`number` writes the figure."""
    if figure is not None and is_decimal(metric):
        return f"{figure.low:.3f} to {figure.high:.3f}"
    return span(figure)


def percent(figure: Estimate | None) -> str:
    """``77.5 %``; a dash for what was not measured."""
    return DASH if figure is None else f"{100 * figure.value:.1f}\N{NO-BREAK SPACE}%"


def span(figure: Estimate | None) -> str:
    """The interval, ``73.9 to 80.9``; empty for what was not measured."""
    return "" if figure is None else f"{100 * figure.low:.1f} to {100 * figure.high:.1f}"


def signed(figure: Estimate | None) -> str:
    """A change, with its sign; a dash for what is undefined."""
    if figure is None:
        return DASH
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


def points(figure: Estimate | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return signed(figure).replace("%", "pp")


def whole_percent(value: float | None) -> str:
    """``25 %`` of a whole, also below 0 and above 100; a dash where there is no whole."""
    if value is None:
        return DASH
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def milliseconds(value: float | None) -> str:
    """``4.2 ms`` or ``1,240 ms``; a dash for what was not timed."""
    return DASH if value is None else f"{rate(value)}\N{NO-BREAK SPACE}ms"


def is_decimal(metric: str) -> bool:
    """Whether a metric is written as a decimal and not in percent."""
    return any(part in metric for part in ("ndcg", "auroc", "mrr"))


def metric_name(metric: str) -> str:
    """``benign_ndcg@10`` as people write it."""
    return (
        metric.replace("any_harm", "any-harm")
        .replace("over_refusal", "over-refusal")
        .replace("_", " ")
        .replace("ndcg", "nDCG")
        .replace("auroc", "AUROC")
        .replace("mrr", "MRR")
    )
