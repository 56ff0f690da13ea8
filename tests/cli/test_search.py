from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from safe_retrieval.cli.search import search
from safe_retrieval.errors import InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.retrieval.arms import Arm, ArmLoader
from safe_retrieval.types import Document
from tests.support.encoders import HashEncoder

CLI = CliRunner()
APP = typer.Typer()
APP.command()(search)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    documents = [
        Document("v", "the violin [bold]is[/bold] here " + "violin " * 60, title="On violins", metadata={"year": 1700}),
        Document("h", "the harbour is there"),
    ]
    build_index(documents, HashEncoder(), tmp_path / "index")
    encoder = HashEncoder(refused=["forbidden"])
    monkeypatch.setattr(ArmLoader, "encoder", lambda self, arm: None if arm is Arm.BM25 else encoder)
    return str(tmp_path / "index")


def test_prints_rank_score_id_title_and_snippet(folder: str) -> None:
    result = CLI.invoke(APP, [folder, "the violin", "the harbour"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "the violin"
    assert lines[1] == "refusal probability 0.10"
    rank, score, identifier, *title = lines[2].split()
    assert (rank, identifier, title) == ("1", "v", ["On", "violins"])
    assert 0 < float(score) < 1
    assert lines[3].strip().startswith("the violin [bold]is[/bold] here")
    assert lines[3].endswith("...")
    assert len(lines[3].strip()) == 160
    assert "the harbour" in lines


def test_gate_says_what_it_did(folder: str) -> None:
    empty = CLI.invoke(APP, [folder, "forbidden violin", "violin", "--gate", "empty"]).stdout
    assert "0.96, gate closed: nothing is returned" in empty
    assert "0.10, gate open" in empty
    assert "0.96, flagged by the gate" in CLI.invoke(APP, [folder, "forbidden", "--gate", "flag"]).stdout
    assert "gate open" in CLI.invoke(APP, [folder, "forbidden", "--gate", "flag", "--threshold", "0.97"]).stdout


def test_json(folder: str) -> None:
    (found,) = json.loads(CLI.invoke(APP, [folder, "violin", "--json", "-k", "1"]).stdout)
    assert (found["query"], found["flagged"]) == ("violin", False)
    assert found["refusal"] == pytest.approx(0.1)
    (hit,) = found["hits"]
    assert (hit["rank"], hit["id"], hit["title"], hit["metadata"]) == (1, "v", "On violins", {"year": 1700})


def test_filters_range_and_diversity(folder: str) -> None:
    def ids(*options: str) -> list[str]:
        (found,) = json.loads(CLI.invoke(APP, [folder, "the violin", "--json", *options]).stdout)
        return [hit["id"] for hit in found["hits"]]

    assert ids() == ["v", "h"]
    assert ids("--where", '{"year": {"$lt": 1800}}') == ["v"]
    assert ids("--where", '{"year": null}') == ["h"]
    assert ids("--min-score", "0.6") == ["v"]
    assert ids("--min-score", "-1") == ["v", "h"]
    assert ids("--min-score", "-1", "-k", "1") == ["v"]
    assert ids("--diverse", "0.5", "-k", "2") == ["v", "h"]
    for options in (
        ["--where", "{"],
        ["--where", "[]"],
        ["--where", '{"a": []}'],
        ["--min-score", "0", "--diverse", "1"],
    ):
        assert isinstance(CLI.invoke(APP, [folder, "violin", *options]).exception, InputError)


def test_nothing_found(folder: str) -> None:
    assert "nothing found" in CLI.invoke(APP, [folder, "unheard", "--arm", "bm25"]).stdout


def test_closed_choices(folder: str) -> None:
    assert CLI.invoke(APP, [folder, "violin", "--arm", "sideways"]).exit_code == 2
    assert CLI.invoke(APP, [folder, "violin", "--threshold", "2"]).exit_code == 2
