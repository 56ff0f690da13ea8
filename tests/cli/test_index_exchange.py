from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from typer.testing import CliRunner

from safe_retrieval.cli.index import app
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.errors import EncoderMismatchError, InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.corpus import read_corpus
from safe_retrieval.index.folder import load_index
from safe_retrieval.types import Document
from tests.index.test_docstore import saved
from tests.index.test_exchange import Stranger
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

CLI = CliRunner()
DOCUMENTS = small_corpus(15)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    def load(name: str, offline: bool) -> HashEncoder:
        return Stranger(name, space="elsewhere") if name == "stranger" else HashEncoder(name)

    monkeypatch.setattr(InputEncoder, "load", load)
    build_index(DOCUMENTS, HashEncoder(), tmp_path / "index")
    return str(tmp_path / "index")


def documents_of(folder: str | Path) -> list[Document]:
    with load_index(folder) as opened:
        return list(opened.documents())


def test_merge(index: str, tmp_path: Path) -> None:
    other, out = str(tmp_path / "other"), str(tmp_path / "out")
    build_index([Document("d3", "again"), Document("new", "new")], HashEncoder(), other)
    assert isinstance(CLI.invoke(app, ["merge", index, other, "--out", out]).exception, InputError)
    merged = CLI.invoke(app, ["merge", index, other, "-o", out, "--duplicates", "last"])
    assert (merged.exit_code, merged.stdout) == (0, "")
    assert f"16 documents: {out}" in merged.stderr
    assert {document.id: document.text for document in documents_of(out)}["d3"] == "again"


def test_export_and_import(index: str, tmp_path: Path) -> None:
    table, out = str(tmp_path / "c.parquet"), str(tmp_path / "out")
    assert f"15 documents: {table}" in CLI.invoke(app, ["export", index, table]).stderr
    imported = CLI.invoke(app, ["import", table, out])
    assert imported.exit_code == 0
    assert "15 documents as Flat" in imported.stderr
    assert documents_of(out) == DOCUMENTS
    checked = CLI.invoke(app, ["import", table, str(tmp_path / "c"), "--encoder", "hash-encoder", "--sample", "4"])
    assert "4 documents encoded again: cosine to their vectors at least 1.0000" in checked.stderr
    assert CLI.invoke(app, ["export", index, str(tmp_path / "beir")]).exit_code == 0
    assert list(read_corpus(tmp_path / "beir")) == DOCUMENTS
    assert isinstance(CLI.invoke(app, ["import", str(tmp_path / "beir"), out]).exception, InputError)
    assert "--skip-foreign needs" in str(CLI.invoke(app, ["import", table, out, "--skip-foreign"]).exception)


def test_import_of_langchain(index: str, tmp_path: Path) -> None:
    folder, out = str(saved(tmp_path / "theirs", [{"raw": b"x"} for _ in range(12)])), str(tmp_path / "out")
    assert "name the encoder" in str(CLI.invoke(app, ["import", folder, out]).exception)
    assert "holds a bytes" in str(CLI.invoke(app, ["import", folder, out, "--encoder", "hash-encoder"]).exception)
    options = ["--encoder", "hash-encoder", "--skip-foreign"]
    for wrong in (["--id-field", "key"], ["--text-field", "body"], ["--vector-field", "v"]):
        assert "need a .parquet file" in str(CLI.invoke(app, ["import", folder, out, *options, *wrong]).exception)
    imported = CLI.invoke(app, ["import", folder, out, *options])
    assert imported.exit_code == 0
    assert "left out: document 'id 0': metadata field 'raw' holds a bytes" in imported.stderr
    assert "left out: 2 fields more" in imported.stderr
    assert len(documents_of(out)) == 12


def test_adopt(index: str, tmp_path: Path) -> None:
    file, texts = str(tmp_path / "my.faiss"), tmp_path / "texts.jsonl"
    vectors = HashEncoder().encode_documents([document.content for document in DOCUMENTS])
    flat = faiss.IndexFlatL2(32)
    flat.add(np.ascontiguousarray(vectors * 2))
    faiss.write_index(flat, file)
    rows = [{"_id": d.id, "title": d.title, "text": d.text, **d.metadata} for d in DOCUMENTS]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    adopted = CLI.invoke(app, ["adopt", file, str(texts), "--encoder", "hash-encoder"])
    assert adopted.exit_code == 0
    assert "15 vectors were not of length one" in adopted.stderr
    assert f"15 documents as Flat: {tmp_path / 'my'}" in adopted.stderr
    assert documents_of(tmp_path / "my") == DOCUMENTS
    wrong = CLI.invoke(app, ["adopt", file, str(texts), "--encoder", "stranger", "--out", str(tmp_path / "x")])
    assert isinstance(wrong.exception, EncoderMismatchError)
    (tmp_path / "bare").write_bytes(b"")
    bare = CLI.invoke(app, ["adopt", str(tmp_path / "bare"), str(texts), "--encoder", "hash-encoder"])
    assert "has no suffix" in str(bare.exception)
    assert CLI.invoke(app, ["adopt", file, str(texts)]).exit_code == 2  # whose vectors they are has to be said


def test_find(index: str) -> None:
    found = CLI.invoke(app, ["find", index, "RIVER", "beside"])
    assert found.exit_code == 0
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["d0", "d6"]
    assert "2 documents found" in found.stderr
    as_json = json.loads(
        CLI.invoke(app, ["find", index, "--where", '{"number": {"$gte": 9}}', "-k", "2", "--json"]).stdout
    )
    assert [document["id"] for document in as_json] == ["d9", "d10"]
    both = CLI.invoke(app, ["find", index, "beside", "the", "--phrase", "--where", '{"number": 4}', "--json"])
    assert [document["id"] for document in json.loads(both.stdout)] == ["d4"]
    assert CLI.invoke(app, ["find", index, "the", "beside", "--phrase"]).stdout == ""
    assert isinstance(CLI.invoke(app, ["find", index]).exception, InputError)


def test_verify_encodes_a_sample_again(index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = CLI.invoke(app, ["verify", index, "--sample", "5"])
    assert (sound.exit_code, sound.stdout) == (0, f"{index}: sound\n")
    assert "5 documents encoded again with hash-encoder" in sound.stderr
    monkeypatch.setattr(InputEncoder, "load", lambda name, offline: Stranger(name))
    wrong = CLI.invoke(app, ["verify", index])
    assert wrong.exit_code == 1
    assert len(wrong.stdout.splitlines()) == 15
    assert "document 'd0' encoded again has a cosine of" in wrong.stdout
    assert CLI.invoke(app, ["verify", index, "--sample", "0"]).exit_code == 0


def test_import_within_a_memory(index: str, tmp_path: Path) -> None:
    table, out = str(tmp_path / "c.parquet"), str(tmp_path / "out")
    CLI.invoke(app, ["export", index, table])
    refused = CLI.invoke(app, ["import", table, out, "--factory", "HNSW8", "--memory", "1KB"])
    assert "more than the 1e-06 GB that were given" in str(refused.exception)
    assert CLI.invoke(app, ["import", table, out, "--factory", "HNSW8", "--memory", "1MB"]).exit_code == 0
    folder = str(saved(tmp_path / "theirs", [{} for _ in range(12)]))
    options = ["--encoder", "hash-encoder", "--memory", "1MB"]
    assert "needs a .parquet file" in str(CLI.invoke(app, ["import", folder, out, *options]).exception)
