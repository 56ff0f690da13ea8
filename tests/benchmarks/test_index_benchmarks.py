"""The index benchmarks on tiny sizes: that they run, and that a result says what was measured."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.index import build, search, tables, vectors
from benchmarks.measuring import alternated, ratio_of_rounds


def test_search(tmp_path: Path) -> None:
    out = tmp_path / "new" / "search.json"
    arguments = ["--sizes", "Flat:300", "--dimension", "8", "--queries", "3", "--k", "1", "5", "--out", str(out)]
    assert search.main(arguments) == 0
    result = json.loads(out.read_text())
    (size,) = result["sizes"]
    assert (size["vectors"], size["factory"]) == (300, "Flat")
    assert [(row["queries"], row["k"]) for row in size["rows"]] == [
        *(("single", 1), ("single", 5)),
        *(("batch of 64", 1), ("batch of 64", 5)),
    ]
    for row in size["rows"]:
        ways = {f"{side}, {way}" for side in ("faiss", "ours") for way in search.OPENED}
        assert set(row["milliseconds"]["clock"]) == {*ways, "langchain"}
        assert all(row["over_faiss"][way]["processor"] > 0 for way in search.OPENED)
    assert {"commit", "cpu", "packages"} <= result["provenance"].keys()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([repository, os.environ.get("PYTHONPATH", "")]))
    out = tmp_path / "vectors.json"
    assert vectors.main(["--sizes", "500", "--dimension", "8", "--lists", "4", "--rounds", "2", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["sizes"]
    assert (row["factory"], row["vectors"], row["within_bound"]) == ("IVF4,Flat", 500, True)
    assert row["ours"]["seconds"] > 0
    assert row["rounds"] == 2
    assert row["opening"]["file_bytes"] == row["verified_opening"]["file_bytes"] == 500 * 8 * 4 + 45


def test_build_has_documents_of_many_lengths() -> None:
    made = build.documents(50)
    assert made == build.documents(50)
    assert len({len(document.text.split()) for document in made}) > 20


def test_sides_take_turns() -> None:
    calls: list[str] = []
    seconds = alternated({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b", "b", "a"]
    assert ratio_of_rounds([1.0, 4.0, 3.0], [1.0, 2.0, 2.0]) == 1.5
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_the_document_says_what_the_results_say() -> None:
    assert tables.main(["--check"]) == 0


def test_tables_and_picture(tmp_path: Path) -> None:
    def row(count: int, seconds: float) -> dict[str, object]:
        return {
            "factory": "IVF4,Flat",
            "vectors": count,
            "ours": {"seconds": seconds, "threads": 2, "peak_bytes": 15_000_000},
            "ours_bounded": {"seconds": 1.5 * seconds, "peak_bytes": 10_000_000},
            "faiss": {"seconds": 2 * seconds, "peak_bytes": 20_000_000},
            "time_over_faiss": 0.5,
            "processor_time_over_faiss": 0.6,
            "memory_bound": 1_000_000_000,
            "flat_index_with_documents_seconds": 3.0,
            "opening": {"seconds": 0.01, "resident_share_of_file": 0.02},
            "verified_opening": {"seconds": 0.02, "resident_share_of_file": 0.02},
        }

    result = {
        "dimension": 8,
        "sizes": [row(1_000, 0.5), row(10_000, 5.0)],
        "provenance": {"cpu": None, "commit": "abc"},
    }
    for name in ("vectors", "growth"):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    document = tmp_path / "scale.md"
    document.write_text("a\n<!-- index results -->\nold\n<!-- end of index results -->\nb\n")
    arguments = ["--results", str(tmp_path), "--document", str(document)]
    assert tables.main([*arguments, "--check"]) == 1
    assert tables.main(arguments) == 0
    assert tables.main([*arguments, "--check"]) == 0
    assert (
        "| 10,000 | `IVF4,Flat` | 5.0 | 10.0 | 0.50 | 7.5 | 10 | 20 | 3.0 | 10 | 2.0 % of the file |"
        in document.read_text()
    )
    assert (tmp_path / tables.PICTURE).read_text().startswith("<svg")
    assert "| seconds, ours | 1.00 |" in document.read_text()
    assert "Ours takes 0.50, 0.50 times" in document.read_text()
    assert "| peak memory, ours within its bound | 0.00 |" in document.read_text()
