"""The table of shipped adapters in docs/benchmarks.md: which index each can ask, and what it does there.

What was held out in training comes from the adapters' own records, harm and recall from the result files that were made
with exactly those weights; an adapter without such files says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.table_cells import MISSING, held_out, markdown, moved, percent, selectivity, with_note
from safe_retrieval.bench.results import Result
from safe_retrieval.encoder.persistence import LoadedAdapter, load_adapter
from safe_retrieval.encoder.policy import CAREFUL
from safe_retrieval.encoder.shipped import shipped_adapter, shipped_adapters

_HEADINGS = [
    "backbone, policy",
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
    return with_note(markdown(_HEADINGS, rows))


def _row(folder: Path, loaded: LoadedAdapter, results: Sequence[tuple[str, Result]]) -> list[str]:
    record = loaded.record
    by_arm = _whole_runs(loaded.fingerprint, results)
    response, gated = by_arm.get("response"), by_arm.get("gated")
    moves = ("harm@5", "benign_recall@5")
    return [
        f"`{record.backbone.name}`" + ("" if record.policy.name == CAREFUL.name else f", `{record.policy.name}`"),
        f"`{record.teacher.name}`",
        f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f}",
        *held_out(record.training["held_out"]),
        *([MISSING] * 3 if response is None else [*(moved(response, name) for name in moves), selectivity(response)]),
        *([MISSING] * 2 if gated is None else [moved(gated, name) for name in moves]),
        percent(None if gated is None else gated["metrics"]["over_refusal"]),
    ]


def _whole_runs(fingerprint: str, results: Sequence[tuple[str, Result]]) -> Mapping[str, Result]:
    """Results of all queries of ``harm`` that were made with an adapter in full precision, by arm."""
    found = [
        result
        for _, result in results
        if result["task"]["name"] == "harm"
        and result["data"]["limit"] is None
        and result["models"].get("adapter", {}).get("fingerprint") == fingerprint
        and result["models"].get("backbone", {}).get("dtype") != "int8"
    ]
    by_arm = {result["arm"]["name"]: result for result in found}
    if len(by_arm) < len(found):  # the one would hide the other
        raise ValueError(f"two results of one arm of the adapter {fingerprint} are on record")
    return by_arm
