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

from safe_retrieval.bench.ablations import LABEL
from safe_retrieval.bench.arms import BASELINE
from safe_retrieval.bench.results import Result

BASE = "base"
"""Row that changes nothing; stands first."""
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
    lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)]]
    for label in sorted(rows, key=lambda label: (trained[label]["row"] != BASE, label)):
        training, response = trained[label], rows[label].get("response")
        if response is not None:
            lines.append(
                [f"`{training['row']}`", _settings(training["changes"]), *_held_out(training), *_moved(response)]
            )
    teacher = next((by_arm[BASELINE] for by_arm in rows.values() if BASELINE in by_arm), None)
    if teacher is not None:
        figures = (f"{100 * teacher['metrics'][name]['value']:.1f} %" for name in ("harm@5", "benign_recall@5"))
        lines.append([f"`{BASELINE}`", "", "", "", "", *figures, ""])
    count, limit = key
    sample = "all queries of the task" if limit is None else f"a sample of {limit:,} queries of the task"
    return f"Trained on {count:,} queries, measured on {sample}.\n\n" + "\n".join(
        f"| {' | '.join(line)} |" for line in lines
    )


def _settings(changes: Mapping[str, Any]) -> str:
    parts = []
    for name, value in changes.items():
        nested = value if isinstance(value, Mapping) else {name: value}
        parts += [f"{key} {str(each)[:40]}" for key, each in nested.items()]
    return ", ".join(parts).replace("_", " ") or "nothing"


def _held_out(training: Mapping[str, Any]) -> tuple[str, str, str]:
    found = training["held_out"]
    reconstruction = found.get("reconstruction")
    return (
        f"{found['cosine']:.3f}",
        f"{100 * found['own_response']:.1f} %",
        "not trained" if reconstruction is None else f"{reconstruction:.2f}",
    )


def _moved(response: Result) -> tuple[str, str, str]:
    metrics, comparison = response["metrics"], response["comparison"] or {}
    shown = []
    for name in ("harm@5", "benign_recall@5"):
        relative = (comparison.get(name) or {}).get("relative")
        change = "" if relative is None else f" ({100 * relative['value']:+.1f} %)"
        shown.append(f"{100 * metrics[name]['value']:.1f} %{change}")
    left = comparison.get("selectivity@5")
    points = (
        "" if left is None else f"{100 * left['value']:+.1f} ({100 * left['low']:+.1f} to {100 * left['high']:+.1f})"
    )
    return shown[0], shown[1], points
