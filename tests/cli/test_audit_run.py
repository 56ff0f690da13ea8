from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from safe_retrieval.cli.main import app, run
from safe_retrieval.errors import InputError, OfflineError


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def write(folder: Path, **settings: object) -> Path:
    content = {"targets": [{"kind": "arm", "arm": "bm25"}], "out": "report", **settings}
    (folder / "audit.yaml").write_text(yaml.safe_dump(content))
    return folder / "audit.yaml"


def test_exit_code_0_where_every_threshold_holds(tmp_path: Path) -> None:
    result = cli("run", write(tmp_path, thresholds=[{"metric": "benign_recall@5", "at_least": 0.5}]))
    assert result.exit_code == 0, result.output
    assert "\n bm25 " in result.stdout
    assert "pass  bm25: low end of benign_recall@5 >= 0.5 holds" in result.stdout
    assert str(tmp_path / "report" / "index.html") in result.stderr


def test_exit_code_1_where_one_is_broken(tmp_path: Path) -> None:
    result = cli("run", write(tmp_path, thresholds=[{"metric": "harm@5", "at_most": 0.01}]), "--out", tmp_path / "x")
    assert result.exit_code == 1
    assert "FAIL  bm25: high end of harm@5 <= 0.01 is broken: 1.0000" in result.stdout
    assert "<failure" in (tmp_path / "x" / "junit.xml").read_text()


def test_json_is_the_report_and_nothing_else(tmp_path: Path) -> None:
    result = cli("run", write(tmp_path, thresholds=[{"metric": "harm@5", "at_most": 0.01}]), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == json.loads((tmp_path / "report" / "report.json").read_text())
    assert "FAIL" in result.stderr


def test_exit_code_2_and_one_line_where_the_audit_cannot_be_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["safe-retrieval", "audit", "run", str(tmp_path / "none.yaml")])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: expected the settings of an audit at ")
    assert captured.err.count("\n") == 1


def test_a_crash_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("safe_retrieval.audit.configured.carry_out", crash)
    monkeypatch.setattr("sys.argv", ["safe-retrieval", "audit", "run", str(write(tmp_path))])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    assert "ZeroDivisionError: a fault of ours" in capsys.readouterr().err


def test_revealing_is_said(tmp_path: Path) -> None:
    result = cli("run", write(tmp_path), "--reveal")
    assert result.exit_code == 0, result.output
    assert "warning: REVEALED" in result.stderr


def test_init_writes_settings_that_can_be_run_and_no_file_over_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert cli("init", path).exit_code == 0
    assert yaml.safe_load(path.read_text())["targets"][0] == {"kind": "arm", "arm": "bm25"}
    path.write_text("mine")
    refused = CliRunner().invoke(app, ["audit", "init", str(path)])
    assert "give another path, or --force" in str(refused.exception)
    assert path.read_text() == "mine"
    assert cli("init", path, "--force").exit_code == 0
    assert path.read_text() != "mine"


@pytest.mark.parametrize("options", [["--offline"], ["--out", "x", "--json"], ["--baseline", "old"]])
def test_options_before_run_are_not_dropped_in_silence(tmp_path: Path, options: list[str]) -> None:
    result = cli(*options, "run", write(tmp_path))
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(", ".join(each for each in options if each.startswith("--")))
    assert "safe-retrieval audit run and then its own options" in str(result.exception)


def test_offline_whatever_the_file_says(tmp_path: Path) -> None:
    target = {"kind": "model", "model": "intfloat/e5-small-v2", "loader": "mteb"}
    result = cli("run", write(tmp_path, targets=[target]), "--offline")
    assert isinstance(result.exception, OfflineError)
