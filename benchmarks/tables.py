"""Write tables and pictures of docs/benchmarks.md and docs/choosing.md from the result files in ``benchmarks/results``.

    python benchmarks/tables.py            # write
    python benchmarks/tables.py --check    # exit code 1 where the document differs

What stands between the markers is never written by hand: every figure comes from a file that says how it was made.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase

from benchmarks.ablation_table import ablation_pictures, ablation_tables
from benchmarks.adapter_table import adapter_table
from benchmarks.choice_table import choice_table
from benchmarks.table_cells import (
    MISSING,
    change,
    markdown,
    percent,
    percent_between,
    selectivity,
    signed,
    with_note,
)
from safe_retrieval.audit.report import render_picture
from safe_retrieval.audit.results import ArmResult, AuditReport, Comparison
from safe_retrieval.bench.ablations import LABEL
from safe_retrieval.bench.arms import ARMS, BASELINE, CEILING
from safe_retrieval.bench.ceiling import share_of_level, share_of_reduction, shared_values
from safe_retrieval.bench.measure import CUTOFFS
from safe_retrieval.bench.results import Result, ResultStore
from safe_retrieval.bench.tasks import TASKS, HarmProtocol, TaskKind
from safe_retrieval.errors import SafeRetrievalError
from safe_retrieval.metrics import Estimate

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
CHOOSING = "choosing.md"
"""The page that says what to take, beside the document."""
PICTURES = "pictures"
"""Folder of the pictures, beside the document."""
KEY = "document_encoder"
ALONE = (BASELINE, "bm25", "hybrid-teacher")
"""Arms that need the teacher alone."""
PICTURED = (
    *ALONE,
    "response",
    "response-symmetric",
    "mean-50",
    "blend",
    "gated",
    "hybrid-gated",
    CEILING,
    "echo",
    "pooled",
)
"""Arms that a picture has room for."""

TABLES, ABLATIONS, ADAPTERS, CHOICES = "tables", "ablations", "adapters", "choices"
"""Names of the blocks that are written."""

NO_RESULT = "*No result is recorded yet: `safe-retrieval bench run --data DIR` measures, `make docs` puts it here.*"

Rows = list[tuple[str, Result]]
"""Label and result."""


class TablesError(Exception):
    """The document has no place for the tables."""


def render(document: str, results: Sequence[tuple[str, Result]], folder: Path = RESULTS) -> str:
    """The document with the tables of ``results``, which lie in ``folder``, between its markers.

    Raises:
        TablesError: a pair of markers is not there exactly once.
    """
    own = [(label, result) for label, result in results if not label.startswith(LABEL)]
    shown = [f"![{label}: harm and benign recall]({PICTURES}/{label}.svg)" for label in pictures(results)]
    document = _between(document, TABLES, "\n\n".join([*_sections(own), *shown]) or NO_RESULT)
    document = _between(document, ADAPTERS, adapter_table(own))
    return _between(document, ABLATIONS, ablation_tables(results, folder, PICTURES))


def render_choices(page: str, results: Sequence[tuple[str, Result]]) -> str:
    """The page that says what to take, with its table between its markers.

    Raises:
        TablesError: the markers are not there exactly once.
    """
    return _between(page, CHOICES, choice_table(results))


def _between(document: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = re.compile(f"{begin}\n.*?{end}", re.DOTALL)
    if len(block.findall(document)) != 1:
        raise TablesError(f"expected one block from '{begin}' to '{end}'")
    return block.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", document)


def pictures(results: Sequence[tuple[str, Result]]) -> dict[str, str]:
    """The safety-and-utility picture of each configuration that was measured whole on ``harm``, as SVG by label.

    A picture shows the configuration's own arms and, beside them, those of its teacher alone.
    """
    rows = [
        (label, each)
        for label, each in results
        if each["task"]["name"] == "harm" and each["data"]["limit"] is None and not label.startswith(LABEL)
    ]
    found = {}
    for label in sorted({label for label, each in rows if each["arm"]["name"] == "response"}):
        teachers = [each["models"].get(KEY) for own, each in rows if own == label]
        beside = [each for _, each in rows if each["arm"]["name"] in ALONE and each["models"].get(KEY) == teachers[0]]
        own = [each for name, each in rows if name == label]
        found[label] = _picture({each["arm"]["name"]: each for each in (*beside, *own)})
    return found


def _picture(by_arm: Mapping[str, Result]) -> str:
    arms = {name: _as_audited(by_arm[name]) for name in PICTURED if name in by_arm}
    others = [name for name in arms if name != BASELINE] if BASELINE in arms else []
    report = AuditReport(
        data={"name": "harm", "version": "", "sha256": ""},
        cutoffs=(1, 5, 20),
        seed=0,
        arms=arms,
        comparisons={name: Comparison(BASELINE, None, None, None) for name in others},
        findings=(),
        provenance={},
    )
    return render_picture(report)


def _as_audited(result: Result) -> ArmResult:
    """A result as the audit's picture takes it."""
    metrics = {name: None if figure is None else Estimate(**figure) for name, figure in result["metrics"].items()}
    return ArmResult(asked={}, metrics=metrics, hazards={}, encode_seconds=0.0, search_seconds=0.0)


def _sections(results: Sequence[tuple[str, Result]]) -> list[str]:
    by_task: defaultdict[tuple[str, int | None], Rows] = defaultdict(list)
    for label, result in results:
        by_task[result["task"]["name"], result["data"]["limit"]].append((label, result))
    order = list(TASKS)
    keys = sorted(by_task, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key[1] or 0))
    return [_section(limit, by_task[name, limit]) for name, limit in keys]


def _section(limit: int | None, rows: Rows) -> str:
    task = rows[0][1]["task"]
    sample = "" if limit is None else f", a sample of {limit:,} queries"
    arms = list(ARMS)
    rows = sorted(rows, key=lambda row: (row[0], arms.index(row[1]["arm"]["name"])))
    if task["kind"] != TaskKind.HARM:
        table = plain_table(rows)
    elif task["protocol"] == HarmProtocol.CONTROLLED:
        table = harm_table(rows)
    else:
        table = cutoff_table(rows)
    return f"### {task['title']}{sample}\n\n{table}\n\n{_origin(rows)}"


def harm_table(rows: Rows) -> str:
    """One row an arm: harm and benign recall side by side, what is left at equal usefulness, the ceiling, the cost."""
    headings = [
        "configuration",
        "arm",
        "harm@5 (lower is safer)",
        f"against `{BASELINE}`",
        "benign recall@5",
        f"against `{BASELINE}`",
        "selectivity (below 0 is safer)",
        "over-refusal",
        "of the ceiling: harm",
        "recall",
        "queries/s",
        "GFLOPs/query",
    ]
    lines, machines = [], _machines(rows)
    for label, result in rows:
        metrics, comparison = result["metrics"], result["comparison"] or {}
        reached = ceiling_shares(label, result, rows)
        lines.append(
            [
                label,
                f"`{result['arm']['name']}`",
                percent_between(metrics.get("harm@5")),
                change(comparison.get("harm@5")),
                percent_between(metrics.get("benign_recall@5")),
                change(comparison.get("benign_recall@5")),
                selectivity(result),
                percent_between(metrics.get("over_refusal")),
                *reached,
                *_cost(result, machines),
            ]
        )
    return with_note(markdown(headings, lines))


def cutoff_table(rows: Rows) -> str:
    """One row an arm: own-passage and any harm at the paper's cut-offs, benign recall beside them."""
    names = [f"{name}@{k}" for name in ("harm", "any_harm") for k in CUTOFFS]
    headings = ["configuration", "arm", *(name.replace("_", " ") for name in names)]
    headings += [f"harm@5 against `{BASELINE}`", "benign recall@5"]
    lines = []
    for label, result in rows:
        metrics = result["metrics"]
        shares = [percent(metrics.get(name)) for name in names]
        harm = change((result["comparison"] or {}).get("harm@5"))
        lines.append(
            [label, f"`{result['arm']['name']}`", *shares, harm, percent_between(metrics.get("benign_recall@5"))]
        )
    return markdown(headings, lines)


def plain_table(rows: Rows) -> str:
    """One row an arm: the headline figure, its difference to the baseline, the cost."""
    metric = rows[0][1]["task"]["metric"]
    headings = ["configuration", "arm", metric, f"against `{BASELINE}`", "queries/s", "GFLOPs/query"]
    lines, machines = [], _machines(rows)
    for label, result in rows:
        difference = ((result["comparison"] or {}).get(metric) or {}).get("difference")
        figures = [_points(result["metrics"].get(metric)), signed(difference), *_cost(result, machines)]
        lines.append([label, f"`{result['arm']['name']}`", *figures])
    return markdown(headings, lines)


def ceiling_shares(label: str, result: Result, rows: Rows) -> tuple[str, str]:
    """Share of the ceiling's harm reduction and of its benign recall that an arm reaches, as text.

    The ceiling is ``hyde`` of the same label on the same queries; nothing where it was not measured.
    """
    name = result["arm"]["name"]
    ceiling = next((each for other, each in rows if other == label and each["arm"]["name"] == CEILING), None)
    teacher = result["models"].get(KEY)
    baseline = next(
        (each for _, each in rows if each["arm"]["name"] == BASELINE and each["models"].get(KEY) == teacher), None
    )
    if ceiling is None or baseline is None or name in {BASELINE, CEILING}:
        return "", ""
    harm = shared_values("harm@5", baseline, result, ceiling)
    recall = shared_values("benign_recall@5", result, ceiling)
    reduction = share_of_reduction(*harm) if harm else None
    level = share_of_level(*recall) if recall else None
    return percent_between(reduction and reduction._asdict()), percent_between(level and level._asdict())


def _points(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return MISSING
    return f"{100 * figure['value']:.2f} ({100 * figure['low']:.2f} to {100 * figure['high']:.2f})"


def _cost(result: Result, machines: Mapping[str, str]) -> tuple[str, str]:
    speed, flops = result["cost"]["queries_per_second"], result["cost"]["flops_per_query"]
    shown = MISSING if speed is None else f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
    letter = machines.get(_machine(result), "")
    return f"{shown} {letter}".strip(), MISSING if flops is None else f"{flops / 1e9:.3g}"


def _machine(result: Result) -> str:
    """What a result was measured on, and the precision of its backbone, if it has one."""
    provenance, backbone = result["provenance"], result["models"].get("backbone", {})
    precision = f", {backbone['dtype']}" if "dtype" in backbone else ""
    return f"{provenance['threads']} threads of {provenance['cpu'] or 'an unnamed processor'}{precision}"


def _machines(rows: Rows) -> dict[str, str]:
    """A letter for each machine of a table; none where all of it comes from one."""
    found = sorted({_machine(result) for _, result in rows})
    return dict(zip(found, ascii_lowercase, strict=False)) if len(found) > 1 else dict.fromkeys(found, "")


def _origin(rows: Rows) -> str:
    """Data, machines and commits of a table."""
    task = rows[0][1]["task"]
    commits = {(result["provenance"].get("commit") or "unknown")[:10] for _, result in rows}
    parts = [
        "95 % intervals in brackets",
        f"source {task['source']} ({task['licence']})",
        *(f"{letter}: {machine}" if letter else machine for machine, letter in _machines(rows).items()),
        f"commit {', '.join(sorted(commits))}",
    ]
    return f"<sub>{'; '.join(parts)}.</sub>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0 done, 1 the document differs (``--check``), 2 an error."""
    parser = argparse.ArgumentParser(description="Write the tables of the documents from the result files.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the document differs")
    options = parser.parse_args(arguments)
    try:
        results = list(ResultStore(options.results).all())
        wanted = {options.document: render(options.document.read_text(encoding="utf-8"), results, options.results)}
        page = options.document.parent / CHOOSING
        if page.is_file():
            wanted[page] = render_choices(page.read_text(encoding="utf-8"), results)
        folder = options.document.parent / PICTURES
        drawn = pictures(results) | ablation_pictures(results, options.results)
        wanted |= {folder / f"{name}.svg": svg for name, svg in drawn.items()}
        stale = [path for path, content in wanted.items() if not path.is_file() or path.read_text("utf-8") != content]
    except (OSError, TablesError, SafeRetrievalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        for path in stale:
            print(f"{path} is not what the results say; run: make docs", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
