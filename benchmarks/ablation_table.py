"""The ablations' table of docs/benchmarks.md: one row an ablation, by what it changes.

Held-out figures come from ``training.json``, which ``safe-retrieval bench ablate`` writes beside a row's results; harm
and recall come from those results.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from benchmarks.charts import Panel, chart
from benchmarks.table_cells import held_out, markdown, moved, percent, selectivity
from safe_retrieval.bench.ablations import LABEL
from safe_retrieval.bench.arms import BASELINE
from safe_retrieval.bench.results import Result

_MOVED = ("harm@5", "benign_recall@5")
_PROMPT_WIDTH = 40
_CURVE = "by number of training queries"
NO_ROW = "*No row is recorded yet: `safe-retrieval bench ablate NAME --data DIR` trains and measures one.*"


class _Measured(NamedTuple):
    """What rows of one table have in common; no number of training queries where it is what differs."""

    queries: int | None
    limit: int | None
    processor: str
    threads: int


class _Table(NamedTuple):
    """What one table shows.

    Attributes:
        key: what its rows have in common.
        rows: results by label and arm, in the order of the table.
        trained: by label, what ``training.json`` says.
        picture: name of its picture; ``None`` where it has none.
    """

    key: _Measured
    rows: Mapping[str, Mapping[str, Result]]
    trained: Mapping[str, Any]
    picture: str | None


def ablation_tables(results: Sequence[tuple[str, Result]], folder: Path, pictures: str) -> str:
    """Tables of all rows: one for each number of queries trained on, sample measured on, and processor; rows that
    change the number and nothing else have one together, the curve.

    Processors round differently, so answers and tokens differ between them, and rows of one are compared with its base.

    Args:
        results: labels and contents of result files; those of other configurations are left out.
        folder: the results' folder, which holds ``training.json`` by label.
        pictures: folder of the pictures, as the document names it.
    """
    shown = []
    for table in _tables(results, folder):
        beside = "" if table.picture is None else f"\n\n![{_CURVE}]({pictures}/{table.picture}.svg)"
        shown.append(_table(table) + beside)
    return "\n\n".join(shown) or NO_ROW


def ablation_pictures(results: Sequence[tuple[str, Result]], folder: Path) -> dict[str, str]:
    """The curves as SVG, by name: what is held out, and harm and recall, by number of training queries."""
    found = {}
    for table in _tables(results, folder):
        if table.picture is None:
            continue
        rows = [(table.trained[label], by_arm["response"]) for label, by_arm in table.rows.items()]
        panels = {
            "held out": {
                "own response": [(row["queries"], row["held_out"]["own_response"] or 0.0) for row, _ in rows],
                "cosine": [(row["queries"], row["held_out"]["cosine"]) for row, _ in rows],
            },
            "response": {
                name.replace("_", " "): [(row["queries"], result["metrics"][name]["value"]) for row, result in rows]
                for name in reversed(_MOVED)
            },
        }
        found[table.picture] = chart(_CURVE, [Panel(title, lines) for title, lines in panels.items()])
    return found


def _tables(results: Sequence[tuple[str, Result]], folder: Path) -> list[_Table]:
    by_key: defaultdict[_Measured, dict[str, dict[str, Result]]] = defaultdict(dict)
    trained = {}
    for label, result in results:
        if not label.startswith(LABEL) or result["task"]["name"] != "harm":
            continue
        trained[label] = json.loads((folder / label / "training.json").read_text(encoding="utf-8"))
        provenance = result["provenance"]
        queries = None if set(trained[label]["changes"]) == {"queries"} else trained[label]["queries"]
        key = _Measured(queries, result["data"]["limit"], provenance["cpu"], provenance["threads"])
        by_key[key].setdefault(label, {})[result["arm"]["name"]] = result
    tables: list[_Table] = []
    for key in sorted(by_key, key=lambda key: (key.queries or 0, key.limit or 0, key.processor)):
        labels = [label for label in by_key[key] if "response" in by_key[key][label]]
        labels.sort(key=lambda label: _place(key, trained[label]))
        number = sum(table.picture is not None for table in tables) + 1
        picture = None if key.queries or len(labels) < 2 else f"training-queries-{number}".removesuffix("-1")
        if labels:
            rows = {label: by_key[key][label] for label in labels}
            tables.append(_Table(key, rows, trained, picture))
    return tables


def _table(table: _Table) -> str:
    key, rows, trained, _ = table
    headings = [
        "row",
        "changes" if key.queries else "trained on",
        "alignment",
        "own response",
        "reconstruction",
        "harm@5",
        "benign recall@5",
        "selectivity (below 0 is safer)",
    ]
    lines = [
        [
            f"`{trained[label]['row']}`",
            _settings(trained[label]["changes"]) if key.queries else f"{trained[label]['queries']:,} queries",
            *held_out(trained[label]["held_out"]),
            *(moved(by_arm["response"], name) for name in _MOVED),
            selectivity(by_arm["response"]),
        ]
        for label, by_arm in rows.items()
    ]
    teacher = next((by_arm[BASELINE] for by_arm in rows.values() if BASELINE in by_arm), None)
    if teacher is not None:
        figures = (percent(teacher["metrics"][name]) for name in _MOVED)
        lines.append([f"`{BASELINE}`", "", "", "", "", *figures, ""])
    sample = "all queries of the task" if key.limit is None else f"a sample of {key.limit:,} queries of the task"
    where = f"{key.threads} threads of {key.processor}"
    trained_on = f"Trained on {key.queries:,} queries" if key.queries else "Trained on more and more queries"
    return f"{trained_on}, measured on {sample}; {where}.\n\n{markdown(headings, lines)}"


def _place(key: _Measured, training: Mapping[str, Any]) -> tuple[int, bool, str]:
    """What rows of a table are sorted by: the curve by its number of queries, others by name behind the base."""
    return 0 if key.queries else training["queries"], bool(training["changes"]), training["row"]


def _settings(changes: Mapping[str, Any]) -> str:
    parts = []
    for name, value in changes.items():
        nested = value if isinstance(value, Mapping) else {name: value}
        parts += [f"{key.replace('_', ' ')} {_shown(each)}" for key, each in nested.items()]
    return ", ".join(parts) or "nothing"


def _shown(value: Any) -> str:
    """A setting in a cell: a system prompt in quotation marks and cut, anything else as it is."""
    text = str(value)
    return f'"{shorten(text, _PROMPT_WIDTH, placeholder=" ...")}"' if " " in text else text
