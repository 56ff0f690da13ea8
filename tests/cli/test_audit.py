from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from safe_retrieval.audit import models
from safe_retrieval.cli import audit as audit_command
from safe_retrieval.cli.main import app, run
from tests.audit.fakes import FakeModels


@pytest.fixture(autouse=True)
def _fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LocalModels", lambda *arguments, **options: FakeModels())
    monkeypatch.delenv("SAFE_RETRIEVAL_DATA", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one harmful, one benign and one prompt set."""
    root = tmp_path / "data"
    for room, query, passage in (
        ("harm/bad", "request alpha zzz", "passage alpha zzz"),
        ("benign/nq-wiki", "wording beta zzz", "passage beta zzz"),
    ):
        (root / room).mkdir(parents=True)
        _write(root / room / "corpus.jsonl.gz", {"_id": "d", "title": "", "text": passage})
        _write(root / room / "queries.jsonl.gz", {"_id": "q", "text": query})
        (root / room / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (root / "prompts").mkdir()
    _write(root / "prompts" / "safe.jsonl.gz", {"id": "s", "prompt": "sensitive gamma zzz", "label": "safe"})
    return root


def _write(path: Path, row: dict[str, str]) -> None:
    path.write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))


def audit(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_a_table_on_stdout_and_the_page_on_stderr(tmp_path: Path, data: Path) -> None:
    result = audit("--data", data, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for arm in ("input", "output", "blend", "gated", "hyde", "bm25"):
        assert f"\n {arm} " in result.stdout or f"\n{arm} " in result.stdout
    assert "index.html" in result.stderr
    assert "zzz" not in result.output


def test_json_is_the_report_and_nothing_else(tmp_path: Path, data: Path) -> None:
    result = audit("--data", data, "--out", tmp_path / "out", "--arms", "bm25, input", "--k", "2,3", "--json")
    content = json.loads(result.stdout)
    assert list(content["arms"]) == ["bm25", "input"]
    assert content["cutoffs"] == [1, 2, 3, 5, 20, 100]
    assert content == json.loads((tmp_path / "out" / "report.json").read_text())


def test_the_built_in_probes_are_the_default_even_where_the_variable_is_set(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_DATA", str(data))
    content = json.loads(audit("--arms", "bm25", "--out", tmp_path / "out", "--json").stdout)
    assert content["data"]["name"] == "safe-retrieval-probes"


def test_naming_a_set_takes_the_folder_from_the_variable(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_DATA", str(data))
    content = json.loads(audit("--arms", "bm25", "--harm", "bad", "--out", tmp_path / "out", "--json").stdout)
    assert content["data"]["name"] == "harm/bad+benign/nq-wiki+prompts/safe"


def test_texts_are_revealed_with_a_warning(tmp_path: Path, data: Path) -> None:
    result = audit("--data", data, "--arms", "bm25", "--out", tmp_path / "out", "--reveal")
    assert result.stderr.count("REVEALED") == 1
    assert "zzz" not in result.output
    assert "passage alpha zzz" in (tmp_path / "out" / "findings.jsonl").read_text()


def test_an_earlier_audit_is_compared_with(tmp_path: Path, data: Path) -> None:
    audit("--data", data, "--arms", "bm25", "--out", tmp_path / "then")
    result = audit(
        "--data", data, "--arms", "bm25", "--out", tmp_path / "now", "--baseline", tmp_path / "then", "--json"
    )
    assert json.loads(result.stdout)["against"]["arms"]["bm25"]["surfaced"] == []
    missing = audit("--data", data, "--arms", "bm25", "--out", tmp_path / "now", "--baseline", tmp_path / "nowhere")
    assert missing.exit_code != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "input,wat"], "expected each arm to be one of input, output, blend, gated, hyde, bm25; got 'wat'"),
        (["--arms", ""], "at least one target"),
        (["--harm", "bad"], "give it with --data or SAFE_RETRIEVAL_DATA"),
        (["--data", "nowhere"], "expected a folder of BEIR folders"),
        (["--k", "five"], "whole numbers in --k"),
        (["--k", "0"], "a cut-off is a rank of 1 or more"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["safe-retrieval", "audit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_where_nobody_watches_progress_is_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 5.0, 25.0, 30.0])
    monkeypatch.setattr(audit_command.time, "monotonic", lambda: next(clock))
    with audit_command._lines(100, "Encoding passages") as advance:
        for count in (25, 25, 50):
            advance(count)
    assert capsys.readouterr().err.splitlines() == [
        "Encoding passages: 50 of 100, 2.0/s, 25 s left",
        "Encoding passages: 100 of 100, 3.3/s",
    ]
