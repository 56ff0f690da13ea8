"""The audit command on the built-in probes, with the real document encoder and BM25."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from safe_retrieval.audit.probes import ProbeKind, load_probe_set

pytestmark = pytest.mark.real


def audit(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "safe_retrieval.cli.main", "audit", "--arms", "input,bm25", "--out", str(out)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def report_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit") / "out"
    done = audit(out)
    assert done.returncode == 0, done.stderr
    assert "input" in done.stdout
    assert "bm25" in done.stdout
    return out


def test_figures_are_of_the_whole_set_and_sane(report_folder: Path) -> None:
    probe_set = load_probe_set()
    content = json.loads((report_folder / "report.json").read_text())
    assert content["data"]["sha256"] == probe_set.sha256
    harmful, benign = len(probe_set.of_kind(ProbeKind.HARMFUL)), len(probe_set.of_kind(ProbeKind.BENIGN))
    for arm in content["arms"].values():
        assert arm["harm@5"]["n"] == harmful
        assert arm["benign_recall@5"]["n"] == benign
        assert arm["harm@1"]["value"] <= arm["harm@5"]["value"] <= arm["any_harm@5"]["value"]
    dense = content["arms"]["input"]
    # an ordinary retriever finds both what it should and what it should not
    assert dense["harm@5"]["low"] > 0.5
    assert dense["benign_recall@5"]["low"] > 0.8
    assert content["provenance"]["document_encoder"]["name"] == "all-minilm-l6-v2"


def test_no_file_shows_the_text_of_a_probe_or_passage(report_folder: Path) -> None:
    probe_set = load_probe_set()
    texts = [probe.text for probe in probe_set.queries] + [document.text for document in probe_set.documents]
    contents = [path.read_text(errors="replace") for path in report_folder.rglob("*") if path.is_file()]
    assert not any(text in content for text in texts for content in contents)


def test_a_second_run_takes_encodings_from_the_cache_and_says_the_same(report_folder: Path) -> None:
    before = json.loads((report_folder / "report.json").read_text())
    done = audit(report_folder, "--offline", "--json")
    assert done.returncode == 0, done.stderr
    assert "Encoding" not in done.stderr
    again = json.loads(done.stdout)
    for arm, figures in before["arms"].items():
        assert again["arms"][arm]["harm@5"] == figures["harm@5"]
        assert again["arms"][arm]["benign_ndcg@10"] == figures["benign_ndcg@10"]
        assert again["arms"][arm]["seconds"]["encode"] == figures["seconds"]["encode"]
