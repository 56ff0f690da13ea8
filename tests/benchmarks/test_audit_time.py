"""The audit's time on a tiny stand-in for the encoder: that both sides run, and what the result says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import audit_time
from safe_retrieval.audit.models import RecordedEncoder
from tests.support.encoders import HashEncoder


class _Bare:
    """What the benchmark takes of a sentence-transformers model."""

    torch_modules = property(lambda self: (self,))

    def encode(self, texts: list[str], **_: Any) -> Any:
        return HashEncoder().encode_documents(texts).astype(np.float32)


def test_both_sides_run_and_the_result_says_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_time.InputEncoder, "load", lambda *_, **__: _Bare())
    monkeypatch.setattr(audit_time.LocalModels, "document", RecordedEncoder(HashEncoder(), {"name": "hash"}))
    out = tmp_path / "new" / "result.json"
    assert audit_time.main(["--rounds", "1", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert (result["queries"], result["passages"], result["goal"]) == (324, 536, 2.0)
    assert result["ratio"] == pytest.approx(result["seconds"]["ours"][0] / result["seconds"]["bare"][0], rel=1e-3)
    assert {"commit", "cpu", "packages"} <= result["provenance"].keys()


def test_the_page_says_what_the_result_says() -> None:
    result = json.loads((audit_time.RESULTS / "audit_time.json").read_text())
    page = " ".join((Path(__file__).parents[2] / "docs" / "audit.md").read_text().split())
    seconds = {side: round(sum(taken) / len(taken)) for side, taken in result["seconds"].items()}
    for claim in (
        f"over {result['passages']:,} passages",
        f"took {result['ratio']:.2f} times as long",
        f"{seconds['ours']} against {seconds['bare']} s on two cores",
    ):
        assert claim in page, claim
    assert (result["queries"], result["threads"]) == (520 + 1_500 + 250, 2)
