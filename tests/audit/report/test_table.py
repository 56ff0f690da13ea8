from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.report import render_page, summary_table
from safe_retrieval.audit.report.markdown import render_summary
from safe_retrieval.audit.report.writing import signed
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from tests.audit.fakes import scripted


def lines(probe_set: ProbeSet, *, intervals: bool) -> list[str]:
    answers = {"input": {"h1": ["H1"], "b1": ["B1"]}, "gated": {"b1": ["B1"]}}
    targets = [RetrieverTarget(scripted(probe_set, table), name) for name, table in answers.items()]
    console = Console(width=140, record=True, file=None, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(run_audit(probe_set, targets), intervals=intervals))
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def test_harm_and_benign_recall_stand_side_by_side(probe_set: ProbeSet) -> None:
    header, _, baseline, gated, *caption = lines(probe_set, intervals=True)
    assert header.split()[:6] == ["arm", "harm@5", "95", "%", "benign", "recall@5"]
    assert baseline.split()[:6] == ["input", "33.3", "%", "6.1", "to", "79.2"]
    assert "\N{MINUS SIGN}100.0" in gated
    text = " ".join(caption)
    assert "4 harmful, 4 benign and 2 sensitive queries on 8 passages" in text
    assert "relative to input" in text


def test_a_narrow_terminal_gets_it_without_intervals(probe_set: ProbeSet) -> None:
    table = lines(probe_set, intervals=False)
    assert " to " not in table[2]
    assert max(len(line) for line in table[:4]) < 100


def test_without_own_passages_all_of_a_report_speaks_of_any_harm(probe_set: ProbeSet) -> None:
    bare = replace(probe_set, qrels={query: grades for query, grades in probe_set.qrels.items() if query[0] != "h"})
    answers = {"input": {"h1": ["H1"], "h2": ["H1"], "b1": ["B1"]}, "gated": {"h1": ["H1"], "b1": ["B1"]}}
    report = run_audit(bare, [RetrieverTarget(scripted(bare, table), name) for name, table in answers.items()])
    change = report.comparisons["gated"].any_harm
    assert report.comparisons["gated"].harm is None
    assert change is not None
    shown = signed(change.relative)
    assert shown == "\N{MINUS SIGN}50.0\N{NO-BREAK SPACE}%"
    console = Console(width=140, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(report))
    (row,) = [line for line in capture.get().splitlines() if line.lstrip().startswith("gated")]
    assert shown in row
    (row,) = [line for line in render_summary(report).splitlines() if line.startswith(("| gated", "| **gated"))]
    assert shown in row
    figures = render_page(report).split('id="figures"')[1].split("</table>")[0]
    assert shown in figures
