from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safe_retrieval.cli.bench import names
from safe_retrieval.cli.main import app
from safe_retrieval.encoder.shipped import shipped_adapter
from safe_retrieval.errors import InputError
from safe_retrieval.training.config import TrainingConfig
from tests.bench.support import FakeModels, adopt, write_data
from tests.support.package_source import REPOSITORY


def test_records_are_listed() -> None:
    shown = CliRunner().invoke(app, ["bench", "list"])
    assert shown.exit_code == 0
    assert "arc-challenge" in shown.stdout
    listed = json.loads(CliRunner().invoke(app, ["bench", "list", "--json"]).stdout)
    assert listed["tasks"]["mteb-lite"]["members"][0] == "ArguAna"
    assert listed["arms"]["hyde-4"]["samples"] == 4


def test_a_run_writes_results_and_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_data(tmp_path / "data")
    adopt(monkeypatch, data)
    monkeypatch.setattr("safe_retrieval.bench.models.BenchModels", lambda *_, **__: FakeModels())
    words = ["bench", "run", "--data", str(data), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    done = CliRunner().invoke(app, [*words, "--tasks", "scifact,stsbenchmark", "--arms", "bm25", "--json"])
    assert done.exit_code == 0, done.output
    outcomes = json.loads(done.stdout)
    assert [outcome["status"] for outcome in outcomes] == ["written", "unsupported"]
    assert Path(outcomes[0]["path"]).is_file()
    assert "scifact          bm25                 written" in done.stderr


def test_an_ablation_is_trained_and_measured_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_data(tmp_path / "data")
    adopt(monkeypatch, data)
    monkeypatch.setattr("safe_retrieval.bench.measure._RESAMPLES", 20)
    monkeypatch.setenv("SAFE_RETRIEVAL_DATA", "")  # the command sets it; this puts it back
    monkeypatch.chdir(tmp_path)
    trained = []

    def train(config: TrainingConfig, *, offline: bool) -> Path:
        trained.append(
            (config.adapter.compression_tokens, config.queries.count, config.queries.files[0].parent, offline)
        )
        return shipped_adapter("qwen2.5-coder-0.5b-instruct")

    monkeypatch.setattr("safe_retrieval.training.trainer.train", train)
    monkeypatch.setattr("safe_retrieval.bench.models.BenchModels", lambda *_, **__: FakeModels())
    file = REPOSITORY / "benchmarks" / "ablations.yaml"
    words = ["bench", "ablate", "compression-tokens-5", "--queries", "2304", "--tasks", "harm"]
    words += ["--data", "data", "--file", str(file), "--offline"]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    done = CliRunner().invoke(app, [*words, *places])
    assert done.exit_code == 0, done.output
    assert trained == [(5, 2304, data / "train-queries", True)]
    results = tmp_path / "out" / "ablation-compression-tokens-5-of-2304"
    assert (results / "harm" / "gated.json").is_file()
    training = json.loads((results / "training.json").read_text())
    assert training["changes"] == {"adapter": {"compression_tokens": 5}}
    assert training["held_out"]["cosine"] > 0.5


def test_groups_are_spelled_out() -> None:
    assert names("fast, extra,fast", {"fast": ("a", "b")}) == ["a", "b", "extra"]
    with pytest.raises(InputError, match="separated by commas"):
        names(" , ", {"fast": ("a",)})
