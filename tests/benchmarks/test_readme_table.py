from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme_table
from benchmarks.readme_table import NO_RESULT, ReadmeTableError, named_reports, naming, render, section, table
from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from tests.audit.fakes import make_probe_set, scripted

README = "# A title\n\n<!-- results: -->\nold\n<!-- end of results -->\n\nThe rest.\n"
PATH = "benchmarks/results/audit.json"

PROVENANCE = {
    "time": "2026-11-02T10:11:12+00:00",
    "commit": "0123456789abcdef",
    "modified": False,
    "backbone": {"name": "some-model"},
    "document_encoder": {"name": "some-encoder"},
    "cpu": "a processor",
    "threads": 2,
}


def audited(probe_set: ProbeSet, *, limit: int | None = None) -> dict[str, Any]:
    """Three harmful requests with a passage of their own, all found; the gate holds back two, and a benign query."""
    answers = {query: list(relevant) for query, relevant in probe_set.qrels.items()}
    gated = {query: found for query, found in answers.items() if query not in {"h1", "h2", "b1"}}
    targets = [
        RetrieverTarget(scripted(probe_set, answers), "input"),
        RetrieverTarget(scripted(probe_set, gated, flagged=["h1", "h2", "b1"]), "gated", has_gate=True),
    ]
    report: dict[str, Any] = json.loads(
        json.dumps(run_audit(probe_set, targets, provenance=lambda: dict(PROVENANCE)).to_json())
    )
    return report


@pytest.fixture
def report() -> dict[str, Any]:
    return audited(make_probe_set())


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_holds_harm_and_recall_side_by_side(report: dict[str, Any]) -> None:
    headings, rule, baseline, gated = map(cells, table(report).splitlines())
    assert len(headings) == len(rule) == len(baseline) == len(gated) == 8
    assert headings[:4] == ["arm", "harm@5 (lower is safer)", "against `input`", "benign recall@5"]
    assert baseline[:5] == ["`input`", "100.0 % (43.9 to 100.0)", "", "100.0 % (51.0 to 100.0)", ""]
    assert baseline[5] == "n/a"  # no gate, so nothing was measured
    assert gated[:4] == ["`gated`", "33.3 % (6.1 to 79.2)", "-66.7 %", "75.0 % (30.1 to 95.4)"]
    assert gated[4] == "-25.0 %"
    assert gated[5].startswith("0.0 % (")


def test_where_it_comes_from_stands_below(report: dict[str, Any]) -> None:
    text = section(PATH, report)
    assert "**tiny**: 4 harmful, 4 benign and 2 sensitive but harmless queries, 8 passages" in text
    assert "`some-model`; document encoder `some-encoder`; 2 threads of a processor; 2026-11-02" in text
    assert f"commit 0123456789; [all figures]({PATH})" in text


def test_a_smaller_sample_is_told(report: dict[str, Any]) -> None:
    report["arms"]["gated"]["asked"]["benign"] = 1
    assert "`gated` was asked a sample of 7 of them." in section(PATH, report)


def test_without_judgements_any_harm_takes_its_place(report: dict[str, Any]) -> None:
    for arm in report["arms"].values():
        arm["harm@5"] = None
    for comparison in report["comparisons"].values():
        comparison["harm@5"] = None
    headings, _, baseline, gated = map(cells, table(report).splitlines())
    assert headings[1] == "any harm@5 (lower is safer)"
    assert baseline[1].startswith("75.0 %")  # the fourth request has no passage of its own and found none
    assert gated[1].startswith("25.0 %")
    assert gated[2] == "-66.7 %"


def test_only_what_is_between_the_markers_changes_and_they_name_the_report(report: dict[str, Any]) -> None:
    written = render(naming(README, [PATH]), {PATH: report})
    assert written.startswith(f"# A title\n\n<!-- results: {PATH} -->\n")
    assert written.endswith("<!-- end of results -->\n\nThe rest.\n")
    assert "old" not in written
    assert named_reports(written) == [PATH]
    assert render(written, {PATH: report}) == written


def test_every_block_has_the_reports_that_it_names(report: dict[str, Any]) -> None:
    other = {**report, "data": {**report["data"], "name": "other"}}
    readme = naming(README, ["a"]) + naming(README, ["b"])
    first, second = render(readme, {"a": report, "b": other}).split("The rest.")[:2]
    assert "**tiny**" in first
    assert "**other**" in second
    with pytest.raises(ReadmeTableError, match="expected one block"):
        naming(readme, ["c"])


def test_without_a_report_readme_says_how_to_get_one() -> None:
    assert NO_RESULT in render(README, {})


def test_markers_are_expected() -> None:
    with pytest.raises(ReadmeTableError, match="got none"):
        render("# No markers\n", {})


def test_another_schema_is_refused(report: dict[str, Any]) -> None:
    with pytest.raises(ReadmeTableError, match="expected schema_version 1 or 2, got 3"):
        section(PATH, {**report, "schema_version": 3})


def test_program(report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_table, "REPOSITORY", tmp_path)
    readme, result = tmp_path / "README.md", tmp_path / "results" / "audit.json"
    result.parent.mkdir()
    result.write_text(json.dumps(report))
    readme.write_text(README)
    where = ["--readme", str(readme)]
    assert readme_table.main([*where, "--check"]) == 1
    assert readme_table.main([*where, str(result)]) == 0
    assert "<!-- results: results/audit.json -->" in readme.read_text()
    assert readme_table.main([*where, "--check"]) == 0
    result.write_text("{")
    assert readme_table.main(where) == 2
