from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from typer.testing import CliRunner

from safe_retrieval.cli.index import app
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.errors import DataError, IndexFolderError, IndexFormatError, InputError, OfflineError
from safe_retrieval.index import advisor, steps
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.manifest import read_manifest
from tests.support.encoders import HashEncoder
from tests.support.tiny_models import tokenizer
from tests.support.without_ray import replace_ray

CLI = CliRunner()


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(InputEncoder, "load", lambda name, offline: HashEncoder(name))
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": f"d{n}", "text": f"[text] {n}"}) + "\n" for n in range(12)))
    return path


def test_build_info_verify(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    built = CLI.invoke(app, ["build", str(corpus), str(out), "--encoder", "some-encoder", "--offline"])
    assert built.exit_code == 0
    assert built.stdout == ""
    assert "12 documents" in built.stderr

    described = CLI.invoke(app, ["info", str(out)])
    assert described.exit_code == 0
    assert "some-encoder" in described.stdout
    as_json = json.loads(CLI.invoke(app, ["info", str(out), "--json"]).stdout)
    assert as_json["count"] == 12
    assert as_json["encoder"]["name"] == "some-encoder"

    sound = CLI.invoke(app, ["verify", str(out)])
    assert sound.exit_code == 0
    assert sound.stdout.strip() == f"{out}: sound"


def test_verify_exits_with_1_and_names_the_file(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    CLI.invoke(app, ["build", str(corpus), str(out)])
    damaged = out / read_manifest(out).segments[0].documents.name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    result = CLI.invoke(app, ["verify", str(out)])
    assert result.exit_code == 1
    assert damaged.name in result.stdout


def test_verify_of_a_damaged_manifest_is_a_finding(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    CLI.invoke(app, ["build", str(corpus), str(out)])
    (out / "manifest.json").write_text("{")
    assert CLI.invoke(app, ["verify", str(out)]).exit_code == 1
    assert isinstance(CLI.invoke(app, ["info", str(out)]).exception, IndexFormatError)


def test_a_missing_corpus_is_reported_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InputEncoder, "load", lambda *_, **__: pytest.fail("loaded a model"))
    result = CLI.invoke(app, ["build", str(tmp_path / "absent.jsonl"), str(tmp_path / "out")])
    assert isinstance(result.exception, DataError)
    assert not (tmp_path / "out").exists()


def test_no_index_there(tmp_path: Path) -> None:
    for command in ("info", "verify"):
        assert isinstance(CLI.invoke(app, [command, str(tmp_path)]).exception, IndexFolderError)


def test_add_delete_get_compact(corpus: Path, tmp_path: Path) -> None:
    out, more = str(tmp_path / "out"), tmp_path / "more.jsonl"
    more.write_text(json.dumps({"_id": "d3", "text": "new", "year": 1}) + "\n" + json.dumps({"_id": "z", "text": "z"}))
    CLI.invoke(app, ["build", str(corpus), out])
    assert isinstance(CLI.invoke(app, ["add", out, str(more)]).exception, InputError)
    added = CLI.invoke(app, ["add", out, str(more), "--replace"])
    assert (added.exit_code, added.stdout) == (0, "")
    assert "2 documents added in the place of 1; 13 in all" in added.stderr
    deleted = CLI.invoke(app, ["delete", out, "z", "d0", "absent"])
    assert "2 documents deleted, 1 were not there; 11 left" in deleted.stderr
    (found,) = json.loads(CLI.invoke(app, ["get", out, "d3"]).stdout)
    assert found == {"id": "d3", "title": "", "text": "new", "metadata": {"year": 1}}
    assert isinstance(CLI.invoke(app, ["get", out, "d3", "z"]).exception, InputError)
    assert "3 still on the disk" in CLI.invoke(app, ["info", out]).stdout
    assert "11 documents" in CLI.invoke(app, ["compact", out]).stderr
    assert "0 still on the disk" in CLI.invoke(app, ["info", out]).stdout
    assert CLI.invoke(app, ["verify", out]).exit_code == 0


def test_advise_and_factory(corpus: Path, tmp_path: Path) -> None:
    advised = CLI.invoke(app, ["advise", "1000000", "384", "--memory", "0.5 GB"]).stdout.splitlines()
    assert advised[0] == "IVF4096,SQ8"
    assert "1,000,000 vectors of length 384 take 1.54 GB" in advised[1]
    assert isinstance(CLI.invoke(app, ["advise", "10", "384", "--memory", "much"]).exception, InputError)
    out = tmp_path / "out"
    assert CLI.invoke(app, ["build", str(corpus), str(out), "--factory", "auto"]).stdout.startswith("Flat\n")
    assert CLI.invoke(app, ["compact", str(out), "--factory", "HNSW8"]).exit_code == 0
    assert read_manifest(out).factory == "HNSW8"


def test_shards_step_by_step_and_in_one(corpus: Path, tmp_path: Path) -> None:
    out, other = str(tmp_path / "out"), str(tmp_path / "other")
    assert "12 documents in 2 shards" in CLI.invoke(app, ["shards", "plan", str(corpus), out, "--shards", "2"]).stderr
    for shard in ("2/2", "1/2"):
        assert "encoded" in CLI.invoke(app, ["shards", "embed", out, "--shard", shard]).stderr
    assert "was there" in CLI.invoke(app, ["shards", "embed", out, "--shard", "1/2"]).stderr
    assert "nothing to train" in CLI.invoke(app, ["shards", "train", out]).stderr
    assert "nothing to do" in CLI.invoke(app, ["shards", "add", out, "--shard", "1/2"]).stderr
    assert "12 documents" in CLI.invoke(app, ["shards", "merge", out]).stderr
    assert CLI.invoke(app, ["build", str(corpus), other, "--shards", "3"]).exit_code == 0
    assert read_manifest(tmp_path / "other").files() == read_manifest(tmp_path / "out").files()
    assert isinstance(CLI.invoke(app, ["shards", "embed", out, "--shard", "1/2"]).exception, IndexFolderError)


def test_shards_of_pieces_without_bad_lines(corpus: Path, tmp_path: Path) -> None:
    out, other = str(tmp_path / "out"), str(tmp_path / "other")
    with corpus.open("a") as file:
        file.write("broken\n")
    options = ["--shards", "2", "--chunk-words", "1", "--skip-bad"]
    planned = CLI.invoke(app, ["shards", "plan", str(corpus), out, *options]).stderr
    assert "1 bad line skipped" in planned
    for shard in ("1/2", "2/2"):
        CLI.invoke(app, ["shards", "embed", out, "--shard", shard])
    CLI.invoke(app, ["shards", "merge", out])
    assert CLI.invoke(app, ["build", str(corpus), other, *options]).exit_code == 0
    assert read_manifest(tmp_path / "other").files() == read_manifest(tmp_path / "out").files()
    assert read_manifest(tmp_path / "out").count > 12
    refused = CLI.invoke(app, ["shards", "plan", "hf:name", out, "--shards", "1", "--offline", "--split", "train"])
    assert isinstance(refused.exception, OfflineError)


def test_tune_measures_and_writes_down(corpus: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with corpus.open("a") as file:
        file.writelines(json.dumps({"_id": f"m{n}", "text": f"more {n} of {n % 7}"}) + "\n" for n in range(60))
    CLI.invoke(app, ["build", str(corpus), out])
    measured = CLI.invoke(app, ["tune", out, "--json", "--no-apply", "--recall", "1"])
    assert {row["factory"] for row in json.loads(measured.stdout)} == {"Flat", "HNSW32", "SQ8", "RaBitQ", *IVF}
    assert read_manifest(Path(out)).search is None
    queries = tmp_path / "queries.txt"
    queries.write_text("more 3\n\nmore 4\n")
    tuned = CLI.invoke(app, ["tune", out, "--queries-file", str(queries)])
    assert tuned.exit_code == 0
    assert "recall@10" in tuned.stdout
    assert "* chosen" in tuned.stdout
    assert read_manifest(Path(out)).search is not None
    assert CLI.invoke(app, ["verify", out]).exit_code == 0
    assert isinstance(CLI.invoke(app, ["tune", out, "--memory", "10"]).exception, InputError)
    assert isinstance(CLI.invoke(app, ["tune", out, "--queries-file", out]).exception, DataError)


IVF = {"IVF1,Flat", "IVF1,SQ8", "IVF1,RaBitQ"}


def test_other_fields_and_pieces(corpus: Path, tmp_path: Path) -> None:
    out, table = str(tmp_path / "out"), tmp_path / "c.csv"
    table.write_text("key,body\na,one two three\n")
    options = ["--id-field", "key", "--text-field", "body", "--chunk-words", "2", "--overlap", "1"]
    assert CLI.invoke(app, ["build", str(table), out, *options]).exit_code == 0
    found = json.loads(CLI.invoke(app, ["get", out, "a#0", "a#1"]).stdout)
    assert [piece["text"] for piece in found] == ["one two", "two three"]
    assert found[1]["metadata"] == {"document": "a", "chunk": 1}
    assert isinstance(CLI.invoke(app, ["build", str(corpus), out, "--overlap", "1"]).exception, InputError)


@pytest.mark.usefixtures("corpus")
def test_a_new_version_of_a_document_leaves_no_pieces_of_the_old_one(tmp_path: Path) -> None:
    out, table = str(tmp_path / "out"), tmp_path / "c.csv"

    def written(*rows: str) -> str:
        table.write_text("\n".join(("_id,text", *rows)) + "\n")
        return str(table)

    def ids() -> list[str]:
        with load_index(out) as index:
            return sorted(index.ids())

    two = ["--chunk-words", "2"]
    assert CLI.invoke(app, ["build", written("a,1 2 3 4 5 6", "b,1 2 3", "c,1"), out, *two]).exit_code == 0
    added = CLI.invoke(app, ["add", out, written("b,new words", "a,brand new"), "--replace", *two])
    assert "2 documents added in the place of 5; 3 in all" in added.stderr
    assert ids() == ["a#0", "b#0", "c#0"]
    assert CLI.invoke(app, ["add", out, written("a,1 2 3 4"), "--replace"]).exit_code == 0
    assert ids() == ["a", "b#0", "c#0"]
    assert CLI.invoke(app, ["add", out, written("a,1 2 3 4"), "--replace", *two]).exit_code == 0
    assert ids() == ["a#0", "a#1", "b#0", "c#0"]


@pytest.mark.usefixtures("corpus")
def test_a_document_whose_pieces_come_in_several_lots_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safe_retrieval.cli.index._CHUNK", 2)
    out, table = str(tmp_path / "out"), tmp_path / "c.csv"
    table.write_text("_id,text\na,1 2 3 4 5 6 7\nb,1\n")
    assert CLI.invoke(app, ["build", str(table), out, "--chunk-words", "1"]).exit_code == 0
    table.write_text("_id,text\na,1 2 3 4 5\n")
    added = CLI.invoke(app, ["add", out, str(table), "--replace", "--chunk-words", "1"])
    assert "5 documents added in the place of 7; 6 in all" in added.stderr
    with load_index(out) as index:
        assert index.pieces_of("a") == [f"a#{number}" for number in range(5)]


def test_bad_lines_are_skipped_by_option(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with corpus.open("a") as file:
        file.write('{"_id": "d3", "text": "again"}\n{"_id": \n')
    assert isinstance(CLI.invoke(app, ["build", str(corpus), str(out)]).exception, DataError)
    built = CLI.invoke(app, ["build", str(corpus), str(out), "--skip-bad"])
    assert built.exit_code == 0
    assert f"2 bad lines skipped: {out / 'rejected.jsonl'}" in built.stderr
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in rejected] == [13, 14]
    more = tmp_path / "more.jsonl"
    more.write_text('{"_id": "new", "text": "a"}\nnone\n')
    added = CLI.invoke(app, ["add", str(out), str(more), "--skip-bad"])
    assert "1 documents added" in added.stderr
    assert "1 bad line skipped" in added.stderr
    assert CLI.invoke(app, ["verify", str(out)]).exit_code == 0


def test_pieces_by_tokens(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path / "out")
    options = ["--chunk-tokens", "4", "--overlap", "1"]
    assert "has no tokenizer" in str(CLI.invoke(app, ["build", str(corpus), out, *options]).exception)
    monkeypatch.setattr(HashEncoder, "tokenizer", tokenizer(), raising=False)
    assert CLI.invoke(app, ["build", str(corpus), out, *options]).exit_code == 0
    found = json.loads(CLI.invoke(app, ["get", out, "d3#0", "d3#1"]).stdout)
    text = "[text] 3"
    assert found[0]["text"] in text
    assert found[1]["metadata"] == {"document": "d3", "chunk": 1}
    both = CLI.invoke(app, ["build", str(corpus), out, *options, "--chunk-words", "2"])
    assert isinstance(both.exception, InputError)


def test_a_data_set_and_a_template(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, asked = str(tmp_path / "out"), {}

    def load(name: str, config: str | None, *, split: str | None, streaming: bool) -> list[dict[str, str]]:
        asked.update(name=name, config=config, split=split, streaming=streaming)
        return [{"_id": "a", "head": "H", "body": "B"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    options = ["--dataset-config", "corpus", "--split", "test", "--template", "{head}: {body}"]
    assert CLI.invoke(app, ["build", "hf:some/set", out, *options]).exit_code == 0
    assert asked == {"name": "some/set", "config": "corpus", "split": "test", "streaming": True}
    assert json.loads(CLI.invoke(app, ["get", out, "a"]).stdout)[0]["text"] == "H: B"
    assert isinstance(CLI.invoke(app, ["build", "hf:some/set", out, "--offline"]).exception, OfflineError)
    assert "need a data set" in str(CLI.invoke(app, ["build", str(corpus), out, "--split", "test"]).exception)


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_no_resume_drops_what_an_interrupted_build_rejected_too(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    out = str(tmp_path / "out")
    with corpus.open("a") as file:
        file.write("broken\n")
    options = ["--shards", "2", "--skip-bad"]
    with monkeypatch.context() as patch:
        patch.setattr(steps, "train_index", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        CLI.invoke(app, ["build", str(corpus), out, *options])
    assert (tmp_path / "out" / "rejected.jsonl").exists()
    if engine == "ray":
        replace_ray(monkeypatch)
    again = CLI.invoke(app, ["build", str(corpus), out, *options, "--no-resume", "--engine", engine])
    assert again.exit_code == 0, again.exception
    assert "1 bad line skipped" in again.stderr


def test_gpus_are_those_of_workers(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, gpus = str(tmp_path / "out"), replace_ray(monkeypatch)
    refused = CLI.invoke(app, ["build", str(corpus), out, "--gpus", "1"])
    assert "--gpus 1 needs --engine ray" in str(refused.exception)
    refused = CLI.invoke(app, ["build", str(corpus), out, "--workers", "8"])
    assert "--workers 8 needs --engine ray" in str(refused.exception)
    built = CLI.invoke(app, ["build", str(corpus), out, "--engine", "ray", "--gpus", "0.5"])
    assert built.exit_code == 0, built.exception
    assert gpus == [0.5]
    assert read_manifest(tmp_path / "out").build.shards == 8


def test_deletes_is_what_auto_goes_by(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisor, "_MOST_FLAT", 5)
    for options, kind in (([], "HNSW32"), (["--deletes"], "SQ8"), (["--deletes", "--shards", "2"], "SQ8")):
        built = CLI.invoke(app, ["build", str(corpus), str(tmp_path / "out"), "--factory", "auto", *options])
        assert built.stdout.startswith(f"{kind}\n"), built.exception


@pytest.mark.parametrize("options", [[], ["--replace"], ["--skip-bad", "--replace"]])
def test_an_id_that_comes_twice_in_a_corpus_is_found_however_far_apart(
    corpus: Path, tmp_path: Path, options: list[str]
) -> None:
    out, more = str(tmp_path / "out"), tmp_path / "more.jsonl"
    CLI.invoke(app, ["build", str(corpus), out])
    names = ["twice", *(f"n{number}" for number in range(600)), "twice"]
    more.write_text("".join(json.dumps({"_id": name, "text": f"t {n}"}) + "\n" for n, name in enumerate(names)))
    added = CLI.invoke(app, ["add", out, str(more), *options])
    if "--skip-bad" in options:
        assert "1 bad line skipped" in added.stderr
        assert "601 documents added in the place of 0" in added.stderr
    else:
        assert isinstance(added.exception, DataError)
        assert "'twice' twice" in str(added.exception)
    assert json.loads(CLI.invoke(app, ["get", out, "twice"]).stdout)[0]["text"] == "t 0"


def test_metadata_with_half_a_character_is_printed_as_json(corpus: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    corpus.write_text(json.dumps({"_id": "a", "text": "x", "note": "cut \ud83d"}))
    CLI.invoke(app, ["build", str(corpus), out])
    printed = CLI.invoke(app, ["get", out, "a"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)[0]["metadata"] == {"note": "cut \ud83d"}
