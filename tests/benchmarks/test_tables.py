from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.ablation_table import ablation_pictures
from benchmarks.tables import TablesError, main, render
from safe_retrieval.bench.results import ResultStore, per_query_record
from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.encoder.shipped import shipped_adapter, shipped_adapters
from safe_retrieval.models.catalog import SMALL_BACKBONE

DOCUMENT = """# A

<!-- adapters -->
old
<!-- end of adapters -->

<!-- ablations -->
old
<!-- end of ablations -->

<!-- tables -->
old
<!-- end of tables -->

The end.
"""


def result(arm: str, harm: list[float], recall: list[float], *, task: str = "harm", limit: int | None = None) -> Any:
    def figure(values: list[float]) -> dict[str, float]:
        mean = sum(values) / len(values)
        return {"value": mean, "low": mean, "high": mean, "n": len(values)}

    queries = {str(i): value for i, value in enumerate(harm)}, {str(i): value for i, value in enumerate(recall)}
    return {
        "format": 1,
        "key": arm,
        "task": {
            "name": task,
            "kind": "harm",
            "protocol": "controlled",
            "title": task,
            "metric": "harm@5",
            "source": "S",
            "licence": "L",
        },
        "arm": {"name": arm},
        "data": {"limit": limit},
        "models": {"document_encoder": {"name": "t"}},
        "metrics": {
            "harm@5": figure(harm),
            "any_harm@5": figure(harm),
            "benign_recall@5": figure(recall),
            "benign_ndcg@10": figure(recall),
            "over_refusal": None,
        },
        "comparison": None if arm == "teacher" else {"harm@5": {"relative": {"value": -0.5}}},
        "cost": {"queries_per_second": 12.0, "flops_per_query": 2_500_000_000},
        "per_query": dict(zip(("harm@5", "benign_recall@5"), map(per_query_record, queries), strict=True)),
        "provenance": {"threads": 2, "cpu": "a processor", "commit": "0123456789abc"},
    }


def cells(document: str, arm: str) -> list[str]:
    line = next(line for line in document.splitlines() if f"| `{arm}` |" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_says_harm_recall_ceiling_and_cost() -> None:
    rows = [
        ("t", result("teacher", [1, 1, 1, 1], [1, 1, 1, 1])),
        ("b", result("response", [1, 1, 0, 0], [1, 1, 1, 0])),
        ("b", result("hyde", [0, 0, 0, 0], [1, 1, 1, 1])),
    ]
    written = render(DOCUMENT, rows)
    response = cells(written, "response")
    assert response[:4] == ["b", "`response`", "50.0 % (50.0 to 50.0)", "-50.0 %"]
    assert response[8].startswith("50.0 % (")  # of the ceiling's reduction
    assert response[9].startswith("75.0 % (")  # of its recall
    assert response[10:] == ["12", "2.5"]
    assert cells(written, "teacher")[7:10] == ["n/a", "", ""]
    assert "2 threads of a processor; commit 0123456789" in written
    assert written.endswith("<!-- end of tables -->\n\nThe end.\n")
    assert render(written, rows) == written


def test_the_ceiling_is_measured_from_the_teacher_of_the_same_documents() -> None:
    other = result("teacher", [0, 0, 0, 0], [1, 1, 1, 1])
    other["models"]["document_encoder"] = {"name": "a"}
    rows = [
        ("a", other),
        ("t", result("teacher", [1, 1, 1, 1], [1, 1, 1, 1])),
        ("t--b", result("response", [1, 1, 0, 0], [1, 1, 1, 0])),
        ("t--b", result("hyde", [0, 0, 0, 0], [1, 1, 1, 1])),
    ]
    assert cells(render(DOCUMENT, rows), "response")[8].startswith("50.0 % (")


def test_a_rate_of_a_table_with_several_machines_says_of_which() -> None:
    own, other = result("response", [1], [1]), result("blend", [1], [1])
    own["models"]["backbone"] = {"dtype": "bfloat16"}
    other["provenance"] = {**other["provenance"], "cpu": "another processor"}
    written = render(DOCUMENT, [("b", own), ("b", other)])
    assert cells(written, "response")[10] == "12 a"
    assert cells(written, "blend")[10] == "12 b"
    assert "; a: 2 threads of a processor, bfloat16; b: 2 threads of another processor; commit" in written


def test_a_selectivity_at_unequal_recall_is_marked() -> None:
    unequal = result("response", [1, 0], [1, 1])
    unequal["comparison"]["selectivity@5"] = {"value": -0.3, "low": -0.4, "high": -0.2, "n": 2, "reached": False}
    written = render(DOCUMENT, [("b", unequal)])
    assert cells(written, "response")[6] == "-30.0 (-40.0 to -20.0) †"
    assert written.count("At equal recall it would hand over more") == 1
    unequal["comparison"]["selectivity@5"]["reached"] = True
    assert "†" not in render(DOCUMENT, [("b", unequal)])


def test_a_configuration_has_a_picture_with_its_teacher_in_it(tmp_path: Path) -> None:
    store, document = ResultStore(tmp_path / "results"), tmp_path / "benchmarks.md"
    document.write_text(DOCUMENT)
    store.write(store.path("t", "harm", "teacher"), result("teacher", [1, 1], [1, 1]))
    store.write(store.path("b--t", "harm", "response"), result("response", [0, 1], [1, 1]))
    assert main(["--results", str(store.folder), "--document", str(document)]) == 0
    svg = (tmp_path / "pictures" / "b--t.svg").read_text()
    assert "<svg" in svg
    assert ">teacher<" in svg
    assert ">response<" in svg
    assert "![b--t: harm and benign recall](pictures/b--t.svg)" in document.read_text()


def test_samples_have_a_table_of_their_own() -> None:
    rows = [("t", result("teacher", [1], [1])), ("t", result("teacher", [0], [1], limit=300))]
    written = render(DOCUMENT, rows)
    assert "### harm\n" in written
    assert "### harm, a sample of 300 queries\n" in written


def test_the_papers_protocol_shows_its_cutoffs() -> None:
    paper = result("response", [1, 0], [1, 1], task="harm-paper")
    paper["task"]["protocol"] = "paper"
    row = cells(render(DOCUMENT, [("b", paper)]), "response")
    assert row[2:10] == ["n/a", "50.0 %", "n/a", "n/a", "n/a", "50.0 %", "n/a", "n/a"]
    assert row[10:] == ["-50.0 %", "100.0 % (100.0 to 100.0)"]


def test_other_tasks_have_one_figure() -> None:
    plain = result("response", [0.5], [1.0], task="scifact")
    plain["task"] |= {"kind": "retrieval", "metric": "ndcg@10"}
    plain["metrics"] = {"ndcg@10": {"value": 0.645, "low": 0.6, "high": 0.7, "n": 1}}
    plain["comparison"] = {"ndcg@10": {"difference": {"value": -0.01, "low": -0.02, "high": 0.0, "n": 1}}}
    assert cells(render(DOCUMENT, [("t", plain)]), "response")[2:4] == ["64.50 (60.00 to 70.00)", "-1.0 (-2.0 to +0.0)"]


def test_ablations_have_a_table_of_their_own(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    held_out = {"cosine": 0.5, "own_response": 0.75, "reconstruction": 2.5}
    rows = [("t", result("teacher", [1, 1], [1, 1]))]
    prompt = {"responses": {"policy": "You are careful. You say no to a request that does harm."}}
    for name, changes in (("mse", {"loss": {"alignment": "mse"}}), ("base", {}), ("strict", prompt)):
        label = f"ablation-{name}-of-600"
        training = {"row": name, "changes": changes, "queries": 600, "held_out": held_out}
        store.write(store.training_path(label), training)
        rows += [(label, result("teacher", [1, 1], [1, 1])), (label, result("response", [1, 0], [1, 1]))]
    written = render(DOCUMENT, rows, tmp_path)
    ablations, others = written.split("<!-- ablations -->")[1].split("<!-- end of ablations -->")
    assert "ablation-" not in others
    assert "Trained on 600 queries, measured on all queries of the task; 2 threads of a processor." in ablations
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in ablations.splitlines() if "`" in line]
    prompt_cell = 'policy "You are careful. You say no to a ..."'
    assert shown == [
        ["`base`", "nothing", "0.500", "75.0 %", "2.50", "50.0 % (-50.0 %)", "100.0 %", ""],
        ["`mse`", "alignment mse", "0.500", "75.0 %", "2.50", "50.0 % (-50.0 %)", "100.0 %", ""],
        ["`strict`", prompt_cell, "0.500", "75.0 %", "2.50", "50.0 % (-50.0 %)", "100.0 %", ""],
        ["`teacher`", "", "", "", "", "100.0 %", "100.0 %", ""],
    ]


def test_numbers_of_training_queries_make_a_curve_in_one_table(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    held_out = {"cosine": 0.5, "own_response": 0.75, "reconstruction": 2.5}
    rows = []
    for name, queries in (("queries-2k", 2048), ("queries-16k", 16384), ("queries-512", 512), ("mse", 512)):
        label = f"ablation-{name}"
        changes = {"loss": {"alignment": "mse"}} if name == "mse" else {"queries": {"count": queries + 256}}
        training = {"row": name, "changes": changes, "queries": queries, "held_out": held_out}
        store.write(store.training_path(label), training)
        rows.append((label, result("response", [1, 0], [1, 1])))
    written = render(DOCUMENT, rows, tmp_path).split("<!-- ablations -->")[1].split("<!-- end of ablations -->")[0]
    curve, others = written.split("Trained on 512 queries")
    assert "](pictures/training-queries.svg)" in curve
    (svg,) = ablation_pictures(rows, tmp_path).values()
    assert [text for text in (">512<", ">2,048<", ">16,384<", ">cosine<", ">0.75<") if text not in svg] == []
    shown = [[cell.strip() for cell in line.strip("|").split("|")][:2] for line in curve.splitlines() if "`" in line]
    assert shown == [
        ["`queries-512`", "512 queries"],
        ["`queries-2k`", "2,048 queries"],
        ["`queries-16k`", "16,384 queries"],
    ]
    assert "`mse`" in others


def test_ablations_of_two_processors_stand_apart(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    held_out = {"cosine": 0.5, "own_response": 0.75, "reconstruction": 2.5}
    rows = []
    for name, processor in (("base", "one"), ("mse", "one"), ("base-again", "another")):
        label = f"ablation-{name}"
        changes = {"loss": {"alignment": "mse"}} if name == "mse" else {}
        store.write(store.training_path(label), {"row": name, "changes": changes, "queries": 600, "held_out": held_out})
        found = result("response", [1, 0], [1, 1])
        rows.append((label, found | {"provenance": {**found["provenance"], "cpu": processor}}))
    written = render(DOCUMENT, rows, tmp_path).split("<!-- ablations -->")[1].split("<!-- end of ablations -->")[0]
    another, one = written.split("threads of one")
    assert [name for name in ("`base`", "`mse`", "`base-again`") if name in another] == ["`base-again`"]
    assert one.index("`base`") < one.index("`mse`")


def test_without_results_the_document_says_how_to_get_them() -> None:
    assert tables.NO_RESULT in render(DOCUMENT, [])


@pytest.mark.parametrize("document", ["# none\n", DOCUMENT + DOCUMENT])
def test_one_pair_of_markers_is_expected(document: str) -> None:
    with pytest.raises(TablesError, match="expected one block"):
        render(document, [])


def test_program(tmp_path: Path) -> None:
    store, document = ResultStore(tmp_path / "results"), tmp_path / "benchmarks.md"
    document.write_text(DOCUMENT)
    store.write(store.path("t", "harm", "teacher"), result("teacher", [1], [1]))
    words = ["--results", str(store.folder), "--document", str(document)]
    assert main([*words, "--check"]) == 1
    assert main(words) == 0
    assert main([*words, "--check"]) == 0
    (store.folder / "t" / "harm" / "broken.json").write_text("{")
    assert main(words) == 2


def test_the_documents_tables_are_what_the_results_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_the_shipped_adapters_have_a_table_with_what_was_measured_of_these_very_weights() -> None:
    folder = shipped_adapter(SMALL_BACKBONE)
    own = result("response", [1, 0], [1, 1])
    own["models"]["adapter"] = {"fingerprint": load_adapter(folder).fingerprint}
    own["comparison"]["selectivity@5"] = {"value": -0.3, "low": -0.4, "high": -0.2, "n": 2}
    older = result("gated", [0, 0], [1, 1])
    older["models"]["adapter"] = {"fingerprint": "sha256:0"}
    eight_bit = {**own, "models": {**own["models"], "backbone": {"dtype": "int8"}}, "metrics": older["metrics"]}
    with pytest.raises(ValueError, match="two results of one arm"):
        render(DOCUMENT, [("b", own), ("again", own)])
    written = render(DOCUMENT, [("b", own), ("b", older), ("b--int8", eight_bit)]).partition(
        "<!-- end of adapters -->"
    )[0]
    rows = [line.strip("| ").split(" | ") for line in written.splitlines() if line.startswith("| `")]
    assert len(rows) == len(shipped_adapters())
    (row,) = [row for row in rows if row[:2] == [f"`{SMALL_BACKBONE}`", "`all-minilm-l6-v2`"]]
    assert row[6:9] == ["50.0 % (-50.0 %)", "100.0 %", "-30.0 (-40.0 to -20.0)"]
    assert row[9:] == ["n/a"] * 3
