from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.cli.train import train, train_gate
from safe_retrieval.errors import ConfigError
from safe_retrieval.training import phases, responses
from tests.support.adapters import save_random_adapter
from tests.support.judges import save_judge
from tests.support.tiny_models import save_tiny_model
from tests.support.tiny_training import QUERIES, refuses, write_config

CLI = CliRunner()
APP = typer.Typer()
APP.command()(train)
GATE_APP = typer.Typer()
GATE_APP.command()(train_gate)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFE_RETRIEVAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(responses, "is_refusal", refuses)
    return write_config(tmp_path, save_tiny_model(tmp_path / "backbone"), optimiser={"epochs": 1, "head_epochs": 1})


def test_a_run_its_figures_and_the_same_again_as_json(config: Path) -> None:
    first = CLI.invoke(APP, [str(config), "--offline"])
    assert first.exit_code == 0, first.output
    shown = dict(line.split("  ", 1) for line in first.stdout.splitlines())
    assert shown["adapter"].strip() == str(config.parent / "run" / "adapter")
    assert shown["training queries"].strip() == "40"
    assert "AUROC" in shown["refusal head"]
    assert "nats a token" in shown["reconstruction"]

    again = CLI.invoke(APP, [str(config), "--offline", "--answered-only", "--json"])
    result = json.loads(again.stdout)
    assert (result["queries"], result["held_out_queries"]) == (40, 10)
    assert f"{result['held_out']['cosine']:.3f}" in shown["alignment"]
    record = json.loads((Path(result["adapter"]) / "adapter.json").read_text())
    assert result["weights_sha256"] == record["weights_sha256"]
    assert (Path(result["adapter"]) / "README.md").is_file()


def test_an_interrupt_is_a_line_and_the_run_goes_on(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_rows = phases._batch

    def stops(*_: object) -> list[int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(phases, "_batch", stops)
    stopped = CLI.invoke(APP, [str(config), "--offline"])
    assert stopped.exit_code == 130
    assert "goes on where it stopped" in stopped.stderr
    monkeypatch.setattr(phases, "_batch", take_rows)
    assert CLI.invoke(APP, [str(config), "--offline"]).exit_code == 0


def test_a_faulty_configuration_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("backbone: tiny\nout: run\nqueries: {files: [a.txt]}\noptimiser: {epochs: none}\n")
    result = CLI.invoke(APP, [str(path)])
    assert isinstance(result.exception, ConfigError)
    assert "optimiser.epochs" in str(result.exception)


def test_a_gate_and_its_figures(tmp_path: Path) -> None:
    save_random_adapter(tmp_path / "adapter", LanguageModel.load(str(save_tiny_model(tmp_path / "backbone"))))
    save_judge(tmp_path / "judge", QUERIES)
    (tmp_path / "questions.txt").write_text("\n".join(QUERIES) + "\n")
    gate = {"adapter": "adapter", "judge": "judge/adapter", "out": "gate", "queries": {"files": ["questions.txt"]}}
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(gate))
    shown = CLI.invoke(GATE_APP, [str(tmp_path / "gate.yaml"), "--offline"])
    assert shown.exit_code == 0, shown.output
    assert "50, of which the judge refuses 50.0 %" in shown.stdout
    result = json.loads(CLI.invoke(GATE_APP, [str(tmp_path / "gate.yaml"), "--offline", "--json"]).stdout)
    assert result["adapter"] == str(tmp_path / "gate" / "adapter")
    assert result["gate"].keys() == {"0.5", "0.75", "0.9"}
