"""The ablations' table of docs/benchmarks.md: one row an ablation, by what it changes.

Held-out figures come from ``training.json``, which ``safe-retrieval bench ablate`` writes beside a row's results; harm
and recall come from those results.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table_cells import held_out, markdown, moved, percent, selectivity
from safe_retrieval.bench.ablations import LABEL
from safe_retrieval.bench.arms import BASELINE
from safe_retrieval.bench.results import Result

BASE = "base"
"""Row that changes nothing; stands first."""
_MOVED = ("harm@5", "benign_recall@5")
NO_ROW = "*No row is recorded yet: `safe-retrieval bench ablate NAME --data DIR` trains and measures one.*"


def ablation_tables(results: Sequence[tuple[str, Result]], folder: Path) -> str:
    """Tables of all rows that were trained, one for each number of queries trained on and sample measured on.

    Args:
        results: labels and contents of result files; those of other configurations are left out.
        folder: the results' folder, which holds ``training.json`` by label.
    """
    tables: defaultdict[tuple[int, int | None], dict[str, dict[str, Result]]] = defaultdict(dict)
    trained = {}
    for label, result in results:
        if not label.startswith(LABEL) or result["task"]["name"] != "harm":
            continue
        trained[label] = json.loads((folder / label / "training.json").read_text(encoding="utf-8"))
        key = trained[label]["queries"], result["data"]["limit"]
        tables[key].setdefault(label, {})[result["arm"]["name"]] = result
    shown = [_table(key, rows, trained) for key, rows in sorted(tables.items(), key=lambda item: item[0][0])]
    return "\n\n".join(shown) or NO_ROW


def _table(key: tuple[int, int | None], rows: Mapping[str, Mapping[str, Result]], trained: Mapping[str, Any]) -> str:
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
    for label in sorted(rows, key=lambda label: (trained[label]["row"] != BASE, label)):
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
    count, limit = key
    sample = "all queries of the task" if limit is None else f"a sample of {limit:,} queries of the task"
    return f"Trained on {count:,} queries, measured on {sample}.\n\n{markdown(headings, lines)}"


def _settings(changes: Mapping[str, Any]) -> str:
    parts = []
    for name, value in changes.items():
        nested = value if isinstance(value, Mapping) else {name: value}
        parts += [f"{key} {str(each)[:40]}" for key, each in nested.items()]
    return ", ".join(parts).replace("_", " ") or "nothing"
