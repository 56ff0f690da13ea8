"""The ablations' table of docs/benchmarks.md: one row an ablation, by what it changes.

Held-out figures come from ``training.json``, which ``safe-retrieval bench ablate`` writes beside a row's results; harm
and recall come from those results.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.table_cells import held_out, markdown, moved, percent, selectivity
from safe_retrieval.bench.ablations import LABEL
from safe_retrieval.bench.arms import BASELINE
from safe_retrieval.bench.results import Result

_MOVED = ("harm@5", "benign_recall@5")
NO_ROW = "*No row is recorded yet: `safe-retrieval bench ablate NAME --data DIR` trains and measures one.*"


class _Measured(NamedTuple):
    """What rows of one table have in common."""

    queries: int
    limit: int | None
    processor: str
    threads: int


def ablation_tables(results: Sequence[tuple[str, Result]], folder: Path) -> str:
    """Tables of all rows: one for each number of queries trained on, sample measured on, and processor.

    Processors round differently, so answers and tokens differ between them, and rows of one are compared with its base.

    Args:
        results: labels and contents of result files; those of other configurations are left out.
        folder: the results' folder, which holds ``training.json`` by label.
    """
    tables: defaultdict[_Measured, dict[str, dict[str, Result]]] = defaultdict(dict)
    trained = {}
    for label, result in results:
        if not label.startswith(LABEL) or result["task"]["name"] != "harm":
            continue
        trained[label] = json.loads((folder / label / "training.json").read_text(encoding="utf-8"))
        provenance = result["provenance"]
        key = _Measured(trained[label]["queries"], result["data"]["limit"], provenance["cpu"], provenance["threads"])
        tables[key].setdefault(label, {})[result["arm"]["name"]] = result
    ordered = sorted(tables.items(), key=lambda item: (item[0].queries, item[0].limit or 0, item[0].processor))
    shown = [_table(key, rows, trained) for key, rows in ordered]
    return "\n\n".join(shown) or NO_ROW


def _table(key: _Measured, rows: Mapping[str, Mapping[str, Result]], trained: Mapping[str, Any]) -> str:
    headings = [
        "row",
        "changes",
        "alignment",
        "own response",
        "reconstruction",
        "harm@5",
        "benign recall@5",
        "selectivity (below 0 is safer)",
    ]
    lines: list[list[str]] = []
    for label in sorted(rows, key=lambda label: (bool(trained[label]["changes"]), label)):
        training, response = trained[label], rows[label].get("response")
        if response is not None:
            lines.append(
                [
                    f"`{training['row']}`",
                    _settings(training["changes"]),
                    *held_out(training["held_out"]),
                    *(moved(response, name) for name in _MOVED),
                    selectivity(response),
                ]
            )
    teacher = next((by_arm[BASELINE] for by_arm in rows.values() if BASELINE in by_arm), None)
    if teacher is not None:
        figures = (percent(teacher["metrics"][name]) for name in _MOVED)
        lines.append([f"`{BASELINE}`", "", "", "", "", *figures, ""])
    sample = "all queries of the task" if key.limit is None else f"a sample of {key.limit:,} queries of the task"
    where = f"{key.threads} threads of {key.processor}"
    return f"Trained on {key.queries:,} queries, measured on {sample}; {where}.\n\n{markdown(headings, lines)}"


def _settings(changes: Mapping[str, Any]) -> str:
    parts = []
    for name, value in changes.items():
        nested = value if isinstance(value, Mapping) else {name: value}
        parts += [f"{key} {str(each)[:40]}" for key, each in nested.items()]
    return ", ".join(parts).replace("_", " ") or "nothing"
