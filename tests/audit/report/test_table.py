from __future__ import annotations

from rich.console import Console

from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.report import summary_table
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
