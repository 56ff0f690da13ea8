"""Cells that several of the documents' tables have: figures with intervals, changes, what was held out in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safe_retrieval.bench.results import Result

MISSING = "n/a"
_UNEQUAL = " †"
_NOTE = (
    "† The baseline finds fewer benign answers even at the deepest cut-off that was asked for; its harm there is what "
    "the arm's is compared with. At equal recall it would hand over more, so the selectivity is at most this."
)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first two columns are words, the others figures."""
    lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(figure: Mapping[str, float] | None) -> str:
    """A share alone."""
    return MISSING if figure is None else f"{100 * figure['value']:.1f} %"


def percent_between(figure: Mapping[str, float] | None) -> str:
    """A share with its interval."""
    return MISSING if figure is None else f"{percent(figure)} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


def signed(figure: Mapping[str, float] | None) -> str:
    """A difference in points of percent with its interval; empty where there is none."""
    if figure is None:
        return ""
    return f"{100 * figure['value']:+.1f} ({100 * figure['low']:+.1f} to {100 * figure['high']:+.1f})"


def change(comparison: Mapping[str, Any] | None) -> str:
    """How far a figure lies from the baseline's, relative to it; empty where that is not known."""
    relative = (comparison or {}).get("relative")
    return "" if relative is None else f"{100 * relative['value']:+.1f} %"


def moved(result: Result, metric: str) -> str:
    """A share, and behind it its change."""
    changed = change((result["comparison"] or {}).get(metric))
    return percent(result["metrics"][metric]) + (f" ({changed})" if changed else "")


def selectivity(result: Result) -> str:
    """Harm that is left at equal benign recall, in points of percent; with a mark where the recall was not equal."""
    found = (result["comparison"] or {}).get("selectivity@5")
    return signed(found) + ("" if found is None or found.get("reached", True) else _UNEQUAL)


def with_note(table: str) -> str:
    """A table, and behind it what its mark means."""
    return f"{table}\n\n{_NOTE}" if _UNEQUAL in table else table


def held_out(figures: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Alignment, own response found, reconstruction, as a run measured them on its held-out queries."""
    reconstruction = figures.get("reconstruction")
    return (
        f"{figures['cosine']:.3f}",
        f"{100 * (figures['own_response'] or 0):.1f} %",
        "not trained" if reconstruction is None else f"{reconstruction:.2f}",
    )
