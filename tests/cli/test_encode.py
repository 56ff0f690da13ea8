from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from safe_retrieval.cli import encode as command
from safe_retrieval.errors import AdapterError, DataError, InputError
from safe_retrieval.retrieval.arms import Arm, ArmLoader
from tests.support.encoders import HashEncoder

CLI = CliRunner()
APP = typer.Typer()
APP.command()(command.encode)


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Arm]:
    """Encoders without models; the list takes note of the arms that were asked for."""
    asked: list[Arm] = []

    def encoder(_: ArmLoader, arm: Arm) -> HashEncoder | None:
        asked.append(arm)
        if arm is Arm.BM25:
            return None
        return HashEncoder(refused=None if arm is Arm.INPUT else ["forbidden"])

    monkeypatch.setattr(ArmLoader, "encoder", encoder)
    return asked


def run(*arguments: object) -> Result:
    return CLI.invoke(APP, [str(argument) for argument in arguments])


def failed(kind: type[Exception], *arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


def test_refusal_probabilities_are_shown(opened: list[Arm]) -> None:
    result = run("the [bold]violin[/bold]", "a forbidden violin " + "x" * 90)
    lines = result.stdout.splitlines()
    assert lines[0] == "refusal"
    assert lines[1] == "0.100  the [bold]violin[/bold]"
    assert lines[2].startswith("0.960  a forbidden violin x")
    assert lines[2].endswith("...")
    assert "2 vectors of 32 numbers by hash-encoder: not written" in result.stderr
    assert opened == [Arm.OUTPUT]


def test_vectors_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    assert run("the violin", "the harbour", "--output", path).exit_code == 0
    vectors = np.load(path, allow_pickle=False)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, HashEncoder().encode_queries(["the violin", "the harbour"]))
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.npy"]


def test_json_has_the_vectors_where_there_is_no_file(tmp_path: Path) -> None:
    result = json.loads(run("the violin", "--json").stdout)
    assert (result["encoder"], result["space"], result["dimension"], result["output"]) == (
        "hash-encoder",
        "hash:32",
        32,
        None,
    )
    (row,) = result["texts"]
    assert row["refusal"] == pytest.approx(0.1)
    np.testing.assert_allclose(row["vector"], HashEncoder().encode_queries(["the violin"])[0], atol=1e-6)
    written = json.loads(run("the violin", "--json", "--output", tmp_path / "v.npy").stdout)
    assert written["output"] == str(tmp_path / "v.npy")
    assert "vector" not in written["texts"][0]


def test_the_input_arm_has_no_verdict() -> None:
    result = run("forbidden", "--arm", "input")
    assert result.stdout == ""
    assert "no refusal verdict" in result.stderr
    (row,) = json.loads(run("forbidden", "--arm", "input", "--json").stdout)["texts"]
    assert sorted(row) == ["text", "vector"]


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.jsonl.gz"])
def test_texts_from_a_file(tmp_path: Path, name: str) -> None:
    content = b'{"text": "the violin"}\n\n{"_id": "2", "text": "half \\ud83d forbidden"}\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    result = json.loads(run("--input", path, "--json").stdout)
    assert [row["text"] for row in result["texts"]] == ["the violin", "half \ufffd forbidden"]
    assert [round(row["refusal"], 2) for row in result["texts"]] == [0.1, 0.96]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"txt": "b"}\n', "line 2: expected an object with a string field 'text'"),
        ('{"text": 5}\n', "line 1"),
        ("nonsense\n", "line 1: expected one JSON object"),
        ("[1]\n", "line 1"),
        ("\n", "holds no texts"),
        (b"\xff\n", "cannot be read as UTF-8"),
        ('{"text": ' + "9" * 5_000 + "}\n", "line 1: expected one JSON object"),
        ("[" * 100_000 + "\n", "line 1"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = failed(DataError, "--input", path)
    assert str(path) in found
    assert message in found


def test_a_missing_or_cut_file_is_named(tmp_path: Path) -> None:
    assert "missing.jsonl" in failed(DataError, "--input", tmp_path / "missing.jsonl")
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 100)[:30])
    assert "cut.jsonl.gz" in failed(DataError, "--input", path)
    whole = gzip.compress(b'{"text": "a"}\n' * 100)
    path.write_bytes(whole[:12] + b"\xff\xff" + whole[14:])
    assert "cut.jsonl.gz" in failed(DataError, "--input", path)


def test_texts_come_from_one_place(tmp_path: Path) -> None:
    assert "not both" in failed(InputError, "a", "--input", tmp_path / "a.jsonl")
    assert "expected either" in failed(InputError)


def test_a_file_that_is_there_is_kept(tmp_path: Path, opened: list[Arm]) -> None:
    path = tmp_path / "vectors.npy"
    path.write_bytes(b"precious")
    assert "--force" in failed(InputError, "a", "--output", path)
    assert path.read_bytes() == b"precious"
    assert opened == []  # said before a model is loaded
    assert run("a", "--output", path, "--force").exit_code == 0
    assert np.load(path, allow_pickle=False).shape == (1, 32)


def test_output_files_that_cannot_be(tmp_path: Path) -> None:
    assert ".npy" in failed(InputError, "a", "--output", tmp_path / "vectors.pkl")
    assert "not a folder" in failed(InputError, "a", "--output", tmp_path / "nowhere" / "vectors.npy")


def test_a_folder_that_takes_no_file_is_told_before_a_model_is_loaded(
    tmp_path: Path, opened: list[Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    assert "Permission denied" in failed(InputError, "a", "--output", tmp_path / "vectors.npy")
    assert opened == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vectors.npy"
    path.write_bytes(b"precious")

    def full(file: Any, *_: object, **__: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert "No space left" in failed(InputError, "a", "--output", path, "--force")
    assert path.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.npy"]


def test_words_have_no_vectors() -> None:
    assert "bm25 has no vectors" in failed(InputError, "a", "--arm", "bm25")
    assert run("a", "--arm", "sideways").exit_code == 2


def test_no_adapter_is_one_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    message = failed(AdapterError, "a", "--backbone", "Qwen/Qwen3-0.6B", "--offline")
    assert "no adapter is shipped for Qwen/Qwen3-0.6B" in message
