from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from safe_retrieval.cli.llm2vec import llm2vec
from tests.support.tiny_models import SENTENCES, save_tiny_model

CLI = CliRunner()
APP = typer.Typer()
APP.command()(llm2vec)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "backbone")
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES) + "\n")
    phase = {"steps": 2, "batch_size": 3, "warmup_steps": 1}
    settings = {"backbone": "../backbone", "out": "../runs/own", "files": ["../texts.txt"], "lora_rank": 2}
    path = tmp_path / "configs" / "own.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({**settings, "masked": phase, "contrast": phase}))
    return path


def test_the_folder_is_shown_as_the_next_command_takes_it(config: Path) -> None:
    done = CLI.invoke(APP, [str(config), "--offline"])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()) == Path("runs", "own", "model")
    assert (Path(done.stdout.strip()) / "config.json").is_file()


def test_an_interrupt_is_a_line_and_the_run_goes_on(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("safe_retrieval.training.llm2vec.contrast_loss", stops)
        stopped = CLI.invoke(APP, [str(config), "--offline"])
    assert stopped.exit_code == 130
    assert "goes on where it stopped" in stopped.stderr
    assert CLI.invoke(APP, [str(config), "--offline"]).exit_code == 0
