from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.choice_table import CHOICES, choice_table
from benchmarks.tables import REPOSITORY, TablesError, render_choices
from safe_retrieval.bench.arms import ARMS
from safe_retrieval.bench.results import ResultStore
from safe_retrieval.encoder.shipped import shipped_adapters
from tests.benchmarks.test_tables import result


def test_a_choice_has_the_figures_of_its_whole_run() -> None:
    first, second, *_ = CHOICES
    results = [
        (first.label, result(first.arm, [1, 1], [1, 1])),
        (second.label, result(second.arm, [1, 0], [1, 1])),
        (second.label, result(second.arm, [0, 0], [0, 0], limit=2)),
    ]
    _, _, one, other, *rest = choice_table(results).splitlines()
    assert "| 100.0 % | 100.0 % | n/a | 2.5 |" in one
    assert "| 50.0 % (-50.0 %) | 100.0 % |" in other
    assert len(rest) == len(CHOICES) - 2
    assert all(line.endswith("| n/a | n/a | n/a | n/a |") for line in rest)


def test_every_choice_is_an_arm_of_a_shipped_adapter() -> None:
    for choice in CHOICES:
        assert choice.arm in ARMS
        assert choice.label in shipped_adapters() or not ARMS[choice.arm].needs_adapter


def test_the_page_is_what_the_results_say() -> None:
    page = (REPOSITORY / "docs" / tables.CHOOSING).read_text(encoding="utf-8")
    assert render_choices(page, list(ResultStore(tables.RESULTS).all())) == page
    assert "n/a | n/a" not in page  # each was measured


def test_a_page_without_markers_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TablesError, match="choices"):
        render_choices("# nothing\n", [])
    (tmp_path / "benchmarks.md").write_text((REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8"))
    (tmp_path / tables.CHOOSING).write_text("# nothing\n")
    assert tables.main(["--document", str(tmp_path / "benchmarks.md")]) == 2
    assert "choices" in capsys.readouterr().err
