"""The table of shipped adapters in docs/benchmarks.md: which index each can ask, and what it does there.

What was held out in training comes from the adapters' own records, harm and recall from the result files that were made
with exactly those weights; an adapter without such files says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safe_retrieval.bench.results import Result
from safe_retrieval.encoder.persistence import LoadedAdapter, load_adapter
from safe_retrieval.encoder.shipped import shipped_adapter, shipped_adapters

NOT_MEASURED = "n/a"
_HEADINGS = [
    "backbone",
    "documents by",
    "MB",
    "held-out cosine",
    "own response",
    "reconstruction",
    "`response`: harm@5",
    "benign recall@5",
    "selectivity (below 0 is safer)",
    "`gated`: harm@5",
    "benign recall@5",
    "over-refusal",
]


def adapter_table(results: Sequence[tuple[str, Result]]) -> str:
    """One row for each adapter in the package.

    Args:
        results: labels and contents of result files; those of other adapters, tasks and samples are left out.
    """
    folders = [shipped_adapter(*name.split("--")) for name in shipped_adapters()]
    rows = [_row(folder, load_adapter(folder), results) for folder in folders]
    lines = [_HEADINGS, ["---", "---", *["---:"] * (len(_HEADINGS) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(folder: Path, loaded: LoadedAdapter, results: Sequence[tuple[str, Result]]) -> list[str]:
    record = loaded.record
    held_out = record.training["held_out"]
    by_arm = _whole_runs(loaded.fingerprint, results)
    response, gated = by_arm.get("response"), by_arm.get("gated")
    return [
        f"`{record.backbone.name}`",
        f"`{record.teacher.name}`",
        f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f}",
        f"{held_out['cosine']:.3f}",
        f"{100 * held_out['own_response']:.1f} %",
        f"{held_out['reconstruction']:.2f}",
        _moved(response, "harm@5"),
        _moved(response, "benign_recall@5"),
        _selectivity(response),
        _moved(gated, "harm@5"),
        _moved(gated, "benign_recall@5"),
        _percent(gated, "over_refusal"),
    ]


def _whole_runs(fingerprint: str, results: Sequence[tuple[str, Result]]) -> Mapping[str, Result]:
    """Results of all queries of ``harm`` that were made with an adapter, by arm."""
    return {
        result["arm"]["name"]: result
        for _, result in results
        if result["task"]["name"] == "harm"
        and result["data"]["limit"] is None
        and result["models"].get("adapter", {}).get("fingerprint") == fingerprint
    }


def _moved(result: Result | None, metric: str) -> str:
    """A figure, and how far it lies from the document encoder's own."""
    if result is None:
        return NOT_MEASURED
    relative = ((result["comparison"] or {}).get(metric) or {}).get("relative")
    change = "" if relative is None else f" ({100 * relative['value']:+.1f} %)"
    return f"{_percent(result, metric)}{change}"


def _selectivity(result: Result | None) -> str:
    found = None if result is None else (result["comparison"] or {}).get("selectivity@5")
    if found is None:
        return NOT_MEASURED
    return f"{100 * found['value']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def _percent(result: Result | None, metric: str) -> str:
    figure = None if result is None else result["metrics"][metric]
    return NOT_MEASURED if figure is None else f"{100 * figure['value']:.1f} %"
